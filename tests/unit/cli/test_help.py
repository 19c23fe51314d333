"""`underkeel help`: the pages exist, are linked, and read well in a terminal and in a pipe."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from assistant.cli import COMMANDS, build_app
from assistant.cli import help as help_command
from assistant.cli.help import TOPICS, page
from assistant.errors import RequestError

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "assistant" / "docs"
PAGES = [
    *DOCS.glob("*.md"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
]
RETIRED = re.compile(
    r"\b(mend(s|ed|ing)?|anew|oftener|doubts|wishes|whoever|graphics cards?|cards?|begun|is told"
    r"|to be had|for want of)\b",
    re.IGNORECASE,
)


def test_every_page_is_a_topic_and_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert {path.stem for path in DOCS.glob("*.md")} == set(TOPICS)
    for topic in TOPICS:
        assert f"(assistant/docs/{topic}.md)" in readme


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", text):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#\s]+\.md)#([\w-]+)\)", text):
        heads = re.findall(r"^#+ (.*)$", (path.parent / target).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
    for name in re.findall(r"`(tests/benchmarks/results/[\w./]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_use_no_retired_words(path: Path) -> None:
    found = [match[0] for match in RETIRED.finditer(path.read_text())]
    assert not found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_pages_exist(path: Path) -> None:
    named = re.findall(r"(?:^ {4}|^\$ |`|^)underkeel ([a-z]+)", path.read_text(), re.MULTILINE)
    assert set(named) <= {*COMMANDS, "lsp", "COMMAND"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_commands_uses_no_retired_words(name: str) -> None:
    app = build_app(name)
    group = typer.main.get_command(app)
    texts = [result_of(name, "--help")]
    command = group.commands[name]  # type: ignore[attr-defined]
    texts += [result_of(name, sub, "--help") for sub in getattr(command, "commands", ())]
    for text in texts:
        assert not RETIRED.search(text), RETIRED.search(text)


def test_the_help_lists_the_commands_in_order() -> None:
    listed = re.findall(r"^│ ([a-z]+)  ", result_of("--help"), re.MULTILINE)
    assert listed == list(COMMANDS)


def texts_of(command: Any) -> Iterator[str]:
    """The help of a command, of its options and of its subcommands."""
    yield command.help or ""
    yield from (getattr(one, "help", None) or "" for one in command.params)
    for one in getattr(command, "commands", {}).values():
        yield from texts_of(one)


def test_help_is_shown_whole() -> None:
    """Brackets in it are not read as rich's markup."""
    texts = [*texts_of(typer.main.get_command(build_app()))]
    assert len(texts) > 100
    assert [text for text in texts if Text.from_markup(text).plain != text] == []


NAMING = [
    path
    for pattern in (
        "assistant/**/*.py",
        "lsp/**/*.py",
        "editors/nvim/**/*.lua",
        "editors/nvim/**/*.txt",
        "editors/vscode/src/**/*.ts",
        "editors/vscode/package.json",
        "editors/**/*.md",
    )
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
]


def test_topics_that_are_named_elsewhere_exist() -> None:
    named = {
        topic: path
        for path in [*NAMING, *PAGES]
        for topic in re.findall(r"underkeel help ([a-z][\w-]*)", path.read_text(encoding="utf-8"))
    }
    assert {"api", "agent"} <= named.keys()
    assert {topic: path for topic, path in named.items() if topic not in TOPICS} == {}


def test_every_variable_of_ours_is_in_the_page_of_settings() -> None:
    sources = [*(ROOT / "assistant").rglob("*.py"), *(ROOT / "lsp").rglob("*.py")]
    read = {
        name
        for path in sources
        for name in re.findall(r"\bUNDERKEEL_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert "UNDERKEEL_HOME" in read
    assert {name for name in read if f"`{name}`" not in page("settings")} == set()


def result_of(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(arguments[0]), list(arguments), terminal_width=200)
    assert result.exit_code == 0, result.output
    return result.output


def test_topics_are_listed() -> None:
    listed = result_of("help")
    for topic, subject in TOPICS.items():
        assert topic in listed and subject in listed


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_in_a_pipe_is_plain_text(topic: str) -> None:
    assert result_of("help", topic) == page(topic)
    assert "\x1b" not in page(topic) and "![" not in page(topic)
    assert not re.search(r"\]\(\w+\.md", page(topic)), "links between pages are commands here"


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_in_a_terminal_fits_its_width(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(file=StringIO(), force_terminal=True, width=90, markup=False)
    monkeypatch.setattr(help_command, "console", lambda: out)
    help_command.help_command(topic)
    assert isinstance(out.file, StringIO)
    drawn = out.file.getvalue()
    assert "\x1b[" in drawn
    plain = re.sub(r"\x1b\[[\d;]*m", "", drawn)
    assert "##" not in plain and "](" not in plain
    assert max(map(len, plain.splitlines())) <= 90


@pytest.mark.parametrize(
    ("topic", "advice"),
    [
        ("headrom", "Did you mean headroom?"),
        ("setings", "Did you mean settings?"),
        ("plan", "It is a command: underkeel plan --help"),
        ("qqqq", "All topics: setup"),
        ("../../README", "All topics: setup"),
        ("x" * 10_000, "All topics: setup"),
    ],
)
def test_an_unknown_topic_is_met_with_the_nearest(topic: str, advice: str) -> None:
    error = CliRunner().invoke(build_app("help"), ["help", topic]).exception
    assert isinstance(error, RequestError)
    assert error.advice.startswith(advice)


@pytest.mark.parametrize("topic", ["Settings", " settings ", "settings.md"])
def test_topics_are_found_however_they_are_written(topic: str) -> None:
    assert result_of("help", topic) == page("settings")


def test_help_loads_neither_models_nor_daemon() -> None:
    code = (
        "import sys, assistant.cli.help\n"
        "print([name for name in ('assistant.daemon', 'assistant.models', 'httpx', 'numpy')"
        " if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


WORDED = [
    path
    for folder in ("cli", "settings", "service")
    for path in sorted((ROOT / "assistant" / folder).glob("*.py"))
]


@pytest.mark.parametrize("path", WORDED, ids=lambda path: path.name)
def test_sources_of_what_users_read_use_no_retired_words(path: Path) -> None:
    """Texts, docstrings and names, except names of the memory package."""
    theirs = r'\b\w*CARD\w*\b|\.cards\b|\w+_cards?\b|\b\w*[Ww]ishes\w*\b|"doubts"'
    text = re.sub(theirs, "", path.read_text())
    assert [match[0] for match in RETIRED.finditer(text)] == []
