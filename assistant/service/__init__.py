"""The daemon as a service of the user: the files, and how it is enabled."""

__all__ = ["manager"]
