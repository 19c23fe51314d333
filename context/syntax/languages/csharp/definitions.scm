(class_declaration name: (identifier) @name body: (_) @body) @class
(struct_declaration name: (identifier) @name body: (_) @body) @class
(interface_declaration name: (identifier) @name body: (_) @body) @class
(record_declaration name: (identifier) @name) @class
(enum_declaration name: (identifier) @name body: (_) @body) @class
(namespace_declaration name: (_) @name body: (_) @body) @scope
(method_declaration name: (identifier) @name body: (_)? @body) @function
(constructor_declaration name: (identifier) @name body: (_) @body) @function
(property_declaration name: (identifier) @name) @value
(field_declaration (variable_declaration (variable_declarator name: (identifier) @name))) @value
(delegate_declaration name: (identifier) @name) @value
