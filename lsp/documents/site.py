"""Where a suggestion goes, and how far it should reach there. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
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
class Origin:
    """The state of a document that a site was taken from.

    Attributes:
        document: identifies the document.
        revision: number of changes made to it so far.
        kept: for each of the last changes, how many characters at the start and at the end of the
            document it surely left as they were; line ends count as one character.
        left_out: characters of the document before and after the site's text.
        before, after: how many characters of `prefix`, from its start, and of `suffix`, from its
            end, are the document's; the rest was added.
    """

    document: object
    revision: int
    kept: tuple[tuple[int, int], ...]
    left_out: tuple[int, int]
    before: int
    after: int


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
        origin: what it was taken from; None for a text that is in no document.
    """

    prefix: str
    suffix: str
    language_id: str = ""
    control: tuple[str, ...] = ()
    uri: str = ""
    version: int = 0
    origin: Origin | None = field(default=None, compare=False, repr=False)

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


def known_equal(old: Site, new: Site) -> tuple[int, int]:
    """How many characters at the start and at the end two sites' texts surely have in common.

    Nothing is compared: it follows from the changes of their document between the two.
    """
    first, last = old.origin, new.origin
    if first is None or last is None or first.document is not last.document:
        return 0, 0
    changes = last.revision - first.revision
    if first.left_out != last.left_out or not 0 <= changes <= len(last.kept):
        return 0, 0
    starts = [min(origin.before, len(site.prefix)) for origin, site in ((first, old), (last, new))]
    ends = [min(origin.after, len(site.suffix)) for origin, site in ((first, old), (last, new))]
    for start, end in last.kept[len(last.kept) - changes :]:
        starts.append(start - last.left_out[0])
        ends.append(end - last.left_out[1])
    return max(min(starts), 0), max(min(ends), 0)


def leading_blanks(line: str) -> str:
    """The blanks that a line starts with."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def width(blanks: str, tab: int = 4) -> int:
    """How many columns blanks take."""
    return len(blanks.expandtabs(tab))
