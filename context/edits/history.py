"""The edit history of one document: what was typed, joined into few hunks, and what changed between
two lines as tokens. Pure, linear in the text.

A hunk is a run of whole lines with what stood there before. Typing that touches the newest hunk
extends it, so a word typed letter by letter is one hunk. What is undone leaves the history.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from context.syntax.text import common_ends

MAX_HUNKS = 16
MAX_LINES = 120
"""An edit of more lines is a reformat, a paste or a checkout: the history starts again after it."""
MAX_CHARS = 10_000
"""The same for characters."""
_MAX_UNDONE = 16

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Hunk:
    """Lines that were changed together. Lines have no ends and count from 0.

    Attributes:
        first: where `new` starts in the text as it is now.
        old: what stood there before.
        new: what stands there now, unless `stale`.
        number: grows with time over all documents.
        stale: a later edit touched these lines.
    """

    first: int
    old: Lines
    new: Lines
    number: int = 0
    stale: bool = False

    @property
    def stop(self) -> int:
        """The line after `new`."""
        return self.first + len(self.new)

    def pairs(self) -> Iterator[tuple[int, str, str]]:
        """Line number, old and new text of each line that was changed in place.

        Only a hunk that keeps the number of lines, or whose first lines correspond, has them.
        """
        if self.stale:
            return
        for at, (old, new) in enumerate(zip(self.old, self.new, strict=False)):
            if old != new and (len(self.old) == len(self.new) or at == 0):
                yield self.first + at, old, new


class History:
    """The hunks of one document.

    Args:
        numbers: counts the hunks of all documents of an editor.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        self._numbers = numbers if numbers is not None else itertools.count(1)
        self._hunks: list[Hunk] = []
        self._undone: deque[tuple[Lines, Lines]] = deque(maxlen=_MAX_UNDONE)

    @property
    def hunks(self) -> tuple[Hunk, ...]:
        """All hunks, the newest last."""
        return tuple(self._hunks)

    @property
    def undone(self) -> tuple[tuple[Lines, Lines], ...]:
        """Old and new lines of the hunks that were undone, the newest last."""
        return tuple(self._undone)

    @property
    def newest(self) -> int:
        """The number of the newest hunk; 0 without one."""
        return self._hunks[-1].number if self._hunks else 0

    def changed(self, first: int, old: Sequence[str], new: Sequence[str]) -> None:
        """Lines from `first` on became other lines; neither have line ends."""
        edit = _trimmed(first, tuple(old), tuple(new))
        if edit is None:
            return
        if _is_large(edit):
            self.clear()
            return
        newest = self._hunks[-1] if self._hunks else None
        joined = None
        if newest is not None and _touch(newest, edit):
            self._hunks.pop()
            joined = _joined(newest, edit)
            if joined is None:
                self._undone.append((newest.old, newest.new))
            elif _is_large(joined):
                self.clear()
                return
        else:
            joined = replace(edit, number=next(self._numbers))
        if joined is not None and self._undoes(joined, edit):
            return
        self._hunks = [_moved(hunk, edit) for hunk in self._hunks]
        if joined is not None:
            self._hunks.append(joined)
            del self._hunks[:-MAX_HUNKS]

    def clear(self) -> None:
        """Forget everything: the text was replaced."""
        self._hunks.clear()
        self._undone.clear()

    def _undoes(self, made: Hunk, edit: Hunk) -> bool:
        """Whether a hunk takes back an earlier one; then both leave the history."""
        for at in range(len(self._hunks) - 1, -1, -1):
            known = self._hunks[at]
            same_place = known.first == made.first and not known.stale
            if same_place and (known.old, known.new) == (made.new, made.old):
                del self._hunks[at]
                self._hunks = [_moved(hunk, edit) for hunk in self._hunks]
                self._undone.append((known.old, known.new))
                return True
        return False


def reverted(lines: Sequence[str], hunks: Sequence[Hunk]) -> list[str] | None:
    """The lines of a text before some of its newest hunks; None where a later edit hides that."""
    found = list(lines)
    for hunk in sorted(hunks, key=lambda one: (-one.first, -one.number)):
        if hunk.stale or tuple(found[hunk.first : hunk.stop]) != hunk.new:
            return None
        found[hunk.first : hunk.stop] = hunk.old
    return found


