"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a finding is to be taken: all well, worth knowing, or to be mended."""

    WELL = "well"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what was looked at, one word or two.
        says: what was found.
        mend: what to do; empty where nothing is.
    """

    about: str
    level: Level
    says: str
    mend: str = ""


def well(about: str, says: str) -> Finding:
    return Finding(about, Level.WELL, says)


def note(about: str, says: str, mend: str = "") -> Finding:
    return Finding(about, Level.NOTE, says, mend)


def wrong(about: str, says: str, mend: str = "") -> Finding:
    return Finding(about, Level.WRONG, says, mend)
