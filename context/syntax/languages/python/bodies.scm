(function_definition body: (block) @body)
[(list) (dictionary) (set) (tuple)] @literal
(string_content) @text
