"""A model's layers, parameters, KV cache and tensors, computed from its header."""

__all__ = ["known_models", "kv_cache", "profile", "tensor_inventory"]
