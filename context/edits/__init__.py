"""What was edited, and the edits that follow from it, by rules or by a model. Pure."""

__all__ = [
    "gate",
    "history",
    "imports",
    "model_edits",
    "renames",
    "siblings",
    "signatures",
    "types",
]
