"""Finds the files of a workspace that may be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from context.index.read_policy import (
    Outer,
    Rules,
    exclude_file,
    is_ignored,
    is_secret,
    is_skipped,
    outer_rules,
    patterns,
    rules_in,
)
from context.syntax.notebook import MAX_NOTEBOOK_BYTES, is_notebook


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

    Symbolic links are not followed: what they point to inside the workspace is found at its own
    path, and what is outside is not the workspace's.
    """

    root: Path
    limits: Limits = field(default_factory=Limits)
    excludes: Sequence[str] = ()
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._user = patterns(self.excludes)
        self._outer: Outer = outer_rules(self.root)

    def files(self) -> Iterator[Found]:
        """All files, folder by folder in a fixed order. What vanishes meanwhile is passed over."""
        if self._outer.ignored:
            self._leave(".gitignore")
            return
        pending: list[tuple[str, Sequence[Rules]]] = [("", self._outer.rules)]
        files = total = 0
        while pending:
            folder, rules = pending.pop()
            entries = self._entries(folder)
            rules = self._with_own(folder, rules)
            folders = []
            for entry in entries:
                path = f"{folder}{entry.name}"
                is_folder = _is_folder(entry)
                reason = self._excluded(path + "/" * is_folder, rules)
                if reason is None and entry.is_symlink():
                    reason = "symbolic link"
                if reason is not None:
                    self._leave(reason)
                elif is_folder and path.count("/") < self.limits.max_depth:
                    folders.append((path + "/", rules))
                elif not is_folder:
                    found = self._found(entry, path)
                    if found is None:
                        continue
                    if files >= self.limits.max_files:
                        self._leave("limit of files")
                        continue
                    if total + found.size_bytes > self.limits.max_total_bytes:
                        self._leave("limit of bytes")
                        continue
                    files += 1
                    total += found.size_bytes
                    yield found
            pending.extend(reversed(folders))

    def allows(self, path: str) -> bool:
        """Whether one file, relative to the root, may be indexed (for changes as they come)."""
        if self._outer.ignored:
            return False
        rules: Sequence[Rules] = self._outer.rules
        folder = ""
        for part in path.split("/"):
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
        own = [rules_in(self.root / folder / ".gitignore", below)]
        if folder and (self.root / folder / ".git").exists():  # a repository inside
            own.insert(0, rules_in(exclude_file(self.root / folder), below))
        return [*rules, *(one for one in own if one is not None)]

    def _excluded(self, path: str, rules: Sequence[Rules]) -> str | None:
        if is_skipped(path):
            return "not source"
        if is_secret(path):
            return "secret"
        if self._user.match_file(path):
            return "excluded by the user"
        return ".gitignore" if is_ignored(self._outer.prefix + path, rules) else None

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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
