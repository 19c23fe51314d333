(method_definition "get" body: (statement_block . (return_statement) .) @accessor)
(method_definition "set" body: (statement_block . (expression_statement (assignment_expression)) .) @accessor)
((if_statement
  condition: (parenthesized_expression (binary_expression left: (_) @left right: (_) @right))
  consequence: (statement_block) @main)
  (#eq? @left "require.main")
  (#eq? @right "module"))
