"""Which lines of a document an action is about: what was selected, or the definition around it."""

from __future__ import annotations

from dataclasses import dataclass

from context import Definition, Document, Kind
from context.syntax.text import line_end, line_start
from lsp.actions import conventions
from lsp.actions.document_range import DocumentRange
from lsp.actions.offer import RangeFacts
from lsp.documents.site import language
from lsp.documents.uri import path_of

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
    source = document.source
    if source is None:
        return None
    text = document.text
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
        instruction=_instruction(block, document_range.language),
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
