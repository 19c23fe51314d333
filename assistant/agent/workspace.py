"""The files that the agent may read and change, and the journal that undoes its changes.

Reading follows the same policy as completions: ignore rules, the list of secrets, the user's
excludes, links and sizes; what looks like a key is masked. Writing is bound to the workspace, goes
through a temporary file, and is read back, so a file is never reported as written when it was cut.
Where the client is an editor, its unsaved text counts as the file's, and it makes the changes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from context.index.open_file import UnreadableError, decoded, inside, names_of, read_bytes
from context.index.project_index import Index
from context.index.read_policy import is_secret
from context.index.walk import Limits, Walk
from context.syntax.secrets import masked
from context.syntax.text import rewritten

MAX_FILE_BYTES = 2 << 20
_MAX_JOURNAL_BYTES = 64 << 20
_MAX_SNAPSHOT_BYTES = 32 << 20

# What runs code when a project is opened or a command of git is used: never written.
_FORBIDDEN_PARTS = (".git", ".hg", ".svn")


class ToolError(Exception):
    """Why a tool cannot do what was requested, and what to do; written for the model."""


@dataclass(frozen=True)
class FileText:
    """A text file as it is on disk.

    Attributes:
        text: with "\\n" at the ends of lines; as it is where line ends are mixed.
        version: changes whenever the bytes do.
        encoding, mark, line_end: how to write it again; `mark` is its byte order mark.
    """

    path: Path
    text: str
    version: str
    encoding: str = "utf-8"
    mark: bytes = b""
    line_end: str = "\n"

    def encoded(self, text: str) -> bytes:
        """The bytes of a new text of this file."""
        return self.mark + text.replace("\n", self.line_end).encode(self.encoding)


class EditorFiles(Protocol):
    """The files as the client's editor has them. Called from threads, never from the event loop."""

    def unsaved(self) -> frozenset[Path] | None:
        """The files with unsaved text; None where the client cannot list them."""

    def read(self, path: Path) -> str | None:
        """A file's text in the editor; None where it has none.

        Raises:
            ToolError: the editor does not answer, so its text is unknown.
        """

    def write(self, path: Path, text: str) -> bool:
        """Put a text into a file's buffer, as one step of undo, and save it; false where no buffer
        has the file.

        Raises:
            ToolError: the editor cannot.
        """


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A file before and after: what an undo needs.

    Attributes:
        path: absolute; before: base64 of its bytes, None where there was no file.
        after: its version afterwards, None where there is no file any more.
        mode: permission bits to restore.
    """

    path: str
    before: str | None
    after: str | None
    mode: int = 0o644


class Workspace:
    """The folders of a session.

    Args:
        roots: absolute folders; the first is where commands run.
        excludes: the user's own patterns of files that no model sees.
        store: where the index is kept; None keeps it in memory.
        editor: the client's files; None where only the disk counts.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        excludes: Sequence[str] = (),
        store: Path | None = None,
        editor: EditorFiles | None = None,
    ) -> None:
        self.editor = editor
        self.index = Index(roots, store, excludes=excludes)
        self.roots = tuple(self.index.roots)
        resolved = Path(roots[0]).resolve()
        self.root = resolved if resolved in self.roots else self.roots[0]
        self.excludes = tuple(excludes)
        self.seen: dict[str, str] = {}
        """The version of each file that the model saw last, by path."""
        self._refreshed = False

    def refresh(self) -> None:
        """Build the index once; later changes are followed file by file. Takes a while."""
        if not self._refreshed:
            self.index.refresh()
            self._refreshed = True

    def resolve(self, path: str) -> Path:
        """A path as the model writes it, as an absolute one inside the workspace.

        Raises:
            ToolError: it leads out, by itself or through a link, or is not a valid path.
        """
        if not path.strip() or "\0" in path:
            raise ToolError("The path is empty or not valid. Give one relative to the workspace.")
        given = Path(path.strip())
        joined = given if given.is_absolute() else self.root / given
        if rewritten(path) != path and not joined.exists():
            raise ToolError("The path has characters that cannot be seen. Write it without them.")
        found = inside(Path(os.path.normpath(joined)), self.roots)
        if found is None:
            raise ToolError(
                f"{path} is outside of the workspace. Only files below {self.root.name}/ can be "
                "used; give a path relative to it."
            )
        # The path as written, for names and rules; its links were followed above.
        return Path(os.path.normpath(joined))

    def name(self, path: Path) -> str:
        """A path as the model should write it."""
        for root in (self.root, *self.roots):
            with contextlib.suppress(ValueError):
                return path.relative_to(root).as_posix() or "."
        return str(path)

    def check_readable(self, path: Path) -> None:
        """Raises ToolError where the read policy hides a file."""
        for one in names_of(path):
            place = self.index.place(one)
            if place is None:
                raise ToolError(f"{self.name(path)} leads out of the workspace.")
            root, relative = place
            if is_secret(relative):
                raise ToolError(
                    f"{self.name(path)} may hold secrets, so it is never read. Do without it."
                )
            if self.index.excluded(relative):
                raise ToolError(f"The user's settings exclude {self.name(path)}. Do without it.")
            if not one.is_symlink() and not self.index.allows(str(root), relative):
                raise ToolError(
                    f"{self.name(path)} is ignored by git or not source, so it is not read."
                )

    def read(self, path: Path) -> FileText:
        """The text of a file; remembers its version as seen.

        Raises:
            ToolError: there is no such file, it is hidden, binary or too large.
        """
        found = self.load(path)
        self.seen[str(found.path)] = found.version
        return found

    def load(self, path: Path, *, in_editor: bool = True) -> FileText:
        """As `read`, without remembering; only from disk where `in_editor` is false."""
        if path.is_dir():
            raise ToolError(f"{self.name(path)} is a folder. Use list_folder.")
        if not path.exists():
            raise ToolError(f"There is no file {self.name(path)}.{self._near(path)}")
        self.check_readable(path)
        try:
            data = read_bytes(path, MAX_FILE_BYTES, self.roots)
            if in_editor:
                data = self._in_editor(path, data) or b""
                if len(data) > MAX_FILE_BYTES:
                    raise ToolError(f"{self.name(path)} is too large.")
            text = decoded(data)
        except UnreadableError as error:
            raise ToolError(f"{self.name(path)} cannot be read: {error}.") from error
        line_end = _line_end(text)
        text = text.replace("\r\n", "\n") if line_end == "\r\n" else text
        return FileText(path, text, version(data), *_encoding(data), line_end)

    def unsaved(self) -> frozenset[Path]:
        """The files whose text in the editor is not on disk, as far as the client lists them."""
        return (self.editor.unsaved() if self.editor is not None else None) or frozenset()

    def exists(self, path: Path) -> bool:
        """Whether there is such a file, on disk or not saved yet."""
        return path.exists() or self._in_editor(path, None) is not None

    def _in_editor(self, path: Path, data: bytes | None) -> bytes | None:
        """`data`, a file's bytes on disk, or the bytes that saving the editor's text would give
        where that differs in more than line ends."""
        text = self.editor.read(path) if self.editor is not None else None
        if text is None or (data is None and not text):
            return data
        try:
            known = decoded(data or b"")
        except UnreadableError:
            return data
        text = text.encode("utf-8", "replace").decode().replace("\r\n", "\n")
        if data is not None and known.replace("\r\n", "\n") == text:
            return data
        encoding, mark = _encoding(data or b"")
        return mark + text.replace("\n", _line_end(known)).encode(encoding)

    def _written_in_editor(
        self, path: Path, data: bytes, saved: bytes | None, before: bytes | None
    ) -> bool:
        """Whether the editor took the new bytes of a file. It is given only what it can keep as it
        is: a client may lose a byte order mark."""
        if self.editor is None or saved is None:
            return False
        if before == saved and _encoding(data) != ("utf-8", b""):
            return False
        return self.editor.write(path, decoded(data))

    def shown(self, text: str) -> str:
        """A text as a model may see it: secrets masked."""
        return masked(text)

    def files(self) -> Iterator[tuple[Path, str]]:
        """All files that may be read, with the names the model uses, in a fixed order."""
        for root in self.roots:
            for found in Walk(root, Limits(), self.excludes).files():
                path = Path(found.root, found.path)
                yield path, self.name(path)

    def check_writable(self, path: Path) -> None:
        """Raises ToolError where nothing may be written, whatever the user allows."""
        if inside(path, self.roots) is None:
            raise ToolError(f"{path} is outside of the workspace, where nothing is written.")
        for one in names_of(path):
            place = self.index.place(one)
            relative = place[1] if place else str(one)
            if any(part.lower() in _FORBIDDEN_PARTS for part in one.parts):
                raise ToolError(f"{relative} belongs to version control and is never written.")
            if is_secret(relative):
                raise ToolError(f"{relative} may hold secrets, so it is never written.")
        if path in self.roots:
            raise ToolError("The workspace's own folder cannot be changed.")

    def check_version(self, file: FileText) -> None:
        """Raises ToolError where a file is not what the model saw last."""
        known = self.seen.get(str(file.path))
        if known is not None and known != file.version:
            raise ToolError(
                f"{self.name(file.path)} was changed by someone else since you read it. "
                "Read it again, then make the change for its new text."
            )

    def write(self, path: Path, data: bytes | None, expected: str | None) -> Change:
        """Put `data` into a file, or delete it where `data` is None.

        Args:
            expected: the version that the file must have now; None for no file.

        Raises:
            ToolError: it changed in between, or cannot be written.
        """
        self.check_writable(path)
        target = inside(path, self.roots)
        if target is None:
            raise ToolError(f"{path} is outside of the workspace, where nothing is written.")
        saved = _bytes(target)
        before = self._in_editor(path, saved)
        if (version(before) if before is not None else None) != expected:
            raise ToolError(
                f"{self.name(path)} was changed while the change was made. Read it again."
            )
        mode = target.stat().st_mode & 0o777 if before is not None else 0o644
        try:
            if data is None:
                target.unlink()
            elif not self._written_in_editor(path, data, saved, before):
                _replace(target, data, mode)
        except (OSError, UnreadableError) as error:
            why = getattr(error, "strerror", None) or error
            raise ToolError(f"{self.name(path)} cannot be written ({why}).") from error
        after = _bytes(target)
        if after != data:
            # An editor may keep the text unsaved, or format it as it saves it.
            shown = self._in_editor(path, after) if data is not None else None
            if shown is None or (shown != data and (shown != after or after == saved)):
                raise ToolError(
                    f"{self.name(path)} was not written completely. Read it and try again."
                )
            after = shown
        if data is None:
            self.seen.pop(str(path), None)
        else:
            self.seen[str(path)] = version(data)
        self.index.update(path)
        return Change(
            path=str(target),
            before=base64.b64encode(before).decode() if before is not None else None,
            after=version(after) if after is not None else None,
            mode=mode,
        )

    def snapshot(self) -> dict[Path, tuple[int, int, bytes | None]]:
        """Size, time and bytes of all readable files, so that what a command changes can be undone.
        Past a bound on their sum the bytes are left out."""
        found: dict[Path, tuple[int, int, bytes | None]] = {}
        total = 0
        for path, _ in self.files():
            try:
                status = path.stat()
            except OSError:
                continue
            total += status.st_size
            data = _bytes(path) if total <= _MAX_SNAPSHOT_BYTES else None
            found[path] = (status.st_size, status.st_mtime_ns, data)
        return found

    def changes_since(
        self, before: dict[Path, tuple[int, int, bytes | None]]
    ) -> tuple[list[Change], bool]:
        """What changed since a snapshot, and whether all of it can be undone."""
        now = {path: _stamp(path) for path, _ in self.files()}
        changes, complete = [], True
        for path in sorted({*before, *now}):
            old = before.get(path)
            if old is not None and old[:2] == now.get(path):
                continue
            data = _bytes(path)
            if old is not None and old[2] is None:
                complete = False
                continue
            if old is not None and old[2] == data:
                continue
            self.index.update(path)
            changes.append(
                Change(
                    path=str(path),
                    before=base64.b64encode(old[2]).decode()
                    if old and old[2] is not None
                    else None,
                    after=version(data) if data is not None else None,
                )
            )
        return changes, complete

    def _near(self, path: Path) -> str:
        """A hint: files of the same name elsewhere."""
        same = [name for other, name in self.files() if other.name == path.name][:3]
        return f" There is {', '.join(same)}." if same else " Use find_files to look for it."


