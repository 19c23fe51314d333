"""The tools that change files: computed and checked first, written only once they are allowed."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from assistant.agent.tools import Access, Diff, Outcome, Planned
from assistant.agent.workspace import FileText, Journal, ToolError, Workspace, version
from context import broken_by
from context.syntax.document import damage
from context.syntax.text import rewritten

_MOST_FILE_CHARS = 400_000
_HUNK = re.compile(r"^@@ -(\d{1,9})(?!\d)")
_FILE_MARK = re.compile(r"^\*\*\* (Update|Add|Delete) File: (.+)$")


@dataclass(frozen=True)
class Hunk:
    """Lines of a patch: `old` becomes `new`; `at` is the line it names, 0 for none."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    at: int = 0


@dataclass(frozen=True)
class FilePatch:
    """The hunks of one file. `old_path` is None for a new file, `new_path` for a deleted one."""

    old_path: str | None
    new_path: str | None
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class _Write:
    """One file to write: its bytes afterwards, and its version now (None for no file)."""

    path: Path
    data: bytes | None
    expected: str | None


@dataclass
class Editor:
    """Plans changes for one session."""

    workspace: Workspace
    journal: Journal
    _insisted: set[str] = field(default_factory=set)

    def replace(self, path: str, old: str, new: str) -> Planned:
        """A text that occurs once becomes another."""
        file = self._file(path)
        name = self.workspace.name(file.path)
        old, given = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
        new = rewritten(given, old)
        note = _left_out(given, new)
        if "\r\n" in file.text:  # mixed line ends: they are kept as they are
            old, new = _as_written(file.text, old, new)
        if not old:
            raise ToolError("old is empty. Give the text to replace, or use create_file.")
        if old == new:
            raise ToolError("old and new are the same: nothing would change.")
        count = file.text.count(old)
        if count != 1:
            raise ToolError(_not_unique(name, file.text, old, count))
        start = file.text.index(old)
        if old in new and _contains(file.text, new, start, start + len(old)):
            raise ToolError(f"{name} has this new text already: nothing is to be changed.")
        text = file.text[:start] + new + file.text[start + len(old) :]
        return self._change("replace_text", f"Edit {name}", [(file, text)], note)

    def create(self, path: str, text: str) -> Planned:
        """A new file."""
        target = self.workspace.resolve(path)
        self.workspace.check_writable(target)
        name = self.workspace.name(target)
        if self.workspace.exists(target):
            raise ToolError(f"{name} exists already. Use replace_text to change it.")
        if len(text) > _MOST_FILE_CHARS:
            raise ToolError("The text is too long for one file.")
        given = text.replace("\r\n", "\n")
        text = rewritten(given)
        self._check_syntax(name, "", text, broken=damage(name, text) or ())
        return self._planned(
            "create_file",
            "edit",
            f"Create {name}",
            [_Write(target, text.encode("utf-8", "replace"), None)],
            [Diff(target, None, text)],
            note=_left_out(given, text),
        )

    def move(self, path: str, to: str) -> Planned:
        """A file at another path."""
        file = self._file(path)
        target = self.workspace.resolve(to)
        if target.is_dir():
            target /= file.path.name
        self.workspace.check_writable(target)
        name, other = self.workspace.name(file.path), self.workspace.name(target)
        if self.workspace.exists(target):
            raise ToolError(f"{other} exists already. Choose another path.")
        data = file.encoded(file.text)
        return self._planned(
            "move_file",
            "move",
            f"Move {name} to {other}",
            [_Write(target, data, None), _Write(file.path, None, file.version)],
            [Diff(target, None, file.text), Diff(file.path, file.text, None)],
            Access.REMOVE,
        )

    def delete(self, path: str) -> Planned:
        """No file any more."""
        file = self._file(path)
        return self._planned(
            "delete_file",
            "delete",
            f"Delete {self.workspace.name(file.path)}",
            [_Write(file.path, None, file.version)],
            [Diff(file.path, file.text, None)],
            Access.REMOVE,
        )

    def patch(self, patch: str) -> Planned:
        """A unified diff over one or more files: all of it or nothing."""
        given = parse_patch(patch)
        parts = [replace(one, hunks=tuple(map(_rewritten, one.hunks))) for one in given]
        note = "" if parts == given else _NOTE
        changed: list[tuple[FileText, str]] = []
        writes: list[_Write] = []
        diffs: list[Diff] = []
        removes = False
        for part in parts:
            if part.old_path is None and part.new_path is not None:
                made = self.create(part.new_path, "\n".join(part.hunks[0].new) + "\n")
                diffs += made.diffs
                writes.append(_Write(made.paths[0], (made.diffs[0].new or "").encode(), None))
            elif part.new_path is None and part.old_path is not None:
                file = self._file(part.old_path)
                removes = True
                diffs.append(Diff(file.path, file.text, None))
                writes.append(_Write(file.path, None, file.version))
            elif part.old_path is not None:
                file = self._file(part.old_path)
                name = self.workspace.name(file.path)
                changed.append((file, apply_hunks(name, file.text, part.hunks)))
        for file, text in changed:
            self._check_syntax(self.workspace.name(file.path), file.text, text)
            diffs.append(Diff(file.path, file.text, text))
            writes.append(_Write(file.path, file.encoded(text), file.version))
        paths = [one.path for one in writes]
        if len(set(paths)) != len(paths):
            raise ToolError("The patch has one file twice. Put all of its hunks together.")
        names = ", ".join(self.workspace.name(path) for path in paths[:4])
        access = Access.REMOVE if removes else Access.EDIT
        return self._planned("apply_patch", "edit", f"Patch {names}", writes, diffs, access, note)

    def _file(self, path: str) -> FileText:
        file = self.workspace.load(self.workspace.resolve(path))
        self.workspace.check_writable(file.path)
        self.workspace.check_version(file)
        return file

    def _change(
        self, tool: str, title: str, changed: Sequence[tuple[FileText, str]], note: str
    ) -> Planned:
        for file, text in changed:
            self._check_syntax(self.workspace.name(file.path), file.text, text)
        return self._planned(
            tool,
            "edit",
            title,
            [_Write(file.path, file.encoded(text), file.version) for file, text in changed],
            [Diff(file.path, file.text, text) for file, text in changed],
            note=note,
        )

    def _check_syntax(
        self, name: str, old: str, new: str, broken: Sequence[int] | None = None
    ) -> None:
        """Refuse a change that breaks the syntax, once: a grammar may be wrong, so the same change
        again is accepted."""
        rows = broken_by(name, old, new) if broken is None else broken
        mark = f"{name}\0{hash(new)}"
        if not rows or mark in self._insisted:
            return
        self._insisted.add(mark)
        lines = new.split("\n")
        shown = [f"line {row + 1}: {lines[row].strip()[:100]}" for row in rows[:3]]
        raise ToolError(
            f"Nothing was changed: it would break the syntax of {name} at {'; '.join(shown)}. "
            "Correct it. If you are sure that it is right, make the same call again."
        )

    def _planned(  # noqa: PLR0917 - a private step of its callers
        self,
        tool: str,
        kind: str,
        title: str,
        writes: Sequence[_Write],
        diffs: Sequence[Diff],
        access: Access = Access.EDIT,
        note: str = "",
    ) -> Planned:
        diff = "".join(unified(self.workspace, one) for one in diffs)

        def write() -> Outcome:
            size = sum(len(one.old or "") for one in diffs)
            self.journal.check_space(size)
            added, removed = _counts(diff)
            line = f"{title}: {added} lines added, {removed} removed.{note}"
            for one in writes:
                made = self.workspace.write(one.path, one.data, one.expected)
                self.journal.add(made)
                if one.data is not None and made.after != version(one.data):
                    name = self.workspace.name(one.path)
                    line += f" The editor changed {name} as it saved it: read it again."
            return Outcome(line, line, line, changed=True)

        async def run() -> Outcome:
            if self.workspace.editor is None:
                return write()  # whole, also where the turn is stopped now
            return await asyncio.to_thread(write)

        first = next((one for one in diffs if one.new is not None), None)
        row = _first_row(first) if first is not None else None
        return Planned(
            tool=tool,
            kind=kind,
            access=access,
            title=title,
            run=run,
            paths=tuple(one.path for one in writes),
            line=row,
            diffs=tuple(diffs),
        )


