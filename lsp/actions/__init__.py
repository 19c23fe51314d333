"""Code actions: what is offered where, explanations, and edits that are shown before made; and the
model for the editor's own chat."""

__all__ = ["chat_models", "document_range", "feature"]
