"""GGUF files: headers and tensor types, read from disk or a server within bounds."""

__all__ = [
    "header",
    "reader",
    "remote",
]
