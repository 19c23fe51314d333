((if_statement
  condition: (comparison_operator (identifier) @left)
  consequence: (block) @main)
  (#eq? @left "__name__"))
((decorated_definition
  (decorator (identifier) @mark)
  definition: (function_definition body: (block . (return_statement) .) @accessor))
  (#eq? @mark "property"))
((decorated_definition
  (decorator (attribute attribute: (identifier) @mark))
  definition: (function_definition body: (block . (expression_statement (assignment)) .) @accessor))
  (#eq? @mark "setter"))
