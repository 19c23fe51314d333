(function_definition body: (compound_statement) @body)
(initializer_list) @literal
(string_content) @text
