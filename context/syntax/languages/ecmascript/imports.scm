(import_statement
  (import_clause (identifier) @alias)
  source: (string (string_fragment) @module)) @import
(import_statement
  (import_clause (named_imports) @names)
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
    name: (object_pattern) @names
    value: (call_expression
      function: (identifier) @require
      arguments: (arguments . (string (string_fragment) @module) .)))) @import
  (#eq? @require "require"))
