"""Code actions: what is offered where, explanations, and edits that are shown before made."""

__all__ = ["document_range", "feature"]
