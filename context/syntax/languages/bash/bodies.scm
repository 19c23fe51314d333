(function_definition body: (compound_statement) @body)
(array) @literal
[(heredoc_body) (string_content)] @text
