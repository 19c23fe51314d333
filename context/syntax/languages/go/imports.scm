(import_declaration (import_spec !name path: (interpreted_string_literal (interpreted_string_literal_content) @module))) @import
(import_declaration (import_spec name: (_) @alias path: (interpreted_string_literal (interpreted_string_literal_content) @module))) @import
(import_declaration (import_spec_list (import_spec !name path: (interpreted_string_literal (interpreted_string_literal_content) @module) @import)))
(import_declaration (import_spec_list (import_spec name: (_) @alias path: (interpreted_string_literal (interpreted_string_literal_content) @module) @import)))
