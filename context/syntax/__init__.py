"""Text, syntax trees and definitions of single files, in every language we know."""

__all__ = [
    "chunk",
    "document",
    "language",
    "names",
    "notebook",
    "outline",
    "parsed_text",
    "parser",
    "secrets",
    "text",
    "tokens",
    "trim",
]