class Journal:
    """The changes of a session in order, on disk, so that one step undoes all of them."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.changes: list[Change] = []
        if path is not None and path.exists():
            for line in path.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError, RecursionError):
                    self.changes.append(msgspec.json.decode(line, type=Change))

    def add(self, change: Change) -> None:
        """Note a change.

        Raises:
            ToolError: the journal is full: more could not be undone.
        """
        self.changes.append(change)
        if self._path is None:
            return
        with _opened(self._path, os.O_APPEND) as file:
            file.write(msgspec.json.encode(change) + b"\n")

    def check_space(self, size_bytes: int) -> None:
        """Raises ToolError where a change of a file of this size could not be undone."""
        used = self._path.stat().st_size if self._path and self._path.exists() else 0
        if used + size_bytes * 4 // 3 > _MAX_JOURNAL_BYTES:
            raise ToolError("This session has changed too much to be undone. Start a new session.")

    def undo(self, workspace: Workspace) -> tuple[list[str], list[str]]:
        """Restore every file that is still as the session left it.

        Returns:
            Names of the files restored, and of those left alone because they changed since.
        """
        first: dict[str, Change] = {}
        last: dict[str, Change] = {}
        for change in self.changes:
            first.setdefault(change.path, change)
            last[change.path] = change
        restored, kept = [], []
        for path, change in first.items():
            target = Path(path)
            before = base64.b64decode(change.before) if change.before is not None else None
            if before is None and not target.exists():
                continue
            try:
                workspace.write(target, before, last[path].after)
                if before is not None:
                    target.chmod(change.mode)
                restored.append(workspace.name(target))
            except (ToolError, OSError):
                kept.append(workspace.name(target))
        self.changes = [one for one in self.changes if workspace.name(Path(one.path)) in kept]
        if self._path is not None:
            data = b"".join(msgspec.json.encode(one) + b"\n" for one in self.changes)
            _replace(self._path, data, 0o600)
        return restored, kept


def version(data: bytes) -> str:
    """A short digest of a file's bytes."""
    return hashlib.sha256(data).hexdigest()[:20]


def _encoding(data: bytes) -> tuple[str, bytes]:
    marks = (
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    )
    return next(((name, mark) for mark, name in marks if data.startswith(mark)), ("utf-8", b""))


def _line_end(text: str) -> str:
    """The line end that all lines of a text have; "\n" where they differ."""
    returns = text.count("\r\n")
    return "\r\n" if returns and returns == text.count("\n") else "\n"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _opened(path: Path, flags: int) -> BinaryIO:
    """A file to write, for the user alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "wb")


def _replace(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        with _opened(temporary, os.O_EXCL) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
