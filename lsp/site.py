"""The place where a suggestion would stand, and what shape it should have there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from lsp.language import Language, language

_CLOSERS = ")]}>\"'`;:, \t"
_LOOK_CHARS = 1 << 14


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
    """A cursor with the text around it; line ends are `\\n`.

    Attributes:
        prefix, suffix: the text before and after the cursor.
        language_id: LSP language id; may be empty.
        control: control tokens of the model, as text.
    """

    prefix: str
    suffix: str
    language_id: str = ""
    control: tuple[str, ...] = ()

    @property
    def language(self) -> Language:
        return language(self.language_id)

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
