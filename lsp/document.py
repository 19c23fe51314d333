"""A document as the editor sees it now: its text, its version, and its positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lsp.lines import Lines, split
from lsp.positions import Encoding, Place, body, clean, to_column, to_units

WHOLE_TEXT_CHARS = 1 << 20
"""A longer document is not handed on whole, but as the blocks of lines around the cursor."""

_NEIGHBOUR_BLOCKS = 4


class Document:
    """The text of one open file, edited as the client says.

    Attributes:
        uri: the client's name for it.
        language: LSP language id ("python"); may be empty.
        version: the client's version of the text held now.
        edited: where the last edit ended; the start of the file before the first.
    """

    def __init__(
        self,
        uri: str,
        text: str,
        *,
        encoding: Encoding = Encoding.UTF16,
        version: int = 0,
        language: str = "",
    ) -> None:
        self.uri = uri
        self.language = language
        self.version = version
        self.edited = Place(0, 0)
        self._encoding = encoding
        self._lines = Lines(clean(text))

    def __len__(self) -> int:
        """How many lines there are; at least one."""
        return len(self._lines)

    def line(self, number: int) -> str:
        """A line with its end."""
        return self._lines[number]

    @property
    def text(self) -> str:
        return self._lines.text()

    def replace_all(self, text: str) -> None:
        """Take a new text as a whole."""
        self._lines = Lines(clean(text))
        self.edited = self.clamp(self.edited)

    def replace(self, start: tuple[int, int], end: tuple[int, int], text: str) -> None:
        """Put `text` between two client positions (line, units); swapped ones are put right."""
        first, last = sorted((self.place(*start), self.place(*end)))
        text = clean(text)
        head = self._lines[first.line][: first.column]
        tail = self._lines[last.line][last.column :]
        self._lines.replace(first.line, last.line, f"{head}{text}{tail}")
        self.edited = self.clamp(_end_of(first, text))

    def place(self, line: int, units: int) -> Place:
        """The place of a client position. One past the end of a line is the line's end; one past
        the last line is the end of the document."""
        if line >= len(self._lines):
            last = len(self._lines) - 1
            return Place(last, len(self._lines[last]))
        line = max(line, 0)
        return Place(line, to_column(self._lines[line], units, self._encoding))

    def position(self, place: Place) -> tuple[int, int]:
        """The client position (line, units) of a place."""
        return place.line, to_units(self._lines[place.line], place.column, self._encoding)

    def offset(self, place: Place) -> int:
        """How many characters of `text` stand before a place."""
        return self._lines.chars_before(place.line) + place.column

    def units(self, text: str) -> int:
        """How many of the client's units `text` takes on one line."""
        return to_units(text, len(text), self._encoding)

    def clamp(self, place: Place) -> Place:
        """The nearest place that exists."""
        line = min(max(place.line, 0), len(self._lines) - 1)
        return Place(line, min(max(place.column, 0), len(body(self._lines[line]))))

    def snapshot(self, place: Place) -> Snapshot:
        """What a request sees: the text around `place` as it is now."""
        text, start = self._around(place.line)
        cursor = self._lines.chars_before(place.line) + place.column - start
        return Snapshot(
            uri=self.uri,
            version=self.version,
            language=self.language,
            prefix=one_line_end(text[max(cursor - WHOLE_TEXT_CHARS, 0) : cursor]),
            suffix=one_line_end(text[cursor : cursor + WHOLE_TEXT_CHARS]),
        )

    def _around(self, line: int) -> tuple[str, int]:
        """The text around a line, and how many characters of the document lie before it.

        Of a huge document only the blocks near the line: their borders stay where they are while
        the user types, and so does the start of the prompt.
        """
        if self._lines.chars <= WHOLE_TEXT_CHARS:
            return self._lines.text(), 0
        block = self._lines.block_of(line)
        text, first = self._lines.block_text(block - _NEIGHBOUR_BLOCKS, block + _NEIGHBOUR_BLOCKS)
        return text, self._lines.chars_before(first)


@dataclass(frozen=True)
class Snapshot:
    """A document and a cursor at one moment.

    Its text ends every line with `\\n`, whatever the document does: models know that best, and
    editors keep a file's own line ends when they insert a suggestion.

    Attributes:
        prefix, suffix: the text before and after the cursor; of a huge document, a part of it.
    """

    uri: str
    version: int
    language: str
    prefix: str
    suffix: str

    @property
    def text(self) -> str:
        return self.prefix + self.suffix

    @cached_property
    def cursor_byte(self) -> int:
        """UTF-8 bytes of `text` before the cursor."""
        return len(self.prefix.encode())


def _end_of(start: Place, text: str) -> Place:
    """Where a text that starts at `start` ends."""
    lines = split(text)
    last = len(lines) - 1
    return Place(start.line + last, len(lines[-1]) + (0 if last else start.column))


def one_line_end(text: str) -> str:
    """`text` with `\\n` for every line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
