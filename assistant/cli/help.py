"""`underkeel help`: the pages of the documentation, in the terminal."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table

from assistant.cli.terminal import console
from assistant.errors import RequestError

TOPICS = {
    "setup": "Set up, check a GPU, remove",
    "models": "Choose, plan and load a model",
    "headroom": "What happens when memory gets short",
    "context": "What the model sees",
    "typing": "Ghost text, its speed, statistics",
    "next-edits": "The change that follows from your last ones",
    "actions": "Explanations and edits",
    "agent": "The agent: tasks, permissions, editors",
    "service": "The daemon, the service, upgrades",
    "remote": "Remote engines, teams, a second model",
    "security": "What is trusted, what a workspace may set",
    "api": "The HTTP API",
    "clients": "Settings for other clients",
    "settings": "All settings, with ranges and defaults",
    "troubleshooting": "When something is wrong",
}
"""The pages in `assistant/docs` in reading order, each with its subject."""

_WIDTH = 100
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n?")
_TOPIC_LINK = re.compile(r"\[[^\]]*\]\(([\w-]+)\.md(?:#[\w-]*)?\)")


def register(app: typer.Typer) -> None:
    app.command("help")(help_command)


def help_command(
    topic: Annotated[
        str, typer.Argument(help="One of the topics; without it they are listed.")
    ] = "",
) -> None:
    """Show a page of the documentation. Options of a command: underkeel COMMAND --help."""
    out = console()
    name = topic.strip().lower().removesuffix(".md")
    if not name:
        table = Table.grid(padding=(0, 2))
        for one, subject in TOPICS.items():
            table.add_row(one, subject)
        out.print(table, "", "Show one: underkeel help TOPIC", sep="\n")
        return
    if name not in TOPICS:
        raise RequestError("there is no such topic", subject=topic, advice=_nearest(name))
    text = page(name)
    if out.is_terminal:
        out.print(
            Markdown(text, code_theme="ansi_dark", hyperlinks=False),
            width=min(out.width, _WIDTH),
        )
    else:
        typer.echo(text, nl=False)


def page(topic: str) -> str:
    """A page in Markdown for the terminal: without pictures, links as commands."""
    text = resources.files("assistant").joinpath("docs", f"{topic}.md").read_text("utf-8")
    return _TOPIC_LINK.sub(r"`underkeel help \1`", _IMAGE.sub("", text))


def _nearest(name: str) -> str:
    from assistant.cli import COMMANDS

    if name in COMMANDS:
        return f"It is a command: underkeel {name} --help"
    near = difflib.get_close_matches(name[:100], TOPICS, 1, 0.5)
    known = f"All topics: {', '.join(TOPICS)}"
    return f"Did you mean {near[0]}? {known}" if near else known
