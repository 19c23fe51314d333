"""Which engines and models the daemon serves, and how a model is exchanged."""

__all__ = ["engines", "loading", "served_models"]
