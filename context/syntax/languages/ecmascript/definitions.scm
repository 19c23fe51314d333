(function_declaration name: (identifier) @name body: (statement_block) @body) @function
(generator_function_declaration name: (identifier) @name body: (statement_block) @body) @function
(class_declaration name: (_) @name body: (class_body) @body) @class
(method_definition name: (_) @name body: (statement_block) @body) @function
(program
  [(lexical_declaration (variable_declarator
     name: (identifier) @name value: [(arrow_function body: (_) @body) (function_expression body: (_) @body)]))
   (export_statement declaration: (lexical_declaration (variable_declarator
     name: (identifier) @name value: [(arrow_function body: (_) @body) (function_expression body: (_) @body)])))
  ] @function)
(program (lexical_declaration (variable_declarator
  name: (identifier) @name value: [(object) (array) (number) (string) (new_expression) (call_expression)])) @value)
(program (export_statement declaration: (lexical_declaration (variable_declarator
  name: (identifier) @name
  value: [(object) (array) (number) (string) (new_expression) (call_expression)]))) @value)
