((method_declaration
  name: (identifier) @name body: (block . (return_statement [(identifier) (field_access)]) .) @accessor)
  (#match? @name "^(get|is)[A-Z]"))
((method_declaration
  name: (identifier) @name
  body: (block . (expression_statement (assignment_expression)) .) @accessor)
  (#match? @name "^set[A-Z]"))
((method_declaration name: (identifier) @name body: (block) @main) (#eq? @name "main"))
