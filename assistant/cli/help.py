"""`underkeel help`: the pages of the documentation, in the terminal.

`python -m assistant.cli.help` prints the page of all settings, `assistant/docs/settings.md`, which
is written from the fields' rules. A test compares the two.
"""

from __future__ import annotations

import difflib
import re
import sys
from importlib import resources
from typing import Annotated

import msgspec
import typer
from rich.markdown import Markdown
from rich.table import Table

from assistant.cli.terminal import console
from assistant.errors import RequestError
from assistant.settings import Editor, rule_of, tables

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
_HEAD = """\
# Settings

One TOML file, `config.toml`, in `~/.config/underkeel` on Linux,
`~/Library/Application Support/underkeel` on macOS and `%LOCALAPPDATA%\\underkeel\\underkeel` on
Windows. It need not exist.

```toml
[model]
name = "my-model"
n_ctx = 16384

[completion]
excludes = ["private/", "*.sql"]
```

A value of the wrong type or out of range is reported and its default is used. An unknown name is
reported and ignored. The daemon looks for a saved file every five seconds; a wrong value then
leaves its setting unchanged. `underkeel reload` lists what took effect, and what waits for a
restart or for the next load of a model.

## What an editor or a workspace may set

An editor sends options (`initializationOptions`, `workspace/didChangeConfiguration`), and many
editors take them from files of the workspace, which is not trusted. So these options can only make
your settings stricter:

"""
_TAIL = """\

Everything else is read from your own file only: a workspace can set no model, program, library,
server, port or key. An entry of an editor's list that begins with `!`, which would take back
entries of yours, is ignored. What is refused is reported.

## Environment variables

| variable | meaning |
|---|---|
| `UNDERKEEL_HOME` | one folder for settings, models, caches, logs and socket |
| `UNDERKEEL_MODELS` | the folder of downloaded models |
| `UNDERKEEL_DEBUG` | `1` shows the traceback of an unexpected error |
| `UNDERKEEL_MEASURE` | `0` assumes the speed of this machine and measures nothing |
| `UNDERKEEL_GGML_BACKENDS` | backend libraries, in place of `engine.backend_libraries` |
| `HF_TOKEN`, `HF_ENDPOINT` | token and address of the Hugging Face Hub |
"""


def register(app: typer.Typer) -> None:
    app.command("help")(help_command)


def help_command(
    topic: Annotated[str, typer.Argument(help="A topic; without one, all topics are listed.")] = "",
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


def settings_page() -> str:
    """The whole page in Markdown."""
    parts = [_HEAD, *_editor_rows(), _TAIL]
    for name, table in tables().items():
        parts.append(f"\n## [{name}]\n\n{(type(table).__doc__ or '').strip()}\n\n")
        parts.append("| setting | default | accepted | meaning |\n|---|---|---|---|\n")
        for field in msgspec.structs.fields(table):
            kind, rule = rule_of(field)
            accepted = rule.accepted if kind is not bool else "true, false"
            if kind is tuple:
                accepted = f"list: {accepted}"
            default = msgspec.json.encode(field.default).decode()
            parts.append(f"| `{field.name}` | `{default}` | {accepted} | {rule.meaning} |\n")
    return "".join(parts)


def _editor_rows() -> list[str]:
    rows = ["| setting | options of an editor can |\n|---|---|\n"]
    for name, table in tables().items():
        for field in msgspec.structs.fields(table):
            rule = rule_of(field)[1]
            if rule.editor is not Editor.NEVER:
                rows.append(f"| `{name}.{field.name}` | {rule.editor.value} |\n")
    return rows


if __name__ == "__main__":
    sys.stdout.write(settings_page())
