"""Open documents: text, versions, positions, and the place where a suggestion goes."""

__all__ = ["document", "notebooks", "site", "uri"]
