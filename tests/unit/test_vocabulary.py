"""Retired words stay out of what users read and of the names in the code; see CONTRIBUTING.

The rule covers strings, identifiers, docstrings, comments and documentation. Each word has a
standard term in its place.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RETIRED = {
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again, or recreate, restart, reinstall",
    r"oftener": "more often",
    r"(is|are|was|were|be) told": "is reported",
    r"(to|can|cannot|could) be had": "available",
    r"for want of": "because there is no ...",
    r"doubts": "caveats",
    r"wish(es)?|wished": "requirements",
    r"outlook": "projection",
    r"(graphics )?cards?": "GPU",
    r"whoever": "who",
    r"autopsy": "crash cause",
    r"gone on with|go on with": "resumed, continued",
    r"prov(e|es|ed|ing) (its|the|their) hash(es)?": "verify the checksum",
    r"estimates? from above": "upper bound",
    r"begun": "started",
}
FOREIGN = re.compile(r"sys/class/drm(/card[\w-]*)?|card\[0-9\]")
"""Words of others: AMD's GPUs are `card0` and so on in Linux's sysfs."""
WORDS = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(RETIRED)})(?![A-Za-z])", re.IGNORECASE)


def found_in(text: str) -> list[str]:
    """The retired words of a text; of an identifier too, whose parts are read as words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", FOREIGN.sub("", text))
    return [match[0] for match in WORDS.finditer(spaced)]


def code_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The strings and the names that a module defines, with their lines. No docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                yield node.lineno, node.value
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def commands(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings of functions in the command line: they are its help."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield node.lineno, text


def check(texts: Iterator[tuple[int, str]], path: Path) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {word!r}"
        for line, text in texts
        for word in found_in(text)
    ]
    assert not wrong, "\n".join(["retired words:", *wrong])


CODE = sorted(
    path for top in ("assistant", "lsp", "context") for path in (ROOT / top).rglob("*.py")
)
TESTS = sorted(
    path
    for path in (ROOT / "tests").rglob("*.py")
    if path.name not in {"test_vocabulary.py", "test_help.py"} and "fixtures" not in path.parts
)
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "assistant/**/*.md",
        "assistant/**/*.toml",
        "lsp/**/*.toml",
        "editors/**/*.md",
        "editors/nvim/**/*.txt",
        "editors/nvim/**/*.lua",
        "editors/vscode/src/**/*.ts",
        "editors/vscode/package.json",
    )
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts and path.name != "CHANGELOG.md"
)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings and comments of a module; a phrase may go over the end of a line."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in {tokenize.COMMENT, tokenize.STRING}:
                yield token.start[0], " ".join(token.string.split())


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_and_its_documentation_use_standard_terms(path: Path) -> None:
    check(code_texts(path), path)
    check(prose(path), path)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_have_no_retired_words(path: Path) -> None:
    check(iter([*code_texts(path), *prose(path)]), path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "assistant" / "cli").glob("*.py")), ids=lambda path: path.name
)
def test_help_uses_standard_terms(path: Path) -> None:
    check(commands(path), path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_standard_terms(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    check(((at, line) for at, line in enumerate(lines, 1)), path)


def test_the_rule_finds_words_in_names_and_texts() -> None:
    assert found_in("mend_indentation") == ["mend"]
    assert found_in("readCards") == ["Cards"]
    assert found_in("Two cards, begun anew.") == ["cards", "begun", "anew"]
    assert found_in("recommend amendment discarded wildcard") == []
