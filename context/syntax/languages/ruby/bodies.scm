(method body: (body_statement) @body)
(singleton_method body: (body_statement) @body)
[(array) (hash)] @literal
(string_content) @text
