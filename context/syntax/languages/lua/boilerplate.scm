(function_declaration body: (block . (return_statement (expression_list (dot_index_expression))) .) @accessor)
((function_declaration
  name: (_ [field: (identifier) method: (identifier)] @name)
  body: (block . (assignment_statement (variable_list . name: (dot_index_expression) .)) .) @accessor)
  (#match? @name "^set"))
