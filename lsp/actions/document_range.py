"""A document at one version with a range of it, and how a client's command names both. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from lsprotocol import types

from assistant.errors import RequestError
from lsp.documents.document import Document, Place, one_line_end

Position = tuple[int, int]
"""A client position: line and units, both from 0."""

Span = tuple[Position, Position]


@dataclass(frozen=True)
class DocumentRange:
    """A document and a range of it. Every line ends with `\\n`, also where the document uses CRLF.

    Attributes:
        start, stop: the range, in characters of `text`; equal for a cursor.
        line_end: the line end of the document.
    """

    uri: str
    version: int
    language: str
    text: str
    start: int = 0
    stop: int = 0
    line_end: str = "\n"

    @cached_property
    def lines(self) -> list[str]:
        """The lines without their ends; the last one is empty where the text ends with an end."""
        return self.text.split("\n")

    @cached_property
    def starts(self) -> list[int]:
        """Where each line begins."""
        return list(accumulate((len(line) + 1 for line in self.lines[:-1]), initial=0))

    @property
    def span_bytes(self) -> tuple[int, int]:
        """The range in bytes of UTF-8."""
        return len(self.text[: self.start].encode()), len(self.text[: self.stop].encode())

    def block(self, first: int, stop: int) -> str:
        """The lines from `first` up to and without `stop`, each with an end."""
        return "".join(f"{line}\n" for line in self.lines[first:stop])


def document_range_of(document: Document, start: Position, end: Position) -> DocumentRange:
    """The current text of a document with a range; `start` and `end` may be swapped."""
    document_range = DocumentRange(
        uri=document.uri,
        version=document.version,
        language=document.language,
        text=one_line_end(document.text),
        line_end="\r\n" if document.line(0).endswith("\r\n") else "\n",
    )
    first, last = sorted((document.place(*start), document.place(*end)))
    return replace(
        document_range, start=_offset(document_range, first), stop=_offset(document_range, last)
    )


def _offset(document_range: DocumentRange, place: Place) -> int:
    return min(document_range.starts[place.line] + place.column, len(document_range.text))


def name_of(uri: str) -> str:
    """The file's name for a prompt or a title."""
    return PurePosixPath(unquote(urlsplit(uri).path)).name or "untitled"


@dataclass(frozen=True)
class RangeArgument:
    """A range of a document, as the client counts."""

    uri: str
    span: Span


def command_argument(arguments: tuple[Any, ...]) -> Mapping[str, Any]:
    """The one object that our commands take.

    Raises:
        RequestError: there is none.
    """
    if not arguments or not isinstance(arguments[0], Mapping):
        raise RequestError("the command's argument is missing", advice="See editors/PROTOCOL.md")
    return arguments[0]


def range_argument(raw: Mapping[str, Any], *, ranged: bool = True) -> RangeArgument:
    """The document, and the range unless it may be missing.

    Raises:
        RequestError: it is not written as the protocol says.
    """
    try:
        uri = raw["textDocument"]["uri"]
        span = raw["range"] if ranged or "range" in raw else None
        pairs = (_pair(span["start"]), _pair(span["end"])) if span else ((0, 0), (0, 0))
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"the command's argument cannot be read ({error!r})", advice="See editors/PROTOCOL.md"
        ) from error
    if not isinstance(uri, str):
        raise RequestError("the document's URI is not a text", advice="See editors/PROTOCOL.md")
    return RangeArgument(uri, pairs)


def text_argument(raw: Mapping[str, Any], name: str) -> str:
    """A field that is a text; empty where it is missing or something else."""
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def diagnostic_text(diagnostic: types.Diagnostic | Mapping[str, Any] | None) -> str:
    """What a tool says, with its name, its rule and the line."""
    if diagnostic is None:
        return ""
    if isinstance(diagnostic, Mapping):
        start = (diagnostic.get("range") or {}).get("start") or {}
        source, code = diagnostic.get("source"), diagnostic.get("code")
        message, line = diagnostic.get("message") or "", start.get("line")
    else:
        source, code = diagnostic.source, diagnostic.code
        message, line = diagnostic.message, diagnostic.range.start.line
    if isinstance(message, types.MarkupContent):
        message = message.value
    who = " ".join(str(part) for part in (source, code) if part not in {None, ""})
    where = f"line {line + 1}: " if isinstance(line, int) else ""
    return f"{where}{who}: {message}" if who else f"{where}{message}"


def _pair(raw: Any) -> Position:
    return int(raw["line"]), int(raw["character"])
