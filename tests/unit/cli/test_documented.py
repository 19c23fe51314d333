"""Every command and every make target that users run is in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer.main

from assistant.cli import build_app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "assistant" / "docs").glob("*.md")]
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
