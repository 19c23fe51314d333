"""`underkeel complete` and `next`: ghost text and the next edit, for scripts."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant.cli.language_client import LanguageClient, Message, language_server
from assistant.cli.terminal import console, print_json, printable, say
from assistant.errors import EngineError, RequestError
from context.edits import gate
from context.edits.history import History, reverted
from context.edits.types import Scene
from context.index.open_file import UnreadableError, open_text
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
    match = re.fullmatch(r"(.+):(\d+):(\d+)", place, re.DOTALL)
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


def _read(path: Path) -> str:
    from context.index.open_file import UnreadableError, open_text

    try:
        return open_text(path, _LARGEST_BYTES)
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
_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(\d+)(?:,\d+)? @@")


def show(
    file: Annotated[Path, typer.Argument(help="A file in which the changes were made.")],
    history: Annotated[
        Path, typer.Option(help="The changes as a unified diff of this file, the oldest first.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the edit that follows from the changes of a diff. Needs no model."""
    try:
        text = open_text(file, _MOST_FILE_BYTES)
        diff = open_text(history, _MOST_FILE_BYTES)
    except UnreadableError as error:
        raise RequestError(str(error), subject=f"{file}, {history}") from error
    document = Document("", str(file), text.replace("\r\n", "\n").replace("\r", "\n"))
    source = document.source
    if source is None:
        raise RequestError("the language of this file is not known", subject=str(file))
    lines = source.text.split("\n")
    made = history_of(diff, lines)
    last = made.hunks[-1].first if made.hunks else 0
    cursor = sum(len(line) + 1 for line in lines[:last])
    moment = gate.Moment(str(file), source.text, last, made.hunks)
    found = []
    for edit in gate.find(Scene(document, source, cursor, made.hunks)):
        verdict = gate.judge(edit, moment)
        if verdict.passes(gate.Level.NORMAL):
            line = source.text.count("\n", 0, edit.start)
            found.append(
                {
                    "kind": edit.kind.value,
                    "line": line + 1,
                    "start_char": edit.start,
                    "stop_char": edit.stop,
                    "old": source.text[edit.start : edit.stop],
                    "new": edit.text,
                }
            )
    if as_json:
        print_json({"edits": found})
        return
    if not found:
        console().print("Nothing follows from these changes.")
    for one in found:
        row = f"{one['line']}: {one['kind']}: {one['old']!r} -> {one['new']!r}"
        console().print(printable(row), markup=False, highlight=False)


def history_of(diff: str, lines: list[str]) -> History:
    """The history that the hunks of a diff describe.

    Args:
        lines: the file with all of them made.

    Raises:
        RequestError: the diff has other lines than the file.
    """
    changes: list[tuple[int, list[str], list[str]]] = []
    at, body = 0, False
    for line in diff.split("\n"):
        if found := _HUNK.match(line):
            at, body = int(found[1]) - 1, True
        elif line.startswith(("--- ", "+++ ", "diff ", "index ")) and not line.startswith("+++ +"):
            body = False
        elif body and line[:1] in {"-", "+"}:
            if not changes or changes[-1][0] + len(changes[-1][2]) != at:
                changes.append((at, [], []))
            _, old, new = changes[-1]
            (old if line[0] == "-" else new).append(line[1:])
            at += line[0] == "+"
        elif body:
            at += 1
    made = History()
    for first, old, new in changes:
        made.changed(first, old, new)
    if made.hunks and reverted(lines, made.hunks) is None:
        raise RequestError(
            "the diff does not fit the file",
            advice="Give a diff whose changes are made in the file already",
        )
    return made
