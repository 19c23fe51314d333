"""Finds code elsewhere that helps at a cursor, and scores it."""

__all__ = ["definition_lookup", "lexical_search", "name_usage", "query"]
