"""GGUF files: headers, tensor types, and reading them from disk or a server within bounds."""

__all__ = ["header", "hub_name", "reader", "remote", "tensor_types"]
