"""Where a language's documentation comments and tests go, and how they are written.

The model does not decide it: two tables do, `doc_comments.toml` and `test_files.toml`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from assistant.errors import RequestError
from context.index.open_file import UnreadableError, inside, open_text
from context.index.read_policy import is_secret
from context.syntax.text import line_end, line_start
from lsp.output import with_line_feeds, without_unsafe_characters
from lsp.site import leading_blanks

if TYPE_CHECKING:
    from context import Definition, Document

_MOST_LINES = 30
_LARGEST_BYTES = 1 << 20
_BEHIND_HEAD = re.compile(r"(?:[ \t]|\\\n)+\Z")
_UNICODE_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\(?=u)")
"""The backslash of a Unicode escape: an even number of them stands before it (JLS, section 3.3)."""
_IS_TEST = re.compile(r"(?:^|[._-])(?:test|tests|spec)(?:[._-]|$)|(?:Test|Tests|Spec)$")


class CommentStyle(msgspec.Struct, frozen=True):
    """See `doc_comments.toml`."""

    place: str
    each: str
    manner: str
    first: str = ""
    last: str = ""
    unicode_escapes: bool = False


@dataclass(frozen=True)
class CommentSpot:
    """Characters of the document that the comment takes the place of; none for a new one.

    Attributes:
        indent: what its lines begin with.
        lead: what must stand before it (a line end, where the body stands in the head's line).
    """

    start: int
    stop: int
    indent: str
    lead: str = ""


@cache
def _comment_styles() -> dict[str, CommentStyle]:
    table = tomllib.loads((resources.files("lsp.actions") / "doc_comments.toml").read_text("utf-8"))
    aliases: dict[str, list[str]] = table.pop("alias")
    styles = {name: msgspec.convert(row, CommentStyle) for name, row in table.items()}
    styles |= {other: styles[name] for name, others in aliases.items() for other in others}
    return styles


def comment_style_of(document: Document) -> CommentStyle | None:
    """The documentation style of the document's language; None if there is none."""
    return _comment_styles().get(document.language.name) if document.language is not None else None


def comment_spot(document: Document, definition: Definition, style: CommentStyle) -> CommentSpot:
    """Where the comment of a definition goes: over the one that it has, if it has one."""
    if style.place == "body" and definition.body is not None:
        return _in_body(document, definition, definition.body)
    text = document.text
    start = line_start(text, definition.start)
    if "<?" in text[start : definition.start]:  # PHP: what stands before the mark is no code
        return CommentSpot(definition.start, definition.start, "", lead="\n")
    indent = leading_blanks(text[start:])
    above = text[line_start(text, definition.lead) : start]
    if above and all(_is_ours(line, style) for line in above.splitlines() if line.strip()):
        return CommentSpot(line_start(text, definition.lead), start, indent)
    return CommentSpot(start, start, indent)


def written_comment(words: str, style: CommentStyle, indent: str) -> str:
    """The lines of the comment, each with its end."""
    lines = [line.rstrip() for line in _harmless(words, style).split("\n")][:_MOST_LINES]
    if style.place == "body":
        raw = "r" if "\\" in words else ""
        if len(lines) == 1:
            made = [f"{raw}{style.first}{lines[0]}{style.last}"]
        else:
            made = [f"{raw}{style.first}{lines[0]}", *lines[1:], style.last]
    else:
        made = [f"{style.each}{line}".rstrip() for line in lines]
        if style.first:
            made = [style.first, *made, style.last]
    return "".join(f"{indent}{line}".rstrip() + "\n" for line in made)


def _in_body(document: Document, definition: Definition, body: tuple[int, int]) -> CommentSpot:
    text, source = document.text, document.source
    start, stop = body
    docs = source.spans("comments", "doc") if source is not None else []
    head = line_start(text, start)
    if text[head:start].strip() or text[:head].endswith("\\\n"):  # in the line of the head
        outer = leading_blanks(text[line_start(text, definition.start) :])
        before = _BEHIND_HEAD.search(text, max(start - 200, 0), start)
        at = before.start() if before is not None else start
        return CommentSpot(at, start, f"{outer}    ", lead="\n")
    indent = text[head:start]
    old = next((one for one in docs if start <= one[0] and one[1] <= stop), None)
    if old is not None and not text[start : old[0]].strip():
        end = line_end(text, old[1])
        if rest := text[old[1] : end].strip().lstrip("; \t"):  # more stands behind it
            at = text.rindex("\n", 0, old[0])
            return CommentSpot(at, text.index(rest, old[1]), indent, lead="\n")
        return CommentSpot(line_start(text, old[0]), line_end(text, old[1]), indent)
    return CommentSpot(head, head, indent)


def _is_ours(line: str, style: CommentStyle) -> bool:
    """Whether a line above a definition can be part of a comment in this style."""
    marks = {style.first.strip(), style.each.strip(), style.last.strip()} - {""}
    return line.strip().startswith(tuple(marks))


def _harmless(words: str, style: CommentStyle) -> str:
    """Without what would end the comment, or a line of it."""
    words = without_unsafe_characters(with_line_feeds(words))
    if style.unicode_escapes:
        words = _UNICODE_ESCAPE.sub(r"\1\\\\", words)
    if style.last.strip() == "*/":
        return words.replace("*/", "* /")
    if style.last:
        return words.replace(style.last, "'''").rstrip('\\" \t\n')
    return words


class TestConvention(msgspec.Struct, frozen=True):
    """See `test_files.toml`."""

    framework: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class TestTarget:
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


def test_convention_of(document: Document) -> TestConvention | None:
    """How tests are written in the document's language; None if there is no rule."""
    return _conventions().get(document.language.name) if document.language is not None else None


def is_test_file(path: Path) -> bool:
    """Whether a file looks like one of tests itself."""
    return _IS_TEST.search(path.stem) is not None


def test_target(path: Path, roots: Sequence[Path], convention: TestConvention) -> TestTarget:
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
            return TestTarget(one, _read(one, roots or (path.parent,)))
    made = next((one for one in candidates if one.parent.is_dir()), candidates[-1])
    return TestTarget(made, None)


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
