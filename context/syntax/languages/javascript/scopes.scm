(class_declaration name: (identifier) @outer)
(formal_parameters (identifier) @name)
(formal_parameters (assignment_pattern left: (identifier) @name))
(field_definition property: (property_identifier) @name)
