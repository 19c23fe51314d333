(function_declaration body: (block . (return_statement (expression_list (dot_index_expression))) .) @accessor)
