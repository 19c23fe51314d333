((function_definition
  declarator: (function_declarator declarator: (identifier) @name) body: (compound_statement) @main)
  (#eq? @name "main"))

((function_definition
  declarator: (function_declarator declarator: (field_identifier) @name)
  body: (compound_statement . (return_statement (identifier)) .) @accessor)
  (#match? @name "^(get|is)"))
((function_definition
  declarator: (function_declarator declarator: (field_identifier) @name)
  body: (compound_statement . (expression_statement (assignment_expression)) .) @accessor)
  (#match? @name "^set"))
