"""Text, syntax trees and definitions of single files, in every language we know."""

__all__ = ["document", "language", "secrets", "syntax_tree", "text", "trim"]
