"""Where a suggestion goes, and how far it should reach there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from lsp.documents.languages import Language, embedded_id, language

_LOOK_CHARS = 1 << 14
_CLOSERS = ")]}>\"'`;:, \t"


class Shape(StrEnum):
    """How far a suggestion should go.

    `middle` stays on the cursor's line, before other code; `line` ends with the line; `block` ends
    where the block does.
    """

    MIDDLE = "middle"
    LINE = "line"
    BLOCK = "block"


@dataclass(frozen=True)
class Site:
    """A cursor in a document at one moment, with the text around it.

    Line ends are `\\n`, whatever the document has: models know that best, and editors keep a file's
    own line ends when they insert a suggestion.

    Attributes:
        prefix, suffix: the text before and after the cursor; of a huge document, a part of it.
        language_id: LSP language id; may be empty.
        control: control tokens of the model, as text.
        uri, version: of the document.
    """

    prefix: str
    suffix: str
    language_id: str = ""
    control: tuple[str, ...] = ()
    uri: str = ""
    version: int = 0

    @property
    def text(self) -> str:
        return self.prefix + self.suffix

    @cached_property
    def cursor_byte(self) -> int:
        """UTF-8 bytes of `text` before the cursor."""
        return len(self.prefix.encode())

    @cached_property
    def code_language_id(self) -> str:
        """VS Code's id of the language at the cursor: of code in another language's document, such
        as a script in HTML or a fenced block in Markdown, else the document's."""
        return embedded_id(self.language_id, self.prefix)

    @cached_property
    def language(self) -> Language:
        return language(self.code_language_id)

    @cached_property
    def line_prefix(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]

    @cached_property
    def line_suffix(self) -> str:
        """The cursor's line from the cursor."""
        return self.suffix.partition("\n")[0]

    @cached_property
    def indent(self) -> str:
        """The blanks at the start of the cursor's line, up to the cursor."""
        return leading_blanks(self.line_prefix)

    @cached_property
    def previous_line(self) -> str:
        """The nearest line above that is not blank; empty if there is none."""
        before = self.prefix[-_LOOK_CHARS:][: -len(self.line_prefix) or None]
        return next((line for line in reversed(before.split("\n")) if line.strip()), "")

    @cached_property
    def next_line(self) -> str:
        """The nearest line below that is not blank; empty if there is none."""
        after = self.suffix[len(self.line_suffix) : len(self.line_suffix) + _LOOK_CHARS]
        return next((line for line in after.split("\n") if line.strip()), "")

    @cached_property
    def shape(self) -> Shape:
        """What to suggest here, by the cursor's line alone."""
        if self.line_suffix.strip(_CLOSERS):
            return Shape.MIDDLE
        if self.line_suffix.strip():
            return Shape.LINE
        if not self.line_prefix.strip() or self.language.opens_block(self.line_prefix):
            return Shape.BLOCK
        return Shape.LINE


def leading_blanks(line: str) -> str:
    """The blanks that a line starts with."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def width(blanks: str, tab: int = 4) -> int:
    """How many columns blanks take."""
    return len(blanks.expandtabs(tab))
