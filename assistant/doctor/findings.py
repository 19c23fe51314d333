"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How serious a finding is: nothing to do, worth knowing, or to be fixed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked, one word or two.
        message: what was found.
        advice: what to do about it; empty where there is nothing to do.
    """

    check: str
    level: Level
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warn(check: str, message: str, advice: str = "") -> Finding:
    return Finding(check, Level.WARN, message, advice)


def fail(check: str, message: str, advice: str = "") -> Finding:
    return Finding(check, Level.FAIL, message, advice)
