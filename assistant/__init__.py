"""The back half: the daemon, its engines, its models, and the memory plan they run under."""

__version__ = "0.1.0"
