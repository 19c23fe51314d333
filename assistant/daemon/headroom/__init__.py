"""Watches free memory while running, sets the budget and moves on the ladder."""

__all__ = ["budgets", "governor"]
