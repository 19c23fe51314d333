(function_definition
  declarator: [
    (function_declarator declarator: (_) @name)
    (pointer_declarator declarator: (function_declarator declarator: (_) @name))
  ]
  body: (compound_statement) @body) @function
(struct_specifier name: (_) @name body: (_) @body) @class
(union_specifier name: (_) @name body: (_) @body) @class
(enum_specifier name: (_) @name body: (_) @body) @class
(type_definition declarator: (type_identifier) @name) @value
(preproc_def name: (identifier) @name) @value
(preproc_function_def name: (identifier) @name) @function
(translation_unit (declaration declarator: (function_declarator declarator: (identifier) @name)) @function)
(translation_unit
  (declaration declarator: (pointer_declarator declarator: (function_declarator declarator: (identifier) @name))) @function)
(translation_unit (declaration declarator: (init_declarator declarator: (identifier) @name)) @value)
(preproc_ifdef (declaration declarator: (function_declarator declarator: (identifier) @name)) @function)
(preproc_ifdef
  (declaration declarator: (pointer_declarator declarator: (function_declarator declarator: (identifier) @name))) @function)
(preproc_ifdef (declaration declarator: (init_declarator declarator: (identifier) @name)) @value)
(preproc_if (declaration declarator: (function_declarator declarator: (identifier) @name)) @function)
(preproc_if
  (declaration declarator: (pointer_declarator declarator: (function_declarator declarator: (identifier) @name))) @function)
(preproc_if (declaration declarator: (init_declarator declarator: (identifier) @name)) @value)
(declaration_list (declaration declarator: (function_declarator declarator: (identifier) @name)) @function)
(declaration_list
  (declaration declarator: (pointer_declarator declarator: (function_declarator declarator: (identifier) @name))) @function)
(declaration_list (declaration declarator: (init_declarator declarator: (identifier) @name)) @value)

(class_specifier name: (_) @name body: (_) @body) @class
(namespace_definition name: (_) @name body: (_) @body) @scope
(function_definition
  declarator: (reference_declarator (function_declarator declarator: (_) @name))
  body: (compound_statement) @body) @function
(field_declaration_list (field_declaration declarator: (function_declarator declarator: (_) @name)) @function)
(alias_declaration name: (type_identifier) @name) @value
