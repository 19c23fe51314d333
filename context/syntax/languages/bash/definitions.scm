(function_definition name: (word) @name body: (compound_statement) @body) @function
(program (variable_assignment name: (variable_name) @name) @value)
(program (declaration_command (variable_assignment name: (variable_name) @name)) @value)
