"""A model's layers, parameters, KV cache and tensors, computed from its header."""

__all__ = ["architecture", "known_models", "profile"]