_NOTE = " Characters that cannot be seen were left out."


def _left_out(given: str, text: str) -> str:
    return "" if given == text else _NOTE


def _rewritten(hunk: Hunk) -> Hunk:
    """A hunk whose new lines are without unsafe characters that the old ones have not."""
    new = rewritten("\n".join(hunk.new), "\n".join(hunk.old)).split("\n")
    return replace(hunk, new=tuple(new)) if hunk.new else hunk


def unified(workspace: Workspace, diff: Diff) -> str:
    """A change as a unified diff."""
    name = workspace.name(diff.path)
    return "\n".join(
        difflib.unified_diff(
            (diff.old or "").split("\n") if diff.old is not None else [],
            (diff.new or "").split("\n") if diff.new is not None else [],
            f"a/{name}" if diff.old is not None else "/dev/null",
            f"b/{name}" if diff.new is not None else "/dev/null",
            lineterm="",
        )
    ) + "\n"  # fmt: skip


def parse_patch(patch: str) -> list[FilePatch]:
    """The files of a unified diff, or of a patch with `*** Update File:` marks.

    Line numbers of hunks are hints at most: models count badly.

    Raises:
        ToolError: there is no hunk in it.
    """
    found: list[FilePatch] = []
    old_path: str | None = None
    new_path: str | None = None
    hunks: list[Hunk] = []
    old: list[str] = []
    new: list[str] = []
    at, in_hunk, has_file = 0, False, False

    def close_hunk() -> None:
        nonlocal in_hunk
        while old and new and not old[-1] and not new[-1] and len(old) > 1 and len(new) > 1:
            old.pop()
            new.pop()
        if in_hunk and (old or new):
            hunks.append(Hunk(tuple(old), tuple(new), at))
        old.clear()
        new.clear()
        in_hunk = False

    def close_file() -> None:
        close_hunk()
        if has_file and (hunks or new_path is None):
            found.append(FilePatch(old_path, new_path, tuple(hunks)))
        hunks.clear()

    lines = patch.replace("\r\n", "\n").strip("\n").split("\n")
    for number, line in enumerate(lines):
        mark = _FILE_MARK.match(line)
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if mark:
            close_file()
            verb, path = mark.groups()
            old_path = None if verb == "Add" else path.strip()
            new_path = None if verb == "Delete" else path.strip()
            has_file, in_hunk, at = True, verb == "Add", 0
        elif line.startswith("--- ") and after.startswith("+++ "):
            close_file()
            old_path, has_file = _path(line, "a/"), True
        elif line.startswith("+++ ") and not in_hunk:
            new_path = _path(line, "b/")
        elif line.startswith("@@"):
            close_hunk()
            number_mark = _HUNK.match(line)
            at, in_hunk = int(number_mark[1]) if number_mark else 0, True
        elif line.startswith(("*** ", "diff --git ", "index ", "```", "\\")):
            continue
        elif in_hunk and line.startswith("+"):
            new.append(line[1:])
        elif in_hunk and line.startswith("-"):
            old.append(line[1:])
        elif in_hunk:
            text = line.removeprefix(" ")
            old.append(text)
            new.append(text)
    close_file()
    if not found:
        raise ToolError(
            "The patch has no hunk. Write a unified diff: --- a/PATH, +++ b/PATH, @@, then lines "
            "that begin with a blank, - or +."
        )
    return found


