; See the one of Python.
[(function_declaration) (method_declaration) (func_literal) (block) (for_statement)
 (if_statement)] @scope
(function_declaration name: (identifier) @outer)
(type_spec name: (type_identifier) @name)
(parameter_declaration name: (identifier) @name)
(variadic_parameter_declaration name: (identifier) @name)
(short_var_declaration left: (expression_list (identifier) @name))
(range_clause left: (expression_list (identifier) @name))
(var_spec name: (identifier) @name)
(const_spec name: (identifier) @name)
