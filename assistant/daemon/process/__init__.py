"""The daemon as a process: single instance, sockets, service managers, logs, settings."""

__all__ = ["instance", "logs", "server", "settings_changes"]
