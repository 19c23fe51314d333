((if condition: (binary left: (_) @left) consequence: (then) @main) (#eq? @left "__FILE__"))
(method body: (body_statement . (instance_variable) .) @accessor)
(method name: (setter) body: (body_statement . (assignment left: (instance_variable)) .) @accessor)
