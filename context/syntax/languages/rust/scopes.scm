; See the one of Python.
[(function_item) (closure_expression) (block) (for_expression) (match_arm) (if_expression)] @scope
[(impl_item) (trait_item)] @class
(function_item name: (identifier) @outer)
(struct_item name: (type_identifier) @name)
(enum_item name: (type_identifier) @name)
(const_item name: (identifier) @name)
(static_item name: (identifier) @name)
(parameter pattern: (identifier) @name)
(closure_parameters (identifier) @name)
(let_declaration pattern: (identifier) @name)
(let_declaration pattern: (mut_pattern (identifier) @name))
(tuple_pattern (identifier) @name)
(tuple_struct_pattern (identifier) @name)
(for_expression pattern: (identifier) @name)
(use_declaration argument: (scoped_identifier name: (identifier) @name))
