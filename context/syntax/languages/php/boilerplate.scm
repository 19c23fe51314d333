((method_declaration
  name: (name) @name body: (compound_statement . (return_statement (member_access_expression)) .) @accessor)
  (#match? @name "^(get|is)[A-Z]"))
((method_declaration
  name: (name) @name
  body: (compound_statement . (expression_statement (assignment_expression)) .) @accessor)
  (#match? @name "^set[A-Z]"))
