(function_declaration body: (block) @body)
(method_declaration body: (block) @body)
(func_literal body: (block) @body)
(literal_value) @literal
[(interpreted_string_literal_content) (raw_string_literal_content)] @text
