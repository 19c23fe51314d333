"""`underkeel complete` and `next`: ghost text and the next edit, for scripts."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant.cli.language_client import LanguageClient, Message, language_server
from assistant.cli.terminal import console, print_json, printable, say
from assistant.errors import EngineError, RequestError
from context.edits import NextEdit, Scene, gate
from context.edits.history import DiffError, History, changes_in, reverted
from context.index.open_file import UnreadableError, decoded, open_text
from context.syntax.document import Document

_LARGEST_BYTES = 16 << 20
_ERROR = 1  # LSP MessageType
_LANGUAGE_IDS = {"bash": "shellscript", "tsx": "typescriptreact"}


def register(app: typer.Typer) -> None:
    app.command()(complete)
    app.command("next")(show)


def complete(
    place: Annotated[
        str, typer.Argument(metavar="FILE:LINE:COL", help="Line and column count from 1.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    several: Annotated[
        bool, typer.Option("--several", help="Show several suggestions, best first.")
    ] = False,
) -> None:
    """Print a suggestion for a position in a file. The file is not changed.

    Columns count characters; the one after the last is the end of the line. Prints nothing if there
    is no suggestion.
    """
    cursor = read_place(place)
    started = time.monotonic()
    items = asyncio.run(_ask(cursor, several=several))
    if as_json:
        print_json(_picture(cursor, items, time.monotonic() - started))
    elif items:
        for item in items:
            typer.echo(printable(item["insertText"], lines=True))
    else:
        say("underkeel: no suggestion here", err=True)


@dataclass(frozen=True)
class Cursor:
    """A position in a file; line and column count from 1, columns in characters."""

    path: Path
    line: int
    column: int
    text: str


def read_place(place: str) -> Cursor:
    """Read the file that `FILE:LINE:COL` names.

    Raises:
        RequestError: it has another form, or there is no such file, line or column.
    """
    match = re.fullmatch(r"(.+):(\d{1,9}):(\d{1,9})", place, re.DOTALL)
    if match is None:
        raise RequestError(
            "this is not a position in a file",
            subject=place,
            advice="Write FILE:LINE:COLUMN, as in a.py:3:1",
        )
    path = Path(match[1])
    text = _read(path)
    lines = re.split("\r\n|\n|\r", text)
    line, column = int(match[2]), int(match[3])
    if not 1 <= line <= len(lines):
        raise RequestError(
            f"there is no line {line}",
            subject=str(path),
            advice=f"The file has lines 1 to {len(lines)}",
        )
    last = len(lines[line - 1]) + 1
    if not 1 <= column <= last:
        raise RequestError(
            f"line {line} has no column {column}",
            subject=str(path),
            advice=f"The line has columns 1 to {last}",
        )
    return Cursor(path, line, column, text)


def _read(path: Path, most_bytes: int = _LARGEST_BYTES) -> str:
    try:
        return open_text(path, most_bytes)
    except UnreadableError as error:
        raise RequestError(str(error), subject=str(path), advice=error.advice) from error


async def _ask(cursor: Cursor, *, several: bool) -> list[Message]:
    """Ask the language server.

    Raises:
        EngineError: the reason why it cannot answer.
    """
    messages = _Messages()
    async with language_server(messages.take) as client:
        # Columns are characters, so that is what positions count in.
        await client.initialise(encodings=("utf-32",))
        items = await _complete(client, cursor, several=several)
    messages.end()
    if messages.error and not items:
        raise EngineError(messages.error.removeprefix("Underkeel: "))
    return items


async def _complete(client: LanguageClient, cursor: Cursor, *, several: bool) -> list[Message]:
    from context.syntax.language import language_for

    found = language_for(str(cursor.path), cursor.text)
    name = found.name if found else "plaintext"
    uri = cursor.path.absolute().as_uri()
    client.open(uri, cursor.text, _LANGUAGE_IDS.get(name, name))
    return await client.complete(uri, cursor.line - 1, cursor.column - 1, invoked=several)


class _Messages:
    """Shows on stderr what the language server reports in the meantime.

    Attributes:
        error: the last error that it reported.
    """

    def __init__(self) -> None:
        self.error = ""
        self._shown = ""

    def take(self, method: str, params: Any) -> None:
        """One notification."""
        if method == "window/showMessage":
            if params["type"] == _ERROR:
                self.error = params["message"]
            else:
                self._say(params["message"])
        elif method == "$/progress" and params["value"]["kind"] != "end":
            value = params["value"]
            self._show(f"{value.get('message', '')}  {value.get('percentage', 0)} %")

    def end(self) -> None:
        """Clear an unfinished line."""
        self._show("")

    def _show(self, text: str) -> None:
        if sys.stderr.isatty() and text != self._shown:
            sys.stderr.write(f"\r\x1b[K{printable(text)}")
            sys.stderr.flush()
            self._shown = text

    def _say(self, text: str) -> None:
        self.end()
        say(text, err=True)


def _picture(cursor: Cursor, items: list[Message], took_s: float) -> dict[str, Any]:
    return {
        "file": str(cursor.path),
        "line": cursor.line,
        "column": cursor.column,
        "items": [{"text": item["insertText"]} for item in items],
        "took_ms": round(took_s * 1000, 1),
    }


_MOST_FILE_BYTES = 4 << 20
_MOST_ANSWER_TOKENS = 1024
_PREFIXES = frozenset(("a", "b", "c", "i", "o", "w"))
"""What git writes before paths, by its settings."""


def show(
    file: Annotated[Path, typer.Argument(help="A file in which the changes were made.")],
    history: Annotated[
        Path,
        typer.Option(
            metavar="DIFF",
            help="The changes of this file as a unified diff, the oldest first; - reads it from the"
            " standard input.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Where the rules find none, ask this model; the daemon serves it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the edits that follow from the changes of a diff. Without `--model`, needs no model."""
    text, diff = _read(file, _MOST_FILE_BYTES), _read_diff(history)
    document = Document("", str(file), text.replace("\r\n", "\n").replace("\r", "\n"))
    source = document.source
    if source is None:
        raise RequestError(
            "the language of this file is not known",
            subject=str(file),
            advice="Name a file of source code with its usual ending",
        )
    made = history_of(diff, source.text.split("\n"), str(file))
    last = made.hunks[-1].first if made.hunks else 0
    cursor = sum(len(line) + 1 for line in source.text.split("\n")[:last])
    scene = Scene(document, source, cursor, made.hunks)
    moment = gate.Moment(str(file), source.text, last, made.hunks)
    found = [
        edit for edit in gate.find(scene) if gate.judge(edit, moment).passes(gate.Level.NORMAL)
    ]
    if model is not None:
        from assistant.models.catalogue import resolve

        path = resolve(model)
        if not found and made.hunks:
            by_model = asyncio.run(_by_model(model, path, scene, moment))
            found = [by_model] if by_model is not None else []
    shown = [_shown(edit, source.text) for edit in found]
    if as_json:
        print_json({"edits": shown})
        return
    if not shown:
        console().print("Nothing follows from these changes.")
    for one in shown:
        row = f"{one['line']}: {one['kind']}: {one['old']!r} -> {one['new']!r}"
        console().print(printable(row), markup=False, highlight=False)


