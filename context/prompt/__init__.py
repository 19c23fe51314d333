"""Builds prompts: what goes into them, how much of it, and in which order."""

__all__ = ["builder", "head", "window"]
