"""`underkeel next`: the next edit of a file after the changes of a diff, for scripts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.terminal import console, print_json, printable
from assistant.errors import RequestError
from context.edits import gate
from context.edits.history import History, reverted
from context.edits.types import Scene
from context.index.open_file import UnreadableError, open_text
from context.syntax.document import Document

_LARGEST_BYTES = 4 << 20
_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(\d+)(?:,\d+)? @@")


def register(app: typer.Typer) -> None:
    app.command("next")(show)


def show(
    file: Annotated[Path, typer.Argument(help="A file in which the changes were made.")],
    history: Annotated[
        Path, typer.Option(help="The changes as a unified diff of this file, the oldest first.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the edit that follows from the changes of a diff. Needs no model."""
    try:
        text = open_text(file, _LARGEST_BYTES)
        diff = open_text(history, _LARGEST_BYTES)
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
