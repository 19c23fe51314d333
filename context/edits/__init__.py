"""What was edited, and the edits that follow from it without a model. Pure."""

__all__ = [
    "gate",
    "history",
    "imports",
    "project",
    "renames",
    "siblings",
    "signatures",
    "types",
]
