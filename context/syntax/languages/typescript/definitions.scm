(abstract_class_declaration name: (_) @name body: (class_body) @body) @class
(interface_declaration name: (_) @name body: (_) @body) @class
(enum_declaration name: (_) @name body: (_) @body) @class
(type_alias_declaration name: (_) @name) @value
(internal_module name: (_) @name body: (statement_block) @body) @scope
(function_signature name: (identifier) @name) @function
