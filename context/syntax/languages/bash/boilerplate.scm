((function_definition name: (word) @name body: (compound_statement) @main) (#eq? @name "usage"))
