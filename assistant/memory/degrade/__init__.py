"""Gives memory back while running: the context budget, the ladder and its rungs."""

__all__ = ["budget", "ladder"]
