(namespace_use_declaration (namespace_use_clause (qualified_name (name) @alias .) @module !alias)) @import
(namespace_use_declaration (namespace_use_clause (qualified_name) @module alias: (name) @alias)) @import
(expression_statement
  [(require_once_expression (string (string_content) @module)) (require_expression (string (string_content) @module))]) @import
