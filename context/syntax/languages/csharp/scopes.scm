; See the one of Python.
[(method_declaration) (constructor_declaration) (local_function_statement) (lambda_expression)
 (block) (for_statement) (foreach_statement) (catch_clause) (accessor_declaration)] @scope
[(class_declaration) (struct_declaration) (record_declaration) (interface_declaration)] @class
[(class_declaration name: (identifier) @outer)
 (struct_declaration name: (identifier) @outer)
 (record_declaration name: (identifier) @outer)
 (interface_declaration name: (identifier) @outer)
 (method_declaration name: (identifier) @outer)
 (local_function_statement name: (identifier) @outer)]
(enum_declaration name: (identifier) @name)
(property_declaration name: (identifier) @name)
(parameter name: (identifier) @name)
(variable_declarator name: (identifier) @name)
(foreach_statement left: (identifier) @name)
(catch_declaration name: (identifier) @name)
(declaration_expression name: (identifier) @name)
(declaration_pattern name: (identifier) @name)
(lambda_expression parameters: (implicit_parameter) @name)
