"""Where a suggestion goes, how far it should reach there, and what its language requires. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from typing import Any

_LOOK_CHARS = 1 << 14


@dataclass(frozen=True)
class Language:
    """See `languages.toml`."""

    comment: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    opening: re.Pattern[str] | None = None
    block: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    tabs: re.Pattern[str] | None = None

    def is_comment(self, line: str) -> bool:
        """Whether a line, outside a comment of several lines, starts with a comment."""
        start = line.lstrip()
        if not start or start.startswith(self.code):
            return False
        return start.startswith((*self.comment, *self.block[:1]))

    def in_comment(self, text: str) -> bool:
        """Whether a comment of several lines is open at the end of `text`."""
        if not self.block:
            return False
        opener, closer = self.block
        return text.rfind(opener) > text.rfind(closer)

    def only_comments(self, text: str, before: str = "") -> bool:
        """Whether `text`, which follows `before`, has no line with anything but comments.

        `text` starts at the start of a line.
        """
        opener, closer = self.block or ("", "")
        inside = self.in_comment(before[-_LOOK_CHARS:])
        for line in text.split("\n"):
            rest = line
            while rest.strip():
                if inside:
                    _, ended, rest = rest.partition(closer)
                    inside = not ended
                elif not self.is_comment(rest):
                    return False
                elif opener and rest.lstrip().startswith(opener):
                    inside, rest = True, rest.lstrip()[len(opener) :]
                else:
                    break
        return True

    def opens_block(self, line: str) -> bool:
        """Whether a deeper block follows after this line."""
        words = line.rstrip()
        if words.endswith(("{", "(", "[", "=>")):
            return True
        if self.opening is not None and self.opening.search(words):
            return True
        for mark in self.opens:
            if words.endswith(mark):
                before = words[: -len(mark)]
                return not (mark[0].isalpha() and before[-1:].isalnum())
        return False


@cache
def language(name: str) -> Language:
    """The table's row for an editor's language id; a default for those that it does not have."""
    from context.syntax.language import canonical_id

    rows = _rows()
    return rows.get(canonical_id(name), rows["default"])


@cache
def _table() -> dict[str, Any]:
    import tomllib
    from importlib import resources

    return tomllib.loads((resources.files("lsp.documents") / "languages.toml").read_text("utf-8"))


@cache
def _rows() -> dict[str, Language]:
    table = {name: row for name, row in _table().items() if name != "alias"}
    aliases: dict[str, list[str]] = _table()["alias"]
    rows = {
        name: Language(
            comment=tuple(row["comment"]),
            opens=tuple(row["opens"]),
            opening=re.compile(row["opening"]) if "opening" in row else None,
            block=tuple(row.get("block", ())),
            code=tuple(row.get("code", ())),
            tabs=re.compile(row["tabs"]) if "tabs" in row else None,
        )
        for name, row in table.items()
    }
    return rows | {alias: rows[name] for name, names in aliases.items() for alias in names}


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