def _read_diff(path: Path) -> str:
    """A diff from a file, a pipe or, for `-`, the standard input."""
    if str(path) == "-":
        data = sys.stdin.buffer.read(_MOST_FILE_BYTES + 1)
    elif path.is_fifo():
        with path.open("rb") as pipe:
            data = pipe.read(_MOST_FILE_BYTES + 1)
    else:
        return _read(path, _MOST_FILE_BYTES)
    subject = "the standard input" if str(path) == "-" else str(path)
    if len(data) > _MOST_FILE_BYTES:
        raise RequestError(
            f"the diff is longer than {_MOST_FILE_BYTES >> 20} MiB",
            subject=subject,
            advice="Give a diff of this file only",
        )
    try:
        return decoded(data)
    except UnreadableError as error:
        raise RequestError(str(error), subject=subject, advice=error.advice) from error


def _shown(edit: NextEdit, text: str) -> dict[str, Any]:
    return {
        "kind": edit.kind.value,
        "line": text.count("\n", 0, edit.start) + 1,
        "start_char": edit.start,
        "stop_char": edit.stop,
        "old": text[edit.start : edit.stop],
        "new": edit.text,
    }


def _is_same(one: Path, other: str) -> bool:
    return bool(other) and Path(other).exists() and one.samefile(other)


