(method_declaration body: (block) @body)
(constructor_declaration body: (block) @body)
(lambda_expression body: (block) @body)
(local_function_statement body: (block) @body)
(initializer_expression) @literal
(string_literal_content) @text
