"""`underkeel context`: shows the prompt that a cursor would give, section by section."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.panel import Panel
from rich.progress import Progress
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

import context
from assistant import paths, settings
from assistant.cli.terminal import console, print_json, printable
from assistant.errors import RequestError
from assistant.models import families, token_estimate
from assistant.models.catalogue import resolve
from context.index.open_file import UnreadableError, open_text

_STYLE = {
    context.Part.REPO: "cyan",
    context.Part.FAR_PREFIX: "blue",
    context.Part.SUFFIX: "magenta",
    context.Part.PREFIX: "green",
}
_TITLE = {
    context.Part.REPO: "other file",
    context.Part.FAR_PREFIX: "far prefix",
    context.Part.SUFFIX: "suffix",
    context.Part.PREFIX: "near prefix",
}
_ROOT_MARKS = (".git", ".hg", "pyproject.toml", "package.json", "go.mod", "Cargo.toml", "pom.xml")
_LARGEST_BYTES = 64 << 20


def register(app: typer.Typer) -> None:
    app.command("context")(show)


def show(
    place: Annotated[
        str, typer.Argument(metavar="FILE:LINE[:COL]", help="Line and column count from 1.")
    ],
    budget: Annotated[
        int | None, typer.Option(min=1, help="Tokens that the prompt may have.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Count tokens with this model's vocabulary.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The workspace; by default the nearest project folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the prompt for a cursor: its sections, tokens, reasons, and what was cut."""
    chosen, _ = settings.load()
    words = token_estimate.load(resolve(model or chosen.model.name))
    layout = families.layout_for(words)
    if layout is None:
        raise RequestError(
            "this model does not complete text", subject=words.name, advice="Use another one"
        )
    path, text, cursor = read_cursor(place)
    folder = (root or workspace_root(path)).absolute()
    workspace = context.Workspace(
        [folder],
        words,
        layout,
        words.special,
        store=index_path(folder),
        excludes=chosen.completion.excludes,
    )
    document = workspace.open(path, text)
    if reason := workspace.hidden(document):
        raise RequestError(
            f"no model sees this file: {reason}",
            subject=str(path),
            advice="Use another, or change completion.excludes in the settings",
        )
    report = _refresh(workspace, quiet=as_json)
    at = len(text[:cursor].encode("utf-8", "replace"))
    prompt = workspace.prompt(document, at, budget or chosen.completion.budget_tokens, rest=True)
    workspace.index.close()
    if as_json:
        print_json(picture(prompt, path, report))
    else:
        console().print(drawing(prompt, path, document))


def read_cursor(place: str) -> tuple[Path, str, int]:
    """The file, its text, and the character that `FILE:LINE[:COL]` names (COL: the line's end).

    Raises:
        RequestError: it has another form, the file cannot be read, or has no such line.
    """
    match = re.fullmatch(r"(.+?):(\d{1,9})(?::(\d{1,9}))?", place, re.DOTALL)
    if match is None:
        raise RequestError(
            "this is not a position in a file",
            subject=place,
            advice="Write FILE:LINE, as in a.py:3",
        )
    path = Path(match[1]).absolute()
    try:
        text = open_text(path, _LARGEST_BYTES)
    except UnreadableError as error:
        raise RequestError(str(error), subject=str(path), advice=error.advice) from error
    lines = text.split("\n")
    line = int(match[2])
    if not 1 <= line <= len(lines):
        raise RequestError(
            f"there is no line {line}",
            subject=str(path),
            advice=f"The file has lines 1 to {len(lines)}",
        )
    length = len(lines[line - 1].rstrip("\r"))
    column = min(int(match[3]) - 1, length) if match[3] else length
    return path, text, sum(len(one) + 1 for one in lines[: line - 1]) + max(column, 0)


def workspace_root(path: Path) -> Path:
    """The nearest folder above that looks like a project, else the file's own folder."""
    for folder in path.parents:
        if any((folder / mark).exists() for mark in _ROOT_MARKS):
            return folder
    return path.parent


def index_path(folder: Path) -> Path:
    """Where the index of a workspace is kept between sessions."""
    name = hashlib.sha256(str(folder).encode("utf-8", "replace")).hexdigest()[:24]
    return paths.cache_dir() / "index" / f"{name}.db"


def _refresh(workspace: context.Workspace, *, quiet: bool) -> context.Report:
    with Progress(console=console(stderr=True, quiet=quiet), transient=True) as progress:
        task = progress.add_task("reading the workspace", total=None)
        return workspace.index.refresh(
            lambda done, total: progress.update(task, completed=done, total=total)
        )


def picture(prompt: context.Prompt, path: Path, report: context.Report) -> dict[str, Any]:
    """The prompt as plain data."""
    return {
        "file": str(path),
        "budget_tokens": prompt.budget_tokens,
        "prompt_tokens": len(prompt.ids),
        "family": prompt.layout.family,
        "cursor": prompt.kind,
        "sections": [
            {
                "part": one.part,
                "path": one.path,
                "tokens": one.tokens,
                "reason": one.reason,
                "text": one.text,
            }
            for one in prompt.sections
        ],
        "cut": list(prompt.cut),
        "index": {"files": report.files, "read": report.read, "left_out": report.left_out},
    }


def drawing(prompt: context.Prompt, path: Path, document: context.Document) -> Group:
    """The prompt for a terminal: a panel for each section, then the tokens."""
    parts: list[Panel | Table | Text] = []
    for one in prompt.sections:
        style = _STYLE[one.part]
        language = document.language.name if document.language is not None else "text"
        title = Text(printable(f"{_TITLE[one.part]} {one.path}").rstrip(), style=f"bold {style}")
        title.append(f"  {one.tokens} tokens", style="dim")
        body = Syntax(
            printable(one.text.rstrip("\n"), lines=True),
            language,
            background_color="default",
            word_wrap=True,
        )
        parts.append(
            Panel(body, title=title, title_align="left", border_style=style,
                  subtitle=Text(_short(one.reason), style="dim"), subtitle_align="left")
        )  # fmt: skip
    spent = sum(one.tokens for one in prompt.sections)
    table = Table.grid(padding=(0, 2))
    table.add_row("file", printable(path))
    table.add_row("prompt", f"{len(prompt.ids)} of {prompt.budget_tokens} tokens")
    table.add_row("control tokens", str(len(prompt.ids) - spent))
    table.add_row("layout", f"{prompt.layout.family}, {prompt.kind}")
    for what in prompt.cut:
        table.add_row("cut", _short(what))
    return Group(*parts, table)


def _short(text: str, limit: int = 160) -> str:
    text = printable(text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
