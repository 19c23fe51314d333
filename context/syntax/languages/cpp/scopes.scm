; See the one of Python, and that of C about tags and declarations.
[(function_definition) (compound_statement) (for_statement) (for_range_loop) (lambda_expression)
 (catch_clause) (template_declaration)] @scope
[(class_specifier) (struct_specifier)] @class
(function_definition declarator: [
  (function_declarator declarator: [(identifier) (field_identifier)] @outer)
  (pointer_declarator declarator: (function_declarator
    declarator: [(identifier) (field_identifier)] @outer))
  (reference_declarator (function_declarator
    declarator: [(identifier) (field_identifier)] @outer))])
(function_definition declarator: [
  (function_declarator parameters: (parameter_list (_ declarator: [
    (identifier) @name
    (pointer_declarator declarator: (identifier) @name)
    (reference_declarator (identifier) @name)
    (array_declarator declarator: (identifier) @name)])))
  (pointer_declarator declarator: (function_declarator parameters: (parameter_list (_ declarator: [
    (identifier) @name
    (pointer_declarator declarator: (identifier) @name)
    (reference_declarator (identifier) @name)
    (array_declarator declarator: (identifier) @name)]))))
  (reference_declarator (function_declarator parameters: (parameter_list (_ declarator: [
    (identifier) @name
    (pointer_declarator declarator: (identifier) @name)
    (reference_declarator (identifier) @name)
    (array_declarator declarator: (identifier) @name)]))))])
(lambda_expression declarator: (_ parameters: (parameter_list (_ declarator: [
  (identifier) @name
  (pointer_declarator declarator: (identifier) @name)
  (reference_declarator (identifier) @name)]))))
(catch_clause parameters: (parameter_list (_ declarator: [
  (identifier) @name
  (reference_declarator (identifier) @name)])))
(declaration declarator: [
  (identifier) @name
  (pointer_declarator declarator: (identifier) @name)
  (reference_declarator (identifier) @name)
  (array_declarator declarator: (identifier) @name)])
(init_declarator declarator: [
  (identifier) @name
  (pointer_declarator declarator: (identifier) @name)
  (reference_declarator (identifier) @name)
  (array_declarator declarator: (identifier) @name)])
(for_range_loop declarator: [
  (identifier) @name
  (pointer_declarator declarator: (identifier) @name)
  (reference_declarator (identifier) @name)])
(structured_binding_declarator (identifier) @name)
(field_declaration declarator: [
  (field_identifier) @name
  (pointer_declarator declarator: (field_identifier) @name)
  (reference_declarator (field_identifier) @name)
  (array_declarator declarator: (field_identifier) @name)
  (function_declarator declarator: (field_identifier) @name)
  (pointer_declarator declarator: (function_declarator declarator: (field_identifier) @name))
  (reference_declarator (function_declarator declarator: (field_identifier) @name))])
[(class_specifier name: (type_identifier) @outer)
 (struct_specifier name: (type_identifier) @outer)
 (union_specifier name: (type_identifier) @name)
 (enum_specifier name: (type_identifier) @name)]
(enumerator name: (identifier) @name)
(type_definition declarator: (type_identifier) @name)
(alias_declaration name: (type_identifier) @name)
(preproc_def name: (identifier) @name)
(preproc_function_def name: (identifier) @name)
