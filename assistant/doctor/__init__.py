"""Checks the installation: what works, what does not, and what to do about it."""

from assistant.doctor.examination import examine
from assistant.doctor.hardware import Finding, Level

__all__ = ["Finding", "Level", "bundle", "examine"]
