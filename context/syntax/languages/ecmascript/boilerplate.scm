(method_definition "get" body: (statement_block . (return_statement) .) @accessor)
(method_definition "set" body: (statement_block . (expression_statement (assignment_expression)) .) @accessor)
((if_statement
  condition: (parenthesized_expression (binary_expression left: (_) @left right: (_) @right))
  consequence: (statement_block) @main)
  (#eq? @left "require.main")
  (#eq? @right "module"))
((if_statement
  condition: (parenthesized_expression (member_expression) @left)
  consequence: (statement_block) @main)
  (#eq? @left "import.meta.main"))
((method_definition
  name: (property_identifier) @name
  body: (statement_block . (return_statement (member_expression object: (this))) .) @accessor)
  (#match? @name "^(get|is)[A-Z]"))
((method_definition
  name: (property_identifier) @name
  body: (statement_block . (expression_statement (assignment_expression left: (member_expression object: (this)))) .) @accessor)
  (#match? @name "^set[A-Z]"))
