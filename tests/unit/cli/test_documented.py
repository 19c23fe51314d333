"""Every command and make target that users run is documented, and what is documented exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import typer.main

from assistant import settings
from assistant.cli import build_app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "assistant" / "docs").glob("*.md")]
EDITORS = [
    *(ROOT / "editors").glob("*.md"),
    ROOT / "editors" / "vscode" / "README.md",
    ROOT / "editors" / "nvim" / "doc" / "underkeel.txt",
]
FOLDERS = ("assistant/", "lsp/", "context/", "tests/", "editors/", ".ci/")
BUILT = {"editors/vscode/underkeel.vsix"}
SHOWN = r"(?:^ {4}|^\$ |`|^|: )"
"""What comes before a command that a page shows."""
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)


def commands(group: click.Group, above: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        subcommands = getattr(command, "commands", None)
        if subcommands is not None:
            found += commands(command, f"{above}{name} ")  # type: ignore[arg-type]
        elif not command.hidden:
            found.append(above + name)
    return found


def targets() -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE)


@pytest.mark.parametrize("name", commands(typer.main.get_command(build_app())))  # type: ignore[arg-type]
def test_a_command_is_documented(name: str) -> None:
    assert re.search(rf"underkeel {name}(?![\w-])", TEXT), f"no page shows: underkeel {name}"


@pytest.mark.parametrize("name", targets())
def test_a_make_target_is_documented(name: str) -> None:
    shown = re.search(rf"make (?:[\w=-]+ )*{name}(?![\w-])", TEXT)
    assert shown or f"`{name}`" in TEXT, f"no page shows: make {name}"


def test_the_lists_are_not_empty() -> None:
    assert len(targets()) > 20
    assert {"plan", "models pull", "service install"} <= {
        *commands(typer.main.get_command(build_app()))  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("path", [*PAGES, *EDITORS], ids=lambda path: path.name)
def test_options_that_a_page_shows_exist(path: Path) -> None:
    app = typer.main.get_command(build_app())
    shown = re.findall(rf"{SHOWN}underkeel ([a-z][^`\n#]*)", path.read_text(), re.MULTILINE)
    for line in shown:
        command: Any = app
        for word in line.split():
            command = getattr(command, "commands", {}).get(word, command)
        known = {"--help"}.union(*(one.opts for one in command.params))
        assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)) <= known, line


@pytest.mark.parametrize("path", [*PAGES, *EDITORS], ids=lambda path: path.name)
def test_targets_paths_and_settings_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = r"(?:`|^ {4}|^)make (?:[A-Z_]+=\S+ )*([a-z][a-z-]*[a-z])\b(?!-)"
    for name in re.findall(target, text, re.MULTILINE):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
    for code in re.findall(r"`([^`\n]+)`", text):
        for word in code.split():
            name = word.rstrip(":,").partition(":")[0]
            if name.startswith(FOLDERS) and name not in BUILT:
                assert any(ROOT.glob(name.rstrip("/"))), name
    tables = {
        name: {field.name for field in msgspec.structs.fields(table)}
        for name, table in settings.tables().items()
    }
    for table, field in re.findall(r"`([a-z_]+)\.([a-z_]+)`", text):
        if table in tables and (table, field) != ("daemon", "tcp"):  # that one is a file
            assert field in tables[table], f"{table}.{field}"
