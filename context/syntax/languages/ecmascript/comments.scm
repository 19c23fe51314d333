((comment) @doc (#match? @doc "^/\\*\\*"))
((comment) @comment (#not-match? @comment "^/\\*\\*"))
