"""Which actions are offered for a range. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

_LONGEST_TITLE = 72


class Task(StrEnum):
    """What can be done. The values are the last words of the kinds in the protocol."""

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
"""Those whose edit is made when the action is resolved."""


@dataclass(frozen=True)
class Trouble:
    """A diagnostic of the client's.

    Attributes:
        number: its place among those that the client sent.
        text: what is said, with the tool and the code of the rule.
    """

    number: int
    text: str


@dataclass(frozen=True)
class Ground:
    """What stands at the range.

    Attributes:
        selection: something is selected.
        definition: name of the function or class around it; empty where there is none.
        documentable, testable: whether that can be documented and tested here.
        instruction: what a comment at the start of the range asks for.
        blank: the range holds nothing but blanks.
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
    trouble: Trouble | None = None
    instruction: str = ""

    @property
    def kind(self) -> str:
        return KINDS[self.task]


def offers(
    ground: Ground,
    troubles: Sequence[Trouble] = (),
    *,
    only: Iterable[str] = (),
    asks: bool = False,
    unasked: bool = False,
) -> list[Offer]:
    """What is offered, in the order of a menu.

    Args:
        only: kinds that the client wants, subkinds included; all where it names none.
        asks: the client can ask the user for an instruction.
        unasked: nobody opened a menu, the cursor just moved there: only what is about an error or
            a selection, so that the editor's mark for actions means something.
    """
    wanted = tuple(only)
    return [
        offer
        for offer in _all(ground, troubles, asks=asks)
        if _fits(offer.kind, wanted)
        and (not unasked or ground.selection or offer.trouble is not None)
    ]


def _all(ground: Ground, troubles: Sequence[Trouble], *, asks: bool) -> Iterator[Offer]:
    for trouble in troubles:
        yield Offer(Task.FIX, _title("Fix this error", trouble.text), trouble)
    for trouble in troubles:
        yield Offer(Task.EXPLAIN_ERROR, _title("Explain this error", trouble.text), trouble)
    if ground.selection:
        yield Offer(Task.EXPLAIN, "Explain this selection")
    elif not ground.blank:
        yield Offer(Task.EXPLAIN, _title("Explain this", ground.definition))
    yield Offer(Task.EXPLAIN_FILE, "Explain this file")
    if ground.definition and ground.documentable:
        yield Offer(Task.DOCUMENT, _title("Document this", ground.definition))
    if ground.definition and ground.testable:
        yield Offer(Task.TESTS, _title("Write tests for this", ground.definition))
    if asks:
        yield Offer(Task.EDIT, "Edit with an instruction")
    elif ground.instruction:
        title = _title("Edit as the comment says", ground.instruction)
        yield Offer(Task.EDIT, title, instruction=ground.instruction)


def _fits(kind: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(not one or f"{kind}.".startswith(f"{one}.") for one in wanted)


def _title(what: str, about: str) -> str:
    line = " ".join(about.split())
    title = f"{what}: {line}" if line else what
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"
