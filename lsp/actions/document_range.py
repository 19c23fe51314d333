"""A document at one version, and a range of it: what a code action works on. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from lsp.documents.document import Document, one_line_end
from lsp.documents.positions import Place

Position = tuple[int, int]
"""A client position: line and units, both from 0."""


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
