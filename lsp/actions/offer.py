"""Which actions are offered for a range. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

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
