((line_comment) @doc (#match? @doc "^//[/!]"))
((line_comment) @comment (#not-match? @comment "^//[/!]"))
(block_comment) @comment
