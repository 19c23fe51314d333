(import_declaration (scoped_identifier name: (identifier) @alias) @module .) @import
(import_declaration (scoped_identifier) @module (asterisk)) @import
