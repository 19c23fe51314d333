; See the one of Python.
[(method_declaration) (constructor_declaration) (lambda_expression) (block) (for_statement)
 (enhanced_for_statement) (catch_clause)] @scope
(class_declaration) @class
(class_declaration name: (identifier) @outer)
(method_declaration name: (identifier) @outer)
(formal_parameter name: (identifier) @name)
(variable_declarator name: (identifier) @name)
(enhanced_for_statement name: (identifier) @name)
(lambda_expression parameters: (identifier) @name)
(inferred_parameters (identifier) @name)
(catch_formal_parameter name: (identifier) @name)
