"""Inline completion: when to request, what to request, where it ends, what is shown."""

__all__ = ["completion_stream", "prompts", "session", "suggestion"]