def between(old: Sequence[str], new: Sequence[str]) -> tuple[int, Lines, Lines] | None:
    """The first changed line and the changed lines of two texts; None where they are equal."""
    found = _trimmed(0, tuple(old), tuple(new))
    return (found.first, found.old, found.new) if found is not None else None


_HUNK = re.compile(r"@@ -\d{1,9}(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_HEADERS = ("diff ", "index ", "rename ", "new file", "deleted file", "old mode", "Binary files")
_NO_FILE = "/dev/null"

Change = tuple[int, list[str], list[str]]
"""A first line, from 0, the lines that stood there, and those that stand there now."""


class DiffError(ValueError):
    """Why a text is no unified diff, in plain words."""


def changes_in(diff: str) -> dict[str, list[Change]]:
    """The changes of a unified diff by the path that each file has now, as the diff writes it; an
    empty path where it names none. Lines count in the text after the changes before.

    Raises:
        DiffError: it is no unified diff.
    """
    found: dict[str, list[Change]] = {}
    path, at, old_left, new_left, seen = "", 0, 0, 0, False
    for number, line in enumerate(diff.replace("\r\n", "\n").removesuffix("\n").split("\n"), 1):
        if line.startswith("\\"):
            continue  # no line end at the end of the file
        if old_left > 0 or new_left > 0:
            mark = line[:1] or " "
            if mark not in " -+":
                raise DiffError(f"line {number} is no line of a unified diff, but its hunk goes on")
            old_left -= mark != "+"
            new_left -= mark != "-"
            if mark != " ":
                changes = found[path]
                if not changes or changes[-1][0] + len(changes[-1][2]) != at:
                    changes.append((at, [], []))
                _, old, new = changes[-1]
                (old if mark == "-" else new).append(line[1:])
            at += mark != "-"
        elif hunk := _HUNK.match(line):
            old_left, new_left = int(hunk[1] or 1), int(hunk[3] or 1)
            at = int(hunk[2]) - 1 if new_left else int(hunk[2])  # without lines: the line before
            seen = True
            found.setdefault(path, [])
            if found[path]:
                found[path].append((-1, [], []))  # nothing joins across hunks
        elif line.startswith("@@"):
            raise DiffError(f"line {number} is not the header of a hunk: {line[:60]!r}")
        elif line.startswith("+++ "):
            path = _path_in(line[4:])
        elif line.startswith(_HEADERS):
            path, seen = "", True
    if old_left > 0 or new_left > 0:
        raise DiffError("it ends inside of a hunk")
    if not seen and diff.strip():
        raise DiffError("it has no hunks")
    return {
        name: [change for change in changes if change[1] or change[2]]
        for name, changes in found.items()
        if name != _NO_FILE
    }


def _path_in(text: str) -> str:
    """The path in a header: without the time after it, and as bytes where git quotes it."""
    name = text.split("\t", 1)[0].rstrip()
    if not (name.startswith('"') and name.endswith('"') and len(name) > 1):
        return name
    parts = re.split(r"\\([0-7]{3}|.)", name[1:-1])
    data = b"".join(
        part.encode() if at % 2 == 0 else bytes([int(part, 8) & 255]) if len(part) == 3
        else {"n": b"\n", "t": b"\t"}.get(part, part.encode())
        for at, part in enumerate(parts)
    )  # fmt: skip
    return data.decode("utf-8", "replace")


def _trimmed(first: int, old: Lines, new: Lines) -> Hunk | None:
    """The change without the lines at both ends that stay; None where nothing changes."""
    head, tail = common_ends(old, new)
    if head == len(old) == len(new):
        return None
    return Hunk(first + head, old[head : len(old) - tail], new[head : len(new) - tail])


def _is_large(hunk: Hunk) -> bool:
    return (
        max(len(hunk.old), len(hunk.new)) > MAX_LINES
        or sum(map(len, hunk.old)) + sum(map(len, hunk.new)) > MAX_CHARS
    )


def _touch(hunk: Hunk, edit: Hunk) -> bool:
    stop = edit.first + len(edit.old)
    return not hunk.stale and edit.first <= hunk.stop and stop >= hunk.first


def _joined(hunk: Hunk, edit: Hunk) -> Hunk | None:
    """Both changes as one; None where the second takes the first back."""
    before = max(hunk.first - edit.first, 0)
    after = max(hunk.stop - edit.first, 0)
    old = edit.old[:before] + hunk.old + edit.old[after:]
    start, stop = edit.first - hunk.first, edit.first + len(edit.old) - hunk.first
    new = hunk.new[: max(start, 0)] + edit.new + hunk.new[max(stop, 0) :]
    made = _trimmed(min(hunk.first, edit.first), old, new)
    return replace(made, number=hunk.number) if made is not None else None


def _moved(hunk: Hunk, edit: Hunk) -> Hunk:
    """An older hunk after a later edit."""
    stop = edit.first + len(edit.old)
    if edit.first >= hunk.stop and not (edit.first == hunk.first and not hunk.new):
        return hunk
    if stop <= hunk.first:
        return replace(hunk, first=hunk.first + len(edit.new) - len(edit.old))
    return replace(hunk, stale=True)


LONGEST_LINE = 400
"""Characters; a longer line is not compared."""

_TOKEN = re.compile(r"[^\W\d][\w$]*+|\d[\w.]*+|\"[^\"\\\n]*+\"|'[^'\\\n]*+'|\s++|.", re.DOTALL)
_IDENTIFIER = re.compile(r"[^\W\d][\w$]*+\Z")


@dataclass(frozen=True)
class Replacement:
    """Tokens of a line that became other tokens; `column` counts characters of the new line."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    column: int


def tokens(line: str) -> list[str]:
    """The tokens of a line; joined they are the line."""
    return _TOKEN.findall(line)


def is_identifier(token: str) -> bool:
    """Whether a token has the form of a name."""
    return _IDENTIFIER.match(token) is not None


def replacements(old: str, new: str) -> list[Replacement]:
    """What changed between two lines, token by token; nothing for very long ones."""
    if max(len(old), len(new)) > LONGEST_LINE:
        return []
    before, after = tokens(old), tokens(new)
    found = []
    for tag, i1, i2, j1, j2 in opcodes(before, after):
        if tag != "equal":
            column = sum(map(len, after[:j1]))
            found.append(Replacement(tuple(before[i1:i2]), tuple(after[j1:j2]), column))
    return found


def opcodes(before: Sequence[str], after: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """`SequenceMatcher`'s, after the common start and end are taken off."""
    head, tail = common_ends(tuple(before), tuple(after))
    matcher = SequenceMatcher(
        None, before[head : len(before) - tail], after[head : len(after) - tail], autojunk=False
    )
    return [
        (tag, i1 + head, i2 + head, j1 + head, j2 + head)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
    ]


@dataclass(frozen=True)
class Renamed:
    """A name that took the place of another one: its line, and its column there in characters."""

    old: str
    new: str
    line: int
    column: int


def renamed(hunk: Hunk) -> list[Renamed]:
    """The names that a hunk replaced, in order; nothing if it changed anything else but blanks and
    the same names in strings, or if a name became two."""
    if hunk.stale or len(hunk.old) != len(hunk.new):
        return []
    found: list[Renamed] = []
    strings: list[tuple[str, str]] = []
    for line, (old, new) in enumerate(zip(hunk.old, hunk.new, strict=True), hunk.first):
        if max(len(old), len(new)) > LONGEST_LINE:
            return []
        before, after = tokens(old), tokens(new)
        if len(before) != len(after):
            return []
        column = 0
        for one, other in zip(before, after, strict=True):
            if one != other and is_identifier(one) and is_identifier(other):
                found.append(Renamed(one, other, line, column))
            elif one != other and one[0] in "'\"" and other[0] in "'\"":
                strings.append((one, other))
            elif one.strip() != other.strip():
                return []
            column += len(other)
    names = {one.old: one.new for one in found}
    clear = all(names[one.old] == one.new for one in found)
    clear = clear and len(set(names.values())) == len(names)
    same = all(_with_names(one, names) == other for one, other in strings)
    return found if clear and same else []


def _with_names(text: str, names: dict[str, str]) -> str:
    """A text with other names in it."""
    return re.sub(r"[^\W\d][\w$]*+", lambda found: names.get(found[0], found[0]), text)
