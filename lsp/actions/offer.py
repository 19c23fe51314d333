"""Which lines of a document an action is about, and which actions are offered there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from context.syntax.text import byte_offset, line_end, line_start
from lsp.actions import conventions
from lsp.actions.document_range import DocumentRange
from lsp.site import embedded_id, language
from lsp.uri import path_of

if TYPE_CHECKING:
    from context import Definition, Document

_LONGEST_TITLE = 72


class Task(StrEnum):
    """What an action does. The values appear in the protocol."""

    EXPLAIN = "explain"
    EXPLAIN_FILE = "explain file"
    EXPLAIN_ERROR = "explain error"
    FIX = "fix"
    DOCUMENT = "document"
    TESTS = "tests"
    EDIT = "edit"


KINDS = {
    Task.EXPLAIN: "underkeel.explain",
    Task.EXPLAIN_FILE: "underkeel.explain",
    Task.EXPLAIN_ERROR: "quickfix.underkeel.explain",
    Task.FIX: "quickfix.underkeel.fix",
    Task.DOCUMENT: "refactor.rewrite.underkeel.document",
    Task.TESTS: "refactor.rewrite.underkeel.tests",
    Task.EDIT: "refactor.rewrite.underkeel.edit",
}
"""See editors/PROTOCOL.md."""

RESOLVED = frozenset({Task.FIX, Task.DOCUMENT, Task.TESTS})
"""Tasks whose edit is computed when the action is resolved."""


@dataclass(frozen=True)
class Diagnostic:
    """A diagnostic that the client sent.

    Attributes:
        number: its index in the request.
        text: the message, with the tool and the code of the rule.
    """

    number: int
    text: str


@dataclass(frozen=True)
class RangeFacts:
    """Facts about a range that decide which actions are offered.

    Attributes:
        selection: the range is not empty.
        definition: name of the enclosing function or class; empty if there is none.
        documentable, testable: whether it can be documented and tested.
        instruction: the text of a comment at the start of the range.
        blank: the range contains only white space.
    """

    selection: bool = False
    definition: str = ""
    documentable: bool = False
    testable: bool = False
    instruction: str = ""
    blank: bool = False


@dataclass(frozen=True)
class Offer:
    """An action as it is offered; `trouble` and `instruction` where it is about one."""

    task: Task
    title: str
    diagnostic: Diagnostic | None = None
    instruction: str = ""

    @property
    def kind(self) -> str:
        return KINDS[self.task]


def offers(
    facts: RangeFacts,
    diagnostics: Sequence[Diagnostic] = (),
    *,
    only: Iterable[str] = (),
    asks_instruction: bool = False,
    automatic: bool = False,
) -> list[Offer]:
    """The offered actions, in menu order.

    Args:
        only: kinds that the client requests, including their subkinds; all if empty.
        asks_instruction: the client can ask the user for an instruction.
        automatic: the request was sent because the cursor moved, not because a menu was opened.
            Then only actions for a diagnostic or a selection are offered, so that the editor does
            not show its light bulb everywhere.
    """
    kinds = tuple(only)
    return [
        offer
        for offer in _all(facts, diagnostics, asks_instruction=asks_instruction)
        if _fits(offer.kind, kinds)
        and (not automatic or facts.selection or offer.diagnostic is not None)
    ]


def _all(
    facts: RangeFacts, diagnostics: Sequence[Diagnostic], *, asks_instruction: bool
) -> Iterator[Offer]:
    for diagnostic in diagnostics:
        yield Offer(Task.FIX, _title("Fix this error", diagnostic.text), diagnostic)
    for diagnostic in diagnostics:
        yield Offer(Task.EXPLAIN_ERROR, _title("Explain this error", diagnostic.text), diagnostic)
    if facts.selection:
        yield Offer(Task.EXPLAIN, "Explain this selection")
    elif not facts.blank:
        yield Offer(Task.EXPLAIN, _title("Explain this", facts.definition))
    yield Offer(Task.EXPLAIN_FILE, "Explain this file")
    if facts.definition and facts.documentable:
        yield Offer(Task.DOCUMENT, _title("Document this", facts.definition))
    if facts.definition and facts.testable:
        yield Offer(Task.TESTS, _title("Write tests for this", facts.definition))
    if asks_instruction:
        yield Offer(Task.EDIT, "Edit with an instruction")
    elif facts.instruction:
        title = _title("Edit as the comment says", facts.instruction)
        yield Offer(Task.EDIT, title, instruction=facts.instruction)


def _fits(kind: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(not one or f"{kind}.".startswith(f"{one}.") for one in wanted)


def _title(what: str, about: str) -> str:
    line = " ".join(about.split())
    title = f"{what}: {line}" if line else what
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"


_LARGEST_LINES = 120
_AROUND_LINES = 12
_BLANKS = " \t*/-#!<>"


@dataclass(frozen=True)
class Region:
    """The lines from `first` up to and without `stop`, counted from 0.

    Attributes:
        name: of the definition that they are; empty for other lines.
    """

    first: int
    stop: int
    name: str = ""


def definition_at(document: Document, document_range: DocumentRange) -> Definition | None:
    """The innermost function or class that holds the whole range, its own comments included."""
    from context import Kind

    text = document.text
    document.look_at(byte_offset(text, document_range.start))
    source = document.source
    if source is None:
        return None
    around = [
        one
        for one in source.outline.definitions
        if one.kind in {Kind.FUNCTION, Kind.CLASS}
        and line_start(text, one.lead) <= document_range.start
        and document_range.stop <= line_end(text, one.stop)
    ]
    return min(around, key=lambda one: one.stop - one.start, default=None)


def selected(document_range: DocumentRange) -> Region:
    """Whole lines of the range; a selection that ends before a line's first character leaves
    that line out."""
    first = document_range.text.count("\n", 0, document_range.start)
    last = document_range.text.count("\n", 0, document_range.stop)
    if last > first and document_range.text[document_range.stop - 1] == "\n":
        last -= 1
    return Region(first, last + 1)


def of_definition(document_range: DocumentRange, definition: Definition) -> Region:
    """The lines of a definition, without the comments above it."""
    first = document_range.text.count("\n", 0, definition.start)
    last = document_range.text.count("\n", 0, max(definition.stop - 1, definition.start))
    return Region(first, last + 1, definition.name)


def chosen(document: Document, document_range: DocumentRange) -> Region:
    """The selection; for a cursor in a line that says something, the definition around it."""
    region = selected(document_range)
    if document_range.start < document_range.stop or not document_range.lines[region.first].strip():
        return region
    definition = definition_at(document, document_range)
    return of_definition(document_range, definition) if definition is not None else region


def to_fix(document: Document, document_range: DocumentRange) -> Region:
    """What may change to fix an error in the range: the definition around it if it is not too
    long; else some lines around it."""
    definition = definition_at(document, document_range)
    if definition is not None:
        region = of_definition(document_range, definition)
        if region.stop - region.first <= _LARGEST_LINES:
            return region
    region = selected(document_range)
    return Region(
        max(region.first - _AROUND_LINES, 0),
        min(region.stop + _AROUND_LINES, len(document_range.lines)),
    )


def facts_of(document: Document, document_range: DocumentRange) -> RangeFacts:
    """Facts about a range. Parses what has changed of the document."""
    definition = definition_at(document, document_range)
    region = selected(document_range)
    block = document_range.block(region.first, region.stop)
    path = path_of(document_range.uri)
    testable = (
        path is not None
        and conventions.test_convention_of(document) is not None
        and not conventions.is_test_file(path)
    )
    return RangeFacts(
        selection=document_range.start < document_range.stop,
        definition=definition.name if definition is not None else "",
        documentable=conventions.comment_style_of(document) is not None,
        testable=testable,
        instruction=_instruction(
            block, embedded_id(document_range.language, document_range.text[: document_range.start])
        ),
        blank=not block.strip(),
    )


def _instruction(block: str, language_id: str) -> str:
    """What the comment says that the lines begin with."""
    found: list[str] = []
    for line in block.split("\n"):
        if not line.strip() and not found:
            continue
        if not language(language_id).is_comment(line):
            break
        found.append(line.strip(_BLANKS))
    return " ".join(found).strip()
