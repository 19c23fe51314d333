((function_item name: (identifier) @name body: (block) @main) (#eq? @name "main"))
(function_item body: (block "{" . [(field_expression) (reference_expression value: (field_expression))] . "}") @accessor)
((function_item
  name: (identifier) @name
  body: (block "{" . (expression_statement (assignment_expression left: (field_expression))) . "}") @accessor)
  (#match? @name "^set_"))
