((function_definition
  declarator: (function_declarator declarator: (identifier) @name) body: (compound_statement) @main)
  (#eq? @name "main"))
