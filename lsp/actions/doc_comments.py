"""Where and how a documentation comment is written. Pure but for its table."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec

from context import Definition, Document
from context.syntax.text import line_end, line_start
from lsp.documents.site import leading_blanks
from lsp.output import with_line_feeds, without_unsafe_characters

_MOST_LINES = 30


class Style(msgspec.Struct, frozen=True):
    """See `doc_comments.toml`."""

    place: str
    each: str
    manner: str
    first: str = ""
    last: str = ""


@dataclass(frozen=True)
class Spot:
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
def _styles() -> dict[str, Style]:
    table = tomllib.loads((resources.files("lsp.actions") / "doc_comments.toml").read_text("utf-8"))
    aliases: dict[str, list[str]] = table.pop("alias")
    styles = {name: msgspec.convert(row, Style) for name, row in table.items()}
    styles |= {other: styles[name] for name, others in aliases.items() for other in others}
    return styles


def style_of(document: Document) -> Style | None:
    """The documentation style of the document's language; None if there is none."""
    return _styles().get(document.language.name) if document.language is not None else None


def spot(document: Document, definition: Definition, style: Style) -> Spot:
    """Where the comment of a definition goes: over the one that it has, if it has one."""
    if style.place == "body" and definition.body is not None:
        return _in_body(document, definition, definition.body)
    text = document.text
    start = line_start(text, definition.start)
    indent = leading_blanks(text[start:])
    above = text[line_start(text, definition.lead) : start]
    if above and all(_is_ours(line, style) for line in above.splitlines() if line.strip()):
        return Spot(line_start(text, definition.lead), start, indent)
    return Spot(start, start, indent)


def written(words: str, style: Style, indent: str) -> str:
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


def _in_body(document: Document, definition: Definition, body: tuple[int, int]) -> Spot:
    text, source = document.text, document.source
    start, stop = body
    docs = source.spans("comments", "doc") if source is not None else []
    head = line_start(text, start)
    if text[head:start].strip():  # the body stands behind the head, in its line
        outer = leading_blanks(text[line_start(text, definition.start) :])
        before = len(text[:start].rstrip(" \t"))
        return Spot(before, start, f"{outer}    ", lead="\n")
    indent = text[head:start]
    old = next((one for one in docs if start <= one[0] and one[1] <= stop), None)
    if old is not None and not text[start : old[0]].strip():
        return Spot(line_start(text, old[0]), line_end(text, old[1]), indent)
    return Spot(head, head, indent)


def _is_ours(line: str, style: Style) -> bool:
    """Whether a line above a definition can be part of a comment in this style."""
    marks = {style.first.strip(), style.each.strip(), style.last.strip()} - {""}
    return line.strip().startswith(tuple(marks))


def _harmless(words: str, style: Style) -> str:
    """Without what would end the comment, or a line of it."""
    words = without_unsafe_characters(with_line_feeds(words))
    if style.last.strip() == "*/":
        return words.replace("*/", "* /")
    if style.last:
        return words.replace(style.last, "'''").rstrip('\\"')
    return words
