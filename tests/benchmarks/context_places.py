"""Masked lines of real, installed packages: the places that the quality benchmark asks for.

A place is a one-line statement inside a function, that occurs once in its file. It "needs another
file" when it uses a name that the file imports from elsewhere in its own package.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

SITE = Path(httpx.__file__).resolve().parents[1]
# Projects of several authors and styles, pinned by requirements.lock; none vendors another.
PACKAGES = (
    "httpx", "httpcore", "starlette", "uvicorn", "click", "rich", "jinja2", "anyio", "pygls",
    "cattrs", "fsspec", "huggingface_hub", "hypothesis", "typer", "pygments", "prometheus_client",
)  # fmt: skip
SEED = 20


@dataclass(frozen=True)
class MaskedLine:
    """Line `row` (0-based) of a file is to be written again."""

    package: str
    path: str
    row: int
    line: str
    elsewhere: bool
    imports: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.package}/{self.path}:{self.row + 1}"


def masked_lines(count: int) -> list[MaskedLine]:
    """`count` places, half of them needing another file, mixed so that any beginning is fair."""
    rng = random.Random(SEED)
    here: list[MaskedLine] = []
    elsewhere: list[MaskedLine] = []
    for package in PACKAGES:
        for path in sorted((SITE / package).rglob("*.py")):
            found = list(_of_file(package, path))
            rng.shuffle(found)
            elsewhere += [one for one in found if one.elsewhere][:3]
            here += [one for one in found if not one.elsewhere][:3]
    rng.shuffle(here)
    rng.shuffle(elsewhere)
    pairs = zip(_spread(here), _spread(elsewhere), strict=False)
    # A line of a function within a function is found twice.
    return list(dict.fromkeys(one for pair in pairs for one in pair))[:count]


def _spread(found: list[MaskedLine]) -> list[MaskedLine]:
    """One of each package in turn, so that a large package does not outweigh the others."""
    by_package: dict[str, list[MaskedLine]] = {}
    for one in found:
        by_package.setdefault(one.package, []).append(one)
    turns = []
    while any(by_package.values()):
        turns += [ones.pop() for ones in by_package.values() if ones]
    return turns


def _of_file(package: str, path: Path) -> Iterator[MaskedLine]:
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    if not 60 <= len(lines) <= 6000:
        return
    tree = ast.parse(text)
    imported = _imported(tree, package, path)
    for node in _statements(tree):
        row = node.lineno - 1
        line = lines[row]
        if node.end_lineno != node.lineno or not 18 <= len(line.strip()) <= 110:
            continue
        if lines.count(line) > 1 or line.strip().startswith(("#", "@", '"', "'")):
            continue
        used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        files = tuple(sorted({imported[name] for name in used if name in imported}))
        yield MaskedLine(
            package,
            str(path.relative_to(SITE / package)),
            row,
            line,
            bool(files),
            files,
        )


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                simple = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Raise, ast.Expr)
                if isinstance(node, simple):
                    yield node


def _imported(tree: ast.Module, package: str, path: Path) -> dict[str, str]:
    """Local name -> path in the package, for what is imported from the package itself."""
    found: dict[str, str] = {}
    folder = path.parent
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = folder
            for _ in range(node.level - 1):
                base = base.parent
            module = base.joinpath(*(node.module or "").split(".")) if node.module else base
        elif (node.module or "").split(".")[0] == package:
            module = SITE.joinpath(*(node.module or "").split("."))
        else:
            continue
        for alias in node.names:
            for file in (
                module / f"{alias.name}.py", module.with_suffix(".py"), module / "__init__.py",
            ):  # fmt: skip
                if file.is_file() and file != path and file.is_relative_to(SITE / package):
                    found[alias.asname or alias.name] = str(file.relative_to(SITE / package))
                    break
    return found
