"""Open documents: text, versions, positions, and the place where a suggestion goes."""

__all__ = ["document", "site", "uri"]
