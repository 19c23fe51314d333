((function_item name: (identifier) @name body: (block) @main) (#eq? @name "main"))
(function_item body: (block "{" . [(field_expression) (reference_expression value: (field_expression))] . "}") @accessor)
