"""The daemon as a service of the user's own: what is written where, and how it is switched on."""

__all__ = ["manager", "units"]
