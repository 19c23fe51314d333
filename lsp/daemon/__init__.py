"""The language server's connection to the daemon, and what it knows of the served model."""

__all__ = ["backend", "model"]
