"""Next edits: the change that follows from the last ones, found, judged and sent."""

__all__ = ["feature", "suggester"]
