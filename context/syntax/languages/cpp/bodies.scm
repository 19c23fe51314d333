(function_definition body: (compound_statement) @body)
(initializer_list) @literal
(string_content) @text
(lambda_expression body: (compound_statement) @body)
