"""Sessions on disk: private to the user, bounded, and complete up to the last finished step.

One folder each: `session.json` with its settings, `steps.jsonl` with one line for each prompt and
each finished step, `journal.jsonl` with its changes of files. A line that was cut by a kill is
ignored, so a session continues from the last finished step.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

import msgspec

from assistant import paths
from assistant.agent.conversation import Step, Summary, Turn
from assistant.errors import RequestError

MAX_SESSIONS = 50
MAX_SESSION_BYTES = 32 << 20
_ID = re.compile(r"[0-9a-f]{32}")
_TITLE_CHARS = 80


class Record(msgspec.Struct, kw_only=True):
    """A session's settings.

    Attributes:
        roots: absolute folders; the first is where commands run.
        commands, exact, tools: what the user allowed for good; see `permissions.Rules`.
        levels: of the steps; see `packing`.
        summary: of the first turns and steps; they stay on disk.
        updated_at: seconds since 1970.
    """

    id: str
    roots: tuple[str, ...]
    title: str = ""
    mode: str = "ask"
    commands: tuple[tuple[str, ...], ...] = ()
    exact: tuple[tuple[str, ...], ...] = ()
    tools: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    summary: Summary | None = None
    updated_at: float = 0.0


class _Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    prompt: str | None = None
    step: Step | None = None


class SessionStore:
    """All sessions of the user, or those below another folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.state_dir() / "agent"

    def create(self, roots: tuple[Path, ...], mode: str = "ask") -> StoredSession:
        """A new session; the oldest is deleted where there are too many."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for record in self.list()[MAX_SESSIONS - 1 :]:
            self.delete(record.id)
        record = Record(id=secrets.token_hex(16), roots=tuple(map(str, roots)), mode=mode)
        session = StoredSession(self.folder / record.id, record)
        session.folder.mkdir(mode=0o700)
        session.save()
        return session

    def load(self, id_: str) -> StoredSession:
        """Raises RequestError: there is no session of that id, or it cannot be read."""
        folder = self._folder(id_)
        try:
            record = msgspec.json.decode((folder / "session.json").read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError) as error:
            raise RequestError(
                "there is no such session", subject=id_[:64], advice="List the sessions"
            ) from error
        return StoredSession(folder, record)

    def list(self) -> list[Record]:
        """Newest first. What cannot be read is left out."""
        found = []
        for path in self.folder.glob("*/session.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Record))
        return sorted(found, key=lambda one: (-one.updated_at, one.id))

    def delete(self, id_: str) -> None:
        """Delete a session; one that is not there is no error."""
        shutil.rmtree(self._folder(id_), ignore_errors=True)

    def _folder(self, id_: str) -> Path:
        if _ID.fullmatch(id_) is None:
            raise RequestError("this is no session's id", subject=id_[:64])
        return self.folder / id_


class StoredSession:
    """One session; every change is on disk before it is used."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder = folder
        self.record = record
        self.turns: list[Turn] = []
        self._read()

    @property
    def journal_path(self) -> Path:
        return self.folder / "journal.jsonl"

    def save(self) -> None:
        """Write the settings."""
        self.record.updated_at = time.time()
        _write(self.folder / "session.json", msgspec.json.encode(self.record))

    def add_prompt(self, prompt: str) -> None:
        """Start a turn.

        Raises:
            RequestError: the session is full.
        """
        steps = self.folder / "steps.jsonl"
        if steps.exists() and steps.stat().st_size > MAX_SESSION_BYTES:
            raise RequestError("this session is full", advice="Start a new session")
        if not self.record.title:
            self.record.title = " ".join(prompt.split())[:_TITLE_CHARS]
        self._append(_Line(prompt=prompt))
        self.turns.append(Turn(prompt=prompt))
        self.save()

    def add_step(self, step: Step) -> None:
        """A step is finished."""
        self._append(_Line(step=step))
        last = self.turns[-1]
        self.turns[-1] = Turn(prompt=last.prompt, steps=(*last.steps, step))

    def _append(self, line: _Line) -> None:
        descriptor = os.open(
            self.folder / "steps.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        path = self.folder / "steps.jsonl"
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            _write(path, whole)  # what is appended next must start a line
        for row in whole.splitlines():
            try:
                line = msgspec.json.decode(row, type=_Line)
            except msgspec.DecodeError:
                continue
            if line.prompt is not None:
                self.turns.append(Turn(prompt=line.prompt))
            elif line.step is not None and self.turns:
                last = self.turns[-1]
                self.turns[-1] = Turn(prompt=last.prompt, steps=(*last.steps, line.step))


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
