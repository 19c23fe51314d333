(function_declaration name: (identifier) @name body: (block) @body) @function
(method_declaration name: (field_identifier) @name body: (block) @body) @function
(type_declaration (type_spec name: (type_identifier) @name type: (_) @body)) @class
(type_declaration (type_alias name: (type_identifier) @name)) @value
(source_file (const_declaration (const_spec name: (identifier) @name)) @value)
(source_file (var_declaration (var_spec name: (identifier) @name)) @value)
