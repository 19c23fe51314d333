"""Finds the files of a workspace that may be read."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from context.index.open_file import MAX_NOTEBOOK_BYTES, is_notebook
from context.index.read_policy import (
    Outer,
    Patterns,
    Rules,
    exclude_file,
    hidden_part,
    is_ignored,
    is_secret,
    is_skipped,
    outer_rules,
    rules_in,
)

FILES_LIMIT = "limit of files"
BYTES_LIMIT = "limit of bytes"

_REPOSITORY = frozenset({"HEAD", "objects", "refs"})
"""What git's own folder has, whatever it is called: a bare repository, a mirror, a backup."""

_Distance = tuple[int, int]
"""Steps through the tree to the nearest of some folders, and that folder's position."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what is indexed; what is past them is left out, not an error."""

    max_files: int = 20_000
    max_file_bytes: int = 512 * 1024
    max_total_bytes: int = 256 * 1024 * 1024
    max_depth: int = 40

    def bytes_of(self, path: str) -> int:
        """How large a file may be; a notebook's outputs, which are not read, make it larger."""
        return MAX_NOTEBOOK_BYTES if is_notebook(path) else self.max_file_bytes


@dataclass(frozen=True)
class Found:
    """A file that may be indexed. `path` is relative to `root`, with "/" between parts."""

    root: str
    path: str
    size_bytes: int
    mtime_ns: int


@dataclass
class Walk:
    """Files under one root, by .gitignore, the user's excludes, the secrets list and limits.

    Folders near `near` come first, so that a limit cuts what is far from the open files.

    Symbolic links are not followed: what they point to inside the workspace is found at its own
    path, and what is outside is not the workspace's.
    """

    root: Path
    limits: Limits = field(default_factory=Limits)
    excludes: Sequence[str] = ()
    near: Sequence[str] = ()
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._user = Patterns(self.excludes)
        self._outer: Outer = outer_rules(self.root)
        self._hidden_part = hidden_part(self.root)
        # Ignored folders in which git tracks files, all the same: the root is the empty one.
        self._ignored = {""} if self._outer.ignored and self._outer.tracks("") else set[str]()

    @property
    def _is_left_out(self) -> bool:
        return self._outer.ignored and "" not in self._ignored

    def files(self) -> Iterator[Found]:
        """All files, folder by folder: the folders with the fewest steps through the tree to one of
        `near` (paths of folders, relative to the root, the most important one first) first, and
        of these in the order of their names. What vanishes meanwhile is passed over."""
        if self._is_left_out:
            self._leave(".gitignore")
            return
        files = total = 0
        for found in self._by_folder([_parts(folder) for folder in self.near]):
            if files >= self.limits.max_files:
                self._leave(FILES_LIMIT)
            elif total + found.size_bytes > self.limits.max_total_bytes:
                self._leave(BYTES_LIMIT)
            else:
                files += 1
                total += found.size_bytes
                yield found

    def _by_folder(self, near: Sequence[tuple[str, ...]]) -> Iterator[Found]:
        # Entries: the distance to `near`, the folder, and either its rules, where it is still to be
        # listed, or its files. A folder around one of `near` is listed at once, but its own files
        # come after nearer ones.
        pending: list[tuple[_Distance, tuple[str, ...], bool, Sequence[Rules], list[Found]]] = []
        heapq.heappush(pending, ((0, 0), (), False, self._outer.rules, []))
        while pending:
            _, parts, listed, rules, files = heapq.heappop(pending)
            if listed:
                yield from files
                continue
            folder = "".join(f"{part}/" for part in parts)
            entries = self._entries(folder)
            if {entry.name for entry in entries} >= _REPOSITORY:
                self._leave("not source")
                continue
            rules = self._with_own(folder, rules)
            for entry in entries:
                path = f"{folder}{entry.name}"
                is_folder = _is_folder(entry)
                reason = self._excluded(path + "/" * is_folder, rules)
                if reason is None and entry.is_symlink():
                    reason = "symbolic link"
                if reason is not None:
                    self._leave(reason)
                elif is_folder and path.count("/") < self.limits.max_depth:
                    below = (*parts, entry.name)
                    around = any(one[: len(below)] == below for one in near)
                    distance = (0, 0) if around else _distance(below, near)
                    heapq.heappush(pending, (distance, below, False, rules, []))
                elif not is_folder and (found := self._found(entry, path)) is not None:
                    files.append(found)
            heapq.heappush(pending, (_distance(parts, near), parts, True, (), files))

    def allows(self, path: str) -> bool:
        """Whether one file, relative to the root, may be indexed (for changes as they come)."""
        if self._is_left_out:
            return False
        rules: Sequence[Rules] = self._outer.rules
        folder = ""
        for part in path.split("/"):
            if all((self.root / folder / name).exists() for name in _REPOSITORY):
                return False
            rules = self._with_own(folder, rules)
            at = f"{folder}{part}"
            if self._excluded(at if at == path else f"{at}/", rules) is not None:
                return False
            if (self.root / at).is_symlink():
                return False
            folder = f"{at}/"
        return True

    def _with_own(self, folder: str, rules: Sequence[Rules]) -> Sequence[Rules]:
        """`rules`, and those that a folder (empty: the root) adds for what is below it."""
        below = self._outer.prefix + folder
        fold_case = self._outer.folds_case
        file = self.root / folder / ".gitignore"
        own = [rules_in(file, below, fold_case=fold_case, follows=False)]
        if folder and (self.root / folder / ".git").exists():  # a repository inside
            exclude = exclude_file(self.root / folder)
            own.insert(0, rules_in(exclude, below, fold_case=fold_case))
        return [*rules, *(one for one in own if one is not None)]

    def _excluded(self, path: str, rules: Sequence[Rules]) -> str | None:
        if is_skipped(path):
            return "not source"
        if is_secret(path) or (self._hidden_part and is_secret(self._hidden_part + path)):
            return "secret"
        if self._user.verdict(path):
            return "excluded by the user"
        ignored = _folder_of(path) in self._ignored or is_ignored(self._outer.prefix + path, rules)
        if not ignored:
            return None
        if not self._outer.tracks(path):
            return ".gitignore"
        if path.endswith("/"):
            self._ignored.add(path)  # only what git tracks in it may be read
        return None

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self._leave("unreadable")
            return []

    def _found(self, entry: os.DirEntry[str], path: str) -> Found | None:
        try:
            status = entry.stat(follow_symlinks=False)
            regular = entry.is_file(follow_symlinks=False)
            path.encode("utf-8")
        except (OSError, UnicodeEncodeError):
            self._leave("unreadable")
            return None
        if not regular:
            self._leave("not a regular file")
            return None
        if status.st_size > self.limits.bytes_of(path):
            self._leave("too large")
            return None
        return Found(str(self.root), path, status.st_size, status.st_mtime_ns)

    def _leave(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def _folder_of(path: str) -> str:
    folder = path.rstrip("/").rpartition("/")[0]
    return f"{folder}/" if folder else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _parts(folder: str) -> tuple[str, ...]:
    return tuple(part for part in folder.split("/") if part)


def _distance(folder: tuple[str, ...], near: Sequence[tuple[str, ...]]) -> _Distance:
    return min(
        (
            (len(folder) + len(one) - 2 * _common(folder, one), position)
            for position, one in enumerate(near)
        ),
        default=(0, 0),
    )


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
