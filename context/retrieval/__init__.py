"""Finds code elsewhere that helps at a cursor, and scores it."""

__all__ = ["candidates", "definition_lookup", "name_usage", "query"]
