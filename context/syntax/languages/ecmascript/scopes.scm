; See the one of Python.
[(function_declaration) (function_expression) (generator_function_declaration) (arrow_function)
 (method_definition) (statement_block) (for_statement) (for_in_statement) (catch_clause)] @scope
(class_declaration) @class
(function_declaration name: (identifier) @outer)
(generator_function_declaration name: (identifier) @outer)
(rest_pattern (identifier) @name)
(arrow_function parameter: (identifier) @name)
(variable_declarator name: (identifier) @name)
(array_pattern (identifier) @name)
(object_pattern (shorthand_property_identifier_pattern) @name)
(pair_pattern value: (identifier) @name)
(for_in_statement left: (identifier) @name)
(catch_clause parameter: (identifier) @name)
(import_clause (identifier) @name)
(import_specifier !alias name: (identifier) @name)
(import_specifier alias: (identifier) @name)
(namespace_import (identifier) @name)
(method_definition name: (property_identifier) @outer)
