"""What an action is about: a document at one moment, and a range of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from lsp.documents.document import Document, one_line_end
from lsp.documents.positions import Place

Position = tuple[int, int]
"""A client position: line and units, both from 0."""


@dataclass(frozen=True)
class Scene:
    """A document and a range of it. Every line ends with `\\n`, whatever the document does.

    Attributes:
        start, stop: the range, in characters of `text`; alike for a cursor.
        line_end: what ends the document's own lines.
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


def scene_of(document: Document, start: Position, end: Position) -> Scene:
    """The document as it is now; swapped positions are put right."""
    scene = Scene(
        uri=document.uri,
        version=document.version,
        language=document.language,
        text=one_line_end(document.text),
        line_end="\r\n" if document.line(0).endswith("\r\n") else "\n",
    )
    first, last = sorted((document.place(*start), document.place(*end)))
    return replace(scene, start=_offset(scene, first), stop=_offset(scene, last))


def _offset(scene: Scene, place: Place) -> int:
    return min(scene.starts[place.line] + place.column, len(scene.text))
