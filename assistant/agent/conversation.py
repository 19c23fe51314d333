"""What is said in a session: as frozen data, shortened, and on disk.

Once a session is too long, the model's summary takes the place of its first part, or it is cut. A
summary is due only once `packing` cannot shrink steps further without losing their content. Each
one covers at least `SUMMARY_EVERY` steps more than the one before, so they cannot loop.

On disk sessions are private to the user, bounded, and complete up to the last finished step. One
folder each: `session.json` with its settings, `steps.jsonl` with one line for each prompt and each
finished step, `journal.jsonl` with its changes of files. A line that was cut by a kill is ignored,
so a session continues from the last finished step.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from assistant import paths
from assistant.errors import RequestError

Struct = msgspec.Struct
Message = dict[str, Any]
"""As OpenAI's chat completions have it."""

RECENT_STEPS = 2
"""The last steps, which no summary covers."""

SUMMARY_EVERY = 8
MOST_LINES = 12
"""Results that are shown as one line each."""

REQUEST = (
    "Write a summary of this session so far, for yourself: what was requested, what you found in "
    "which files, what was changed, and what is still to be done. At most 12 short lines. Call no "
    "tool."
)
"""Ends the prompt of a summary; what is before it was in the prompt before, so it is cached."""

_MOST_PROMPTS = 4
_LONG_LINE = 120
MAX_SESSIONS = 50
MAX_SESSION_BYTES = 32 << 20
_ID = re.compile(r"[0-9a-f]{32}")
_TITLE_CHARS = 80


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call as the model wrote it.

    Attributes:
        id: unique in its session.
        arguments: JSON text, not yet checked.
    """

    id: str
    name: str
    arguments: str


class ToolResult(Struct, frozen=True, kw_only=True):
    """What a call returned, in three sizes: the larger ones are dropped as space runs out.

    Attributes:
        text: as the model sees it first; its tokens are bounded by the tool.
        outline: the same in fewer tokens; equal to `text` where it is short already.
        line: one line that says what was done.
        failed: the model should act on `text`, which says what was wrong.
        changed: a file of the workspace is different now.
    """

    call_id: str
    text: str
    outline: str = ""
    line: str = ""
    failed: bool = False
    changed: bool = False


class Step(Struct, frozen=True, kw_only=True):
    """One answer of the model with the results of its calls, in their order.

    Attributes:
        text: what the model said; `calls` what it called.
        results: one for each call.
        note: what the model is reminded of after them; empty for nothing.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    note: str = ""


class Turn(Struct, frozen=True, kw_only=True):
    """A prompt of the user, and the steps that followed."""

    prompt: str
    steps: tuple[Step, ...] = ()


class Summary(Struct, frozen=True, kw_only=True):
    """What stands for the first turns and steps of a session, once they no longer fit.

    Attributes:
        turns: so many turns are left out with their prompts.
        steps: so many steps are left out, also of the turn that follows those.
        by_model: false where it was only cut.
    """

    text: str
    turns: int
    steps: int
    by_model: bool = True


class Answer(Struct, frozen=True, kw_only=True):
    """An answer of the model.

    Attributes:
        text: without its tool calls and its reasoning.
        problem: why its calls cannot be used, for the model; then `calls` is empty.
        truncated: it reached the limit of its tokens.
        prompt_tokens, cached_tokens, generated_tokens: what it cost.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    problem: str = ""
    truncated: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


def summary_messages(summary: Summary) -> list[Message]:
    """In the model's own role: what a file or a command said must not become the user's words."""
    head = (
        f"[The first {summary.steps} steps and {summary.turns} requests of this session are left "
        "out here.] What happened in them?"
    )
    return [{"role": "user", "content": head}, {"role": "assistant", "content": summary.text}]


def summary_tokens(budget: int) -> int:
    """The most that a summary may have: an eighth of the budget."""
    return max(budget // 8, 96)


def coverable(turns: Sequence[Turn], before: Summary | None) -> Summary | None:
    """A summary without its text, of all turns but the current one and all steps but its last two;
    None where that is no more than the summary before has."""
    n_steps = sum(len(turn.steps) for turn in turns)
    earlier = n_steps - len(turns[-1].steps)
    made = Summary(text="", turns=len(turns) - 1, steps=max(n_steps - RECENT_STEPS, earlier))
    known = (before.turns, before.steps) if before is not None else (0, 0)
    return made if (made.turns, made.steps) > known else None


def may_ask(span: Summary, before: Summary | None) -> bool:
    """Whether the model may be asked for this summary, or it is too soon."""
    return span.steps - (before.steps if before is not None else 0) >= SUMMARY_EVERY


def prompt_of(
    sent: Sequence[Message], limit: int, tokens_of: Callable[[Message], int]
) -> tuple[list[Message], int]:
    """A start of the messages that were sent last, up to a finished step, and the request for a
    summary after it, within `limit` tokens.

    Returns:
        The messages, none where not even one step fits, and how many steps of `sent` they lack.
    """
    request: Message = {"role": "user", "content": REQUEST}
    used, end = tokens_of(request), 0
    for at, message in enumerate(sent):
        used += tokens_of(message)
        if used > limit:
            break
        is_done = message["role"] in ("assistant", "tool") and not message.get("tool_calls")
        if is_done and (at + 1 == len(sent) or sent[at + 1]["role"] != "tool"):
            end = at + 1
    lacking = sum(message["role"] == "assistant" for message in sent[end:])
    return ([*sent[:end], request] if end else []), lacking


def lines_of(turns: Sequence[Turn], first: int, stop: int) -> str:
    """One line for each result of these steps; of many only the last."""
    steps = [step for turn in turns for step in turn.steps][first:stop]
    lines = [one_line(result.line or result.text) for step in steps for result in step.results]
    left_out = len(lines) - MOST_LINES
    head = [f"[{left_out} earlier lines are left out]"] if left_out > 0 else []
    return "\n".join([*head, *(f"- {line}" for line in lines[-MOST_LINES:])])


def cut(turns: Sequence[Turn], span: Summary, before: Summary | None) -> Summary:
    """What stands for the first turns and steps where no model writes it: the last requests and
    results, one line each."""
    prompts = [one_line(turn.prompt) for turn in turns[: span.turns]]
    left_out = len(prompts) - _MOST_PROMPTS
    parts = [
        one_line(before.text, 600) if before is not None and before.steps < span.steps else "",
        f"[{left_out} earlier requests are left out]" if left_out > 0 else "",
        *(f"- Requested: {line}" for line in prompts[-_MOST_PROMPTS:]),
        lines_of(turns, 0, span.steps),
    ]
    text = "\n".join(part for part in parts if part)
    return Summary(text=text, turns=span.turns, steps=span.steps, by_model=False)


def one_line(text: str, limit: int = _LONG_LINE) -> str:
    return " ".join(text[: 20 * limit].split())[:limit]


# On disk.


class Record(Struct, kw_only=True):
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


class _Line(Struct, kw_only=True, omit_defaults=True):
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
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(
                "there is no such session", subject=id_[:64], advice="List the sessions"
            ) from error
        return StoredSession(folder, record)

    def list(self) -> list[Record]:
        """Newest first. What cannot be read is left out."""
        found = []
        for path in self.folder.glob("*/session.json"):
            with contextlib.suppress(OSError, ValueError, RecursionError):
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
            except (ValueError, RecursionError):
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
