((method_declaration name: (identifier) @name body: (block) @main) (#eq? @name "Main"))
(property_declaration accessors: (accessor_list (accessor_declaration body: (block))) @accessor)
