(abstract_class_declaration) @class
(class_declaration name: (type_identifier) @outer)
(abstract_class_declaration name: (type_identifier) @outer)
(interface_declaration name: (type_identifier) @name)
(type_alias_declaration name: (type_identifier) @name)
(enum_declaration name: (identifier) @name)
(required_parameter pattern: (identifier) @name)
(optional_parameter pattern: (identifier) @name)
(public_field_definition name: (property_identifier) @name)
