; See the one of Python. A tag is bound wherever it stands, so that it is never mistaken for a
; variable of the same name. Parameters of a declaration without a body are bound nowhere.
[(function_definition) (compound_statement) (for_statement)] @scope
(function_definition declarator: [
  (function_declarator declarator: (identifier) @outer)
  (pointer_declarator declarator: (function_declarator declarator: (identifier) @outer))])
(function_definition declarator: [
  (function_declarator parameters: (parameter_list (parameter_declaration declarator: [
    (identifier) @name
    (pointer_declarator declarator: (identifier) @name)
    (array_declarator declarator: (identifier) @name)])))
  (pointer_declarator declarator: (function_declarator
    parameters: (parameter_list (parameter_declaration declarator: [
      (identifier) @name
      (pointer_declarator declarator: (identifier) @name)
      (array_declarator declarator: (identifier) @name)]))))])
(declaration declarator: [
  (identifier) @name
  (pointer_declarator declarator: (identifier) @name)
  (array_declarator declarator: (identifier) @name)])
(init_declarator declarator: [
  (identifier) @name
  (pointer_declarator declarator: (identifier) @name)
  (array_declarator declarator: (identifier) @name)])
[(struct_specifier name: (type_identifier) @name)
 (union_specifier name: (type_identifier) @name)
 (enum_specifier name: (type_identifier) @name)]
(enumerator name: (identifier) @name)
(type_definition declarator: (type_identifier) @name)
(preproc_def name: (identifier) @name)
(preproc_function_def name: (identifier) @name)
