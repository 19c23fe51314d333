((block_comment) @doc (#match? @doc "^/\\*\\*"))
((block_comment) @comment (#not-match? @comment "^/\\*\\*"))
(line_comment) @comment
