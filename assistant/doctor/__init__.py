"""Checks the installation: what works, what does not, and what to do about it."""

from assistant.doctor.checks import Finding, Level
from assistant.doctor.examination import examine

__all__ = ["Finding", "Level", "bundle", "examine"]
