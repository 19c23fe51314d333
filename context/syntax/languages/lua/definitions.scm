(function_declaration name: (_) @name body: (block)? @body) @function
(chunk (variable_declaration
  (assignment_statement
    (variable_list . name: (identifier) @name .)
    (expression_list . value: [(table_constructor) (number) (string)] .))) @value)
(assignment_statement
  (variable_list . name: (_) @name)
  (expression_list . value: (function_definition body: (block) @body))) @function
