"""Which engines and models the daemon serves, and how a model is exchanged."""

__all__ = ["engines", "loading", "memory_reservations", "model_swap"]
