(comment) @comment
(module . (comment)* . (expression_statement . (string) .) @doc)
(class_definition body: (block . (expression_statement . (string) .) @doc))
(function_definition body: (block . (expression_statement . (string) .) @doc))
