(import_statement
  (import_clause (identifier) @alias)
  source: (string (string_fragment) @module)) @import
(import_statement
  (import_clause (named_imports (import_specifier name: (identifier) @name !alias)))
  source: (string (string_fragment) @module)) @import
(import_statement
  (import_clause
    (named_imports (import_specifier name: (identifier) @name alias: (identifier) @alias)))
  source: (string (string_fragment) @module)) @import
(import_statement
  (import_clause (namespace_import (identifier) @alias))
  source: (string (string_fragment) @module)) @import
(import_statement . source: (string (string_fragment) @module)) @import
((lexical_declaration
  (variable_declarator
    name: (identifier) @alias
    value: (call_expression
      function: (identifier) @require
      arguments: (arguments . (string (string_fragment) @module) .)))) @import
  (#eq? @require "require"))
((lexical_declaration
  (variable_declarator
    name: (object_pattern (shorthand_property_identifier_pattern) @name)
    value: (call_expression
      function: (identifier) @require
      arguments: (arguments . (string (string_fragment) @module) .)))) @import
  (#eq? @require "require"))