def _path(line: str, prefix: str) -> str | None:
    path = line[4:].partition("\t")[0].strip().strip('"')
    return None if path == "/dev/null" else path.removeprefix(prefix)


def apply_hunks(name: str, text: str, hunks: Sequence[Hunk]) -> str:
    """A text after its hunks, each found by its lines.

    Raises:
        ToolError: a hunk's lines are not in the text, or several times; or to find all takes long.
    """
    lines = text.split("\n")
    shift = looked_at = 0
    for number, hunk in enumerate(hunks, 1):
        if not hunk.old:
            place = min(hunk.at - 1 + shift, len(lines)) if hunk.at else len(lines)
            if not hunk.at and lines[-1:] == [""]:
                place -= 1
        else:
            near = hunk.at - 1 + shift
            exact = hunk.at > 0 <= near and lines[near : near + len(hunk.old)] == list(hunk.old)
            places = [near] if exact else _places(lines, hunk.old)
            looked_at += 0 if exact else len(places) + len(lines) // _LINES_A_STEP
            if looked_at > _MOST_LOOKED_AT:
                raise ToolError(
                    f"Nothing was changed: the patch of {name} has too many hunks whose line "
                    "numbers are wrong. Read the file again, and make several smaller patches."
                )
            if len(places) > 1 and hunk.at:
                places = sorted(places, key=lambda one: abs(one - near))
                if abs(places[0] - near) < abs(places[1] - near):
                    places = places[:1]
            if len(places) != 1:
                what = f"occur {len(places)} times" if places else "are not in the file"
                first = next((one for one in hunk.old if one.strip()), "")
                raise ToolError(
                    f"Nothing was changed: the lines of hunk {number} of {name} {what} "
                    f"(first line: {first.strip()[:80]!r}). "
                    + ("Give more lines around it." if places else "Read the file again.")
                )
            place = places[0]
        lines[place : place + len(hunk.old)] = hunk.new
        shift += len(hunk.new) - len(hunk.old)
    return "\n".join(lines)


