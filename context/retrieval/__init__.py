"""Finds code elsewhere that helps at a cursor, and scores it."""

__all__ = ["candidates", "import_paths", "query", "rank", "undefined_names", "unused_names"]
