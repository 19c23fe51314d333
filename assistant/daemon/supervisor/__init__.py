"""Keeps one engine serving: loads it, restarts it after a crash, retries requests."""

__all__ = ["engine_supervisor"]
