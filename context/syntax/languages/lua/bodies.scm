(function_declaration body: (block) @body)
(function_definition body: (block) @body)
(table_constructor) @literal
(string_content) @text
