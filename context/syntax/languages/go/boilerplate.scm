((function_declaration name: (identifier) @name body: (block) @main) (#eq? @name "main"))
(method_declaration
  name: (field_identifier)
  body: (block "{" . (statement_list . (return_statement (expression_list . (selector_expression) .)) .) . "}") @accessor)
((method_declaration
  name: (field_identifier) @name
  body: (block "{" . (statement_list . (assignment_statement left: (expression_list . (selector_expression) .)) .) . "}") @accessor)
  (#match? @name "^Set"))
