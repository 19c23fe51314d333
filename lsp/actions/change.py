"""A minimal change of a document: computed, rebased on newer text, checked. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from context import broken_by


@dataclass(frozen=True)
class Change:
    """Lines `first` up to and without `stop` of a text become `lines`; all counted from 0."""

    first: int
    stop: int
    lines: tuple[str, ...]


def difference(old: list[str], first: int, stop: int, lines: list[str]) -> Change | None:
    """The change of `old[first:stop]` to `lines`, without the lines at both ends that stay.

    Returns:
        None where nothing changes.
    """
    before = old[first:stop]
    head = 0
    while head < min(len(before), len(lines)) and before[head] == lines[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(lines)) - head and before[-1 - tail] == lines[-1 - tail]:
        tail += 1
    made = Change(first + head, stop - tail, tuple(lines[head : len(lines) - tail]))
    return None if made.first == made.stop and not made.lines else made


def rebased(change: Change, old: list[str], new: list[str]) -> Change | None:
    """The same change for a text that was edited above or below it since.

    Returns:
        None if the changed lines, or lines next to them, were edited.
    """
    if old == new:
        return change
    head = _common(old, new)
    if change.stop < head:
        return change
    tail = _common(old[::-1], new[::-1])
    if change.first > len(old) - tail:
        by = len(new) - len(old)
        return replace(change, first=change.first + by, stop=change.stop + by)
    return None


def applied(change: Change, lines: list[str]) -> list[str]:
    """The lines of a text after the change."""
    return [*lines[: change.first], *change.lines, *lines[change.stop :]]


def syntax_errors(change: Change, path: str, lines: list[str]) -> tuple[int, ...]:
    """The lines, counted from 0, at which the change would break the syntax of the file."""
    return broken_by(path, "\n".join(lines), "\n".join(applied(change, lines)))


def describe(change: Change, broken: tuple[int, ...]) -> str:
    """A description of the change for the user."""
    old, new = change.stop - change.first, len(change.lines)
    if not old:
        size = f"adds {_lines(new)}"
    elif not new:
        size = f"removes {_lines(old)}"
    else:
        size = f"replaces {_lines(old)} with {_lines(new)}"
    if not broken:
        return size
    places = ", ".join(str(line + 1) for line in broken[:3])
    return f"BREAKS THE SYNTAX near line {places}; {size}"


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def _common(one: list[str], other: list[str]) -> int:
    limit = min(len(one), len(other))
    return next((at for at in range(limit) if one[at] != other[at]), limit)
