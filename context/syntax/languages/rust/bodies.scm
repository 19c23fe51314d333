(function_item body: (block) @body)
(closure_expression body: (block) @body)
[(array_expression) (token_tree)] @literal
(string_content) @text
