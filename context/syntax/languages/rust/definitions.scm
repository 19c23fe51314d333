(function_item name: (identifier) @name body: (block) @body) @function
(function_signature_item name: (identifier) @name) @function
(struct_item name: (type_identifier) @name body: (_)? @body) @class
(enum_item name: (type_identifier) @name body: (_) @body) @class
(union_item name: (type_identifier) @name body: (_) @body) @class
(trait_item name: (type_identifier) @name body: (_) @body) @class
(impl_item type: (_) @name body: (_) @body) @class
(mod_item name: (identifier) @name body: (_) @body) @scope
(macro_definition name: (identifier) @name) @function
(const_item name: (identifier) @name) @value
(static_item name: (identifier) @name) @value
(type_item name: (type_identifier) @name) @value