# A search skips over lines that do not match in much less time than it takes for one that does.
_LINES_A_STEP = 100
_MOST_LOOKED_AT = 1_000_000


def _places(lines: list[str], wanted: Sequence[str]) -> list[int]:
    first, count = wanted[0], len(wanted)
    wanted = list(wanted)
    found: list[int] = []
    at, last = 0, len(lines) - count + 1
    while at < last:
        try:
            at = lines.index(first, at, last)
        except ValueError:
            break
        if lines[at : at + count] == wanted:
            found.append(at)
        at += 1
    return found


def _not_unique(name: str, text: str, old: str, count: int) -> str:
    if count > 1:
        rows, at = [], -1
        for _ in range(min(count, 5)):
            at = text.index(old, at + 1)
            rows.append(str(text.count("\n", 0, at) + 1))
        return (
            f"old occurs {count} times in {name} (lines {', '.join(rows)}). "
            "Give more lines around the one to change."
        )
    lines = text.split("\n")
    wanted = [line.strip() for line in old.strip("\n").split("\n")]
    stripped = [line.strip() for line in lines]
    places = _places(stripped, wanted) if any(wanted) else []
    if places:
        first = places[0]
        exact = "\n".join(lines[first : first + len(wanted)])
        return (
            f"old is not in {name}, but a text that differs in white space only is at line "
            f"{first + 1}. Copy it exactly:\n{exact[:1500]}"
        )
    anchor = next((line for line in wanted if len(line) > 3), "")
    rows = [str(at + 1) for at, line in enumerate(stripped) if line == anchor][:3]
    near = f" Its first line is at line {', '.join(rows)}." if anchor and rows else ""
    return f"old is not in {name}.{near} Read that part again, and copy the text exactly."


def _contains(text: str, part: str, start: int, stop: int) -> bool:
    """Whether `part` is in `text` around these offsets: the same edit made twice, often."""
    first = text.find(part, max(stop - len(part), 0), start + len(part))
    return 0 <= first <= start and first + len(part) >= stop


def _as_written(text: str, old: str, new: str) -> tuple[str, str]:
    """`old` and `new` with the line ends that the file has at that place."""
    with_returns = old.replace("\n", "\r\n")
    if old not in text and with_returns in text:
        return with_returns, new.replace("\n", "\r\n")
    return old, new


def _counts(diff: str) -> tuple[int, int]:
    lines = [line for line in diff.split("\n") if not line.startswith(("+++", "---"))]
    return sum(one.startswith("+") for one in lines), sum(one.startswith("-") for one in lines)


def _first_row(diff: Diff) -> int:
    old, new = (diff.old or "").split("\n"), (diff.new or "").split("\n")
    for row, (one, other) in enumerate(zip(old, new, strict=False), 1):
        if one != other:
            return row
    return min(len(old), len(new)) if diff.old is not None else 1