async def _by_model(name: str, path: Path, scene: Scene, moment: gate.Moment) -> NextEdit | None:
    """The edit of the served model, if it passes the gate.

    Raises:
        RequestError: another model is served, or nothing of the file may be shown to it.
        UnderkeelError: the model cannot answer.
    """
    from assistant import settings
    from assistant.client.client import DaemonClient
    from assistant.client.events import read_edit
    from assistant.models import token_estimate
    from assistant.wire import CompletionRequest
    from context.edits import model_edits
    from context.syntax.text import Encoder

    limit = settings.load()[0].next_edits.context_tokens
    async with DaemonClient() as daemon:
        info = await daemon.wait_ready()
        if name != info.name and not _is_same(path, info.path):
            raise RequestError(
                f"the daemon serves another model: {info.name}",
                subject=name,
                advice=f"Serve this one first: underkeel models use {name}",
            )
        budget = (await daemon.status()).budget
        limits = [limit, *([budget.tokens] if budget else []), info.n_ctx - _MOST_ANSWER_TOKENS]
        words = token_estimate.load(path)
        count = Encoder(words).count
        form = model_edits.format_for(info.name) or model_edits.formats()[model_edits.GENERIC]
        prompt = model_edits.prompt_for(scene, form, min(limits), count)
        if prompt is None:
            raise RequestError(
                "the lines around the last change are not shown to a model: they may hold a secret,"
                f" are too long, or are over its budget of {min(limits)} tokens",
                subject=moment.path,
                advice="Leave --model out for the rules alone",
            )
        start = [words.bos] if words.add_bos and words.bos >= 0 else []
        ids = prompt.ids(start, words.special, words.encode)
        body: Sequence[int | str] = ids
        if isinstance(words, token_estimate.EngineEncoded):
            body = [*start, *words.parts(ids[len(start) :])]
        request = CompletionRequest(
            prompt=tuple(body),
            max_tokens=min(model_edits.answer_tokens(prompt, count), _MOST_ANSWER_TOKENS),
            temperature=0.0,
            stop=prompt.stop,
            n_probs=1,
            exact_drafts=False,
        )
        made = await read_edit(daemon.complete(request), prompt)
    if made is None:
        return None
    edit = model_edits.edit_in(prompt, made.text, scene)
    if edit is None:
        return None
    sure = replace(moment, confidence=model_edits.confidence(made))
    return edit if gate.judge(edit, sure).passes(gate.Level.NORMAL, form.thresholds) else None


def history_of(diff: str, lines: list[str], path: str = "") -> History:
    """The history that a diff describes of a file.

    Args:
        lines: the file with all of its changes made.
        path: of the file, where the diff may be of several; the diff's own ones end it.

    Raises:
        RequestError: it is no diff, or not of this file, or has other lines.
    """
    try:
        changes = changes_in(diff)
    except DiffError as error:
        raise RequestError(
            f"this is not a unified diff: {error}",
            subject="--history",
            advice="Make one with git diff, or diff -u OLD NEW",
        ) from error
    named = [name for name in changes if name and path and _ends(path, name)]
    if named:
        chosen = [change for name in named for change in changes[name]]
    elif len(changes) > 1 or (path and _is_other(path, "".join(changes))):
        listed = ", ".join(sorted(name or "a file without a name" for name in changes)[:3])
        raise RequestError(
            f"the diff is of other files: {listed}",
            subject=path or "--history",
            advice="Give a diff with the changes of this file",
        )
    else:
        chosen = [change for found in changes.values() for change in found]
    made = History()
    for first, old, new in chosen:
        made.changed(first, old, new)
    if made.hunks and reverted(lines, made.hunks) is None:
        raise RequestError(
            "the diff does not fit the file",
            subject=path or "--history",
            advice="Give a diff whose changes are made in the file already",
        )
    return made


def _is_other(path: str, name: str) -> bool:
    """Whether a diff names a file that is called otherwise."""
    return bool(name) and Path(name).name != Path(path).name


def _ends(path: str, name: str) -> bool:
    """Whether a path may be the one that a diff names, with git's `a/` or `b/` before it or not."""
    whole = Path(path).absolute().parts
    parts = Path(name).parts
    return any(
        bool(tail) and whole[-len(tail) :] == tail for tail in (parts, parts[1:]) if tail
    ) and (len(parts) == 1 or parts[0] in _PREFIXES or whole[-len(parts) :] == parts)
