"""Finds the files of a workspace that may be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pathspec

from context.index.read_policy import is_secret, is_skipped


@dataclass(frozen=True)
class Limits:
    """Bounds on what is indexed; what is past them is left out, not an error."""

    max_files: int = 20_000
    max_file_bytes: int = 512 * 1024
    max_total_bytes: int = 256 * 1024 * 1024
    max_depth: int = 40


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

    Symbolic links are not followed: what they point to inside the workspace is met where it
    lies, and what lies outside is not the workspace's.
    """

    root: Path
    limits: Limits = field(default_factory=Limits)
    excludes: Sequence[str] = ()
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._user = patterns(self.excludes)

    def files(self) -> Iterator[Found]:
        """All files, folder by folder in a fixed order. What vanishes meanwhile is passed over."""
        pending: list[tuple[str, list[tuple[str, pathspec.GitIgnoreSpec]]]] = [("", [])]
        files = total = 0
        while pending:
            folder, specs = pending.pop()
            entries = self._entries(folder)
            own = self._gitignore(folder)
            if own is not None:
                specs = [*specs, (folder, own)]
            folders = []
            for entry in entries:
                path = f"{folder}{entry.name}"
                is_folder = _is_folder(entry)
                reason = self._excluded(path + "/" * is_folder, specs)
                if reason is None and entry.is_symlink():
                    reason = "symbolic link"
                if reason is not None:
                    self._leave(reason)
                elif is_folder and path.count("/") < self.limits.max_depth:
                    folders.append((path + "/", specs))
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
        specs = []
        folder = ""
        parts = path.split("/")
        for part in parts:
            own = self._gitignore(folder)
            if own is not None:
                specs.append((folder, own))
            at = f"{folder}{part}"
            last = at == path
            if self._excluded(at if last else at + "/", specs) is not None:
                return False
            if (self.root / at).is_symlink():
                return False
            folder = at + "/"
        return True

    def _excluded(self, path: str, specs: list[tuple[str, pathspec.GitIgnoreSpec]]) -> str | None:
        if is_skipped(path):
            return "no source"
        if is_secret(path):
            return "secret"
        if self._user.match_file(path):
            return "excluded by the user"
        for folder, spec in reversed(specs):
            verdict = spec.check_file(path[len(folder) :]).include
            if verdict is not None:
                return ".gitignore" if verdict else None
        return None

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self._leave("unreadable")
            return []

    def _gitignore(self, folder: str) -> pathspec.GitIgnoreSpec | None:
        path = self.root / folder / ".gitignore"
        try:
            if path.is_symlink() or not path.is_file():
                return None
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        return patterns(lines)

    def _found(self, entry: os.DirEntry[str], path: str) -> Found | None:
        try:
            status = entry.stat(follow_symlinks=False)
            regular = entry.is_file(follow_symlinks=False)
            path.encode("utf-8")
        except (OSError, UnicodeEncodeError):
            self._leave("unreadable")
            return None
        if not regular:
            self._leave("no regular file")
            return None
        if status.st_size > self.limits.max_file_bytes:
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


def patterns(lines: Sequence[str]) -> pathspec.GitIgnoreSpec:
    """Patterns in .gitignore's form; a broken one in somebody's file does not stop the others."""
    return pathspec.GitIgnoreSpec.from_lines(_valid(lines))


def _valid(lines: Sequence[str]) -> list[str]:
    good = []
    for line in lines:
        try:
            pathspec.GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        good.append(line)
    return good


def read_text(path: Path, max_bytes: int) -> str | None:
    """A file's text; None for one that is binary, too large, vanished or unreadable.

    UTF-8 with or without a BOM, UTF-16 with one; what is neither is read as UTF-8 with U+FFFD.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError:
        return None
    if len(data) > max_bytes:
        return None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:8192]:
        return None
    return data.decode("utf-8-sig", "replace")
