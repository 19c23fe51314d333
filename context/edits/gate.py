"""All rules together, the surest kind first, and whether an edit is worth interrupting
the user. Pure.

    worth = confidence * relation * 0.5 ** (distance / 60) / (1 + max(0, size - 6) / 12)

- confidence: 1 for the rules, less where they have few examples; for a model the geometric mean of
  the probabilities of the tokens that it changed, or a fixed value of its family where it reports
  none. 0 to 1.
- relation: 1 if the edit adds or removes a word that a recent edit added or removed, else 0.5.
- distance: lines between the cursor and the edit. size: lines removed and added.

Worth is 0, whatever the rest, if the edit changes nothing but blanks at line ends; takes back or
repeats what the user undid; is the reverse of a recent edit; deletes what was just typed; breaks
the syntax; was rejected before; or was passed over: shown twice, and another change made each time.
An edit of a model has no worth either if it inserts what is already there, only deletes lines
although the last edit added some, or changes more than half of a file. An edit is shown if its
worth reaches the threshold of the level: quiet 0.8, normal 0.5, eager 0.25 for the rules; a model's
family has its own in `formats.toml`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from context.edits import EditKind, NextEdit, Scene, imports, renames, siblings, signatures
from context.edits.history import Hunk, Lines, between, tokens
from context.syntax.document import broken_by

_RULES: MappingProxyType[EditKind, Callable[[Scene], list[NextEdit]]] = MappingProxyType(
    {
        EditKind.RENAME: renames.find,
        EditKind.SIGNATURE: signatures.find,
        EditKind.SIBLING: siblings.find,
        EditKind.IMPORT: imports.find,
    }
)


def find(scene: Scene) -> list[NextEdit]:
    """Edits that follow from what was edited, best first; of one kind only, and those that are not
    sure only if no others follow."""
    if not scene.hunks:
        return []
    unsure: list[NextEdit] = []
    for rule in _RULES.values():
        found = rule(scene)
        if found and found[0].confidence == 1.0:
            return found
        unsure = unsure or found
    return unsure


_HALF_DISTANCE_LINES = 60
_FREE_LINES = 6
_SIZE_LINES = 12
_SMALL_FILE_LINES = 12
_RECENT = 6
_UNRELATED = 0.5
_NEARBY_LINES = 40
_MOST_SHOWINGS = 256
_OFTEN = 2
_PASSED = "it was passed over"


class Level(StrEnum):
    """How much the user wants to see."""

    OFF = "off"
    QUIET = "quiet"
    NORMAL = "normal"
    EAGER = "eager"


THRESHOLDS: Mapping[str, float] = MappingProxyType(
    {Level.OFF: 2.0, Level.QUIET: 0.8, Level.NORMAL: 0.5, Level.EAGER: 0.25}
)


Key = tuple[str, str, str]
"""A file, and the lines of it that an edit changes, before and after."""


@dataclass(frozen=True)
class Verdict:
    """The worth of an edit, 0 to 1, and the reason if it is 0."""

    worth: float
    reason: str = ""

    @property
    def ends(self) -> bool:
        """Whether the edits after this one, which follow from the same change, are not wanted
        either."""
        return self.reason == _PASSED

    def passes(self, level: Level, thresholds: Mapping[str, float] = THRESHOLDS) -> bool:
        """Whether the edit is shown at a level."""
        return self.worth >= thresholds[level]


@dataclass(frozen=True)
class Moment:
    """What is known when an edit is judged.

    Attributes:
        path, text: the file that would be changed.
        cursor_line: in that file; None where the cursor is in another one.
        hunks: of that file, the newest last.
        undone: old and new lines of what the user took back.
        rejected: `key` of the edits that the user rejected, of this file and others.
        confidence: of the model in the changed tokens; the edit of a rule has its own.
        passed: `key` of the edits that the user passed over.
    """

    path: str
    text: str
    cursor_line: int | None
    hunks: Sequence[Hunk] = ()
    undone: Sequence[tuple[Lines, Lines]] = ()
    rejected: AbstractSet[Key] = frozenset()
    confidence: float = 1.0
    passed: AbstractSet[Key] = frozenset()


class Showings:
    """Which edits were shown when: one that was shown at two moments is passed over at the next.

    A moment is the number of the newest hunk, so looking again before another change is the same.
    """

    def __init__(self) -> None:
        self._moments: OrderedDict[Key, set[int]] = OrderedDict()

    def note(self, key: Key, newest: int) -> None:
        """An edit was shown while a hunk was the newest."""
        self._moments.setdefault(key, set()).add(newest)
        self._moments.move_to_end(key)
        while len(self._moments) > _MOST_SHOWINGS:
            self._moments.popitem(last=False)

    def passed(self, newest: int) -> AbstractSet[Key]:
        """The edits that were passed over, now that a hunk is the newest."""
        return {
            key
            for key, moments in list(self._moments.items())
            if len(moments) >= _OFTEN and newest not in moments
        }


def key(path: str, text: str, edit: NextEdit) -> Key:
    """What identifies an edit wherever it moves in its file."""
    start = text.rfind("\n", 0, edit.start) + 1
    stop = text.find("\n", edit.stop)
    stop = len(text) if stop < 0 else stop
    old = text[start:stop]
    return path, old, text[start : edit.start] + edit.text + text[edit.stop : stop]


def judge(edit: NextEdit, moment: Moment) -> Verdict:
    """The worth of an edit by the formula above."""
    text = moment.text
    after = text[: edit.start] + edit.text + text[edit.stop :]
    lines = text.split("\n")
    found = between(lines, after.split("\n"))
    if found is None:
        return Verdict(0.0, "it changes nothing")
    first, old, new = found
    reason = _veto(edit, moment, found, len(lines))
    if not reason and broken_by(moment.path, text, after):
        reason = "it breaks the syntax"
    if reason:
        return Verdict(0.0, reason)
    distance = 0 if moment.cursor_line is None else abs(first - moment.cursor_line)
    if edit.kind is not EditKind.MODEL:
        return Verdict(edit.confidence)  # a rule's edit is as sure far away
    size = len(old) + len(new)
    worth = moment.confidence * 0.5 ** (distance / _HALF_DISTANCE_LINES)
    if not _is_related(old, new, moment.hunks):
        worth *= _UNRELATED
    return Verdict(worth / (1 + max(0, size - _FREE_LINES) / _SIZE_LINES))


def _veto(edit: NextEdit, moment: Moment, found: tuple[int, Lines, Lines], line_count: int) -> str:
    first, old, new = found
    if [line.rstrip() for line in old] == [line.rstrip() for line in new]:
        return "it changes blanks only"
    if key(moment.path, moment.text, edit) in moment.rejected:
        return "it was rejected"
    if key(moment.path, moment.text, edit) in moment.passed:
        return _PASSED
    if (old, new) in moment.undone or (new, old) in moment.undone:
        return "it was undone"
    is_large = line_count > _SMALL_FILE_LINES and 2 * max(len(old), len(new)) > line_count
    if edit.kind is EditKind.MODEL and is_large:
        return "it changes most of the file"
    recent = [hunk for hunk in moment.hunks if not hunk.stale][-_RECENT:]
    for hunk in recent:
        if (old, new) == (hunk.new, hunk.old):
            return "it reverses the last edit"
        if _deletes_typed(first, old, new, hunk):
            return "it deletes what was just typed"
    if edit.kind is not EditKind.MODEL:
        return ""
    if _is_there(moment.text, first, old, new):
        return "it is already there"
    if not new and recent and len(recent[-1].new) >= len(recent[-1].old):
        return "it only deletes"
    return ""


def _is_related(old: Lines, new: Lines, hunks: Sequence[Hunk]) -> bool:
    """Whether a change adds or removes a word that one of the recent ones added or removed."""
    mine = _words(old) ^ _words(new)
    return any(mine & (_words(hunk.old) ^ _words(hunk.new)) for hunk in hunks[-_RECENT:])


def _words(lines: Iterable[str]) -> set[str]:
    """Names, numbers and literals."""
    return {one for line in lines for one in tokens(line) if one[0].isalnum() or one[0] in "_\"'"}


def _deletes_typed(first: int, old: Lines, new: Lines, hunk: Hunk) -> bool:
    """Whether lines that the user wrote are gone, or shorter than their new part."""
    if not hunk.new or first + len(old) <= hunk.first or first >= hunk.stop:
        return False
    start, stop = max(first, hunk.first), min(first + len(old), hunk.stop)
    typed = [line.strip() for line in old[start - first : stop - first] if line.strip()]
    kept = "\n".join(new)
    return any(line not in kept and _shrinks(line, new) for line in typed)


def _shrinks(line: str, new: Lines) -> bool:
    """Whether no new line contains the characters of a line in their order."""

    def contains(other: str) -> bool:
        rest = iter(other)
        return all(char in rest for char in line)

    return not any(contains(other) for other in new)


def _is_there(text: str, first: int, old: Lines, new: Lines) -> bool:
    """Whether lines that would be added are near the place already, one after the other."""
    added = [line.strip() for line in new if line.strip()]
    if old or not added:
        return False
    around = text.split("\n")[max(0, first - _NEARBY_LINES) : first + _NEARBY_LINES]
    known = [line.strip() for line in around if line.strip()]
    return any(known[at : at + len(added)] == added for at in range(len(known) - len(added) + 1))
