"""The way to the daemon: starts it when needed, streams answers, cancels what is closed."""

__all__ = ["client", "events", "starter"]
