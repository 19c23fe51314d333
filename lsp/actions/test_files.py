"""Where the tests of a file go. The model does not decide it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from assistant.errors import RequestError
from context import Document
from context.index.open_file import UnreadableError, inside, open_text
from context.index.read_policy import is_secret

_IS_TEST = re.compile(r"(?:^|[._-])(?:test|tests|spec)(?:[._-]|$)|(?:Test|Tests|Spec)$")
_LARGEST_BYTES = 1 << 20


class TestConvention(msgspec.Struct, frozen=True):
    """See `test_files.toml`."""

    framework: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """The file that gets the tests, and its text; None if it is to be made."""

    path: Path
    text: str | None


@cache
def _conventions() -> dict[str, TestConvention]:
    table = tomllib.loads((resources.files("lsp.actions") / "test_files.toml").read_text("utf-8"))
    aliases: dict[str, list[str]] = table.pop("alias")
    conventions = {name: msgspec.convert(row, TestConvention) for name, row in table.items()}
    conventions |= {
        other: conventions[name] for name, others in aliases.items() for other in others
    }
    return conventions


def convention_of(document: Document) -> TestConvention | None:
    """How tests are written in the document's language; None if there is no rule."""
    return _conventions().get(document.language.name) if document.language is not None else None


def is_test(path: Path) -> bool:
    """Whether a file looks like one of tests itself."""
    return _IS_TEST.search(path.stem) is not None


def target(path: Path, roots: Sequence[Path], convention: TestConvention) -> Target:
    """Where the tests of `path` go. Looks at the disk.

    Raises:
        RequestError: the file that they belong in cannot be read, or no place for them is in the
            workspace.
    """
    candidates = _candidates(path, roots, convention)
    if not candidates:
        raise RequestError(
            "every file for its tests is outside of the workspace",
            subject=str(path),
            advice="Replace the links that lead out of it",
        )
    for one in candidates:
        if one.is_file():
            return Target(one, _read(one, roots or (path.parent,)))
    made = next((one for one in candidates if one.parent.is_dir()), candidates[-1])
    return Target(made, None)


def _candidates(path: Path, roots: Sequence[Path], convention: TestConvention) -> list[Path]:
    root = next((one for one in roots if path.is_relative_to(one)), path.parent)
    fields = {
        "folder": str(path.parent),
        "root": str(root),
        "inside": str(path.parent.relative_to(root)),
        "stem": path.stem,
        "ext": path.suffix,
    }
    made = [Path(template.format(**fields)) for template in convention.paths]
    return [one for one in dict.fromkeys(made) if one != path and _may_use(one, roots or [root])]


def _may_use(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a file may be read and written: no link leads out of the workspace or to secrets."""
    found = inside(path, roots)
    return found is not None and not is_secret(str(path)) and not is_secret(str(found))


def _read(path: Path, roots: Sequence[Path]) -> str:
    try:
        return open_text(path, _LARGEST_BYTES, roots)
    except UnreadableError as error:
        raise RequestError(
            f"the file of its tests cannot be used: {error}",
            subject=str(path),
            advice="Fix or move it",
        ) from error
