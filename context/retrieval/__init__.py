"""Finds code elsewhere that helps at a cursor, and scores it."""

__all__ = ["candidates", "query", "rank", "undefined_names", "unused_names"]
