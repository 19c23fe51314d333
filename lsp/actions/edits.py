"""Edits that the model writes: proposed, never made here.

Which document and which lines an edit may touch is decided before the model is asked, from what the
user asked for. Nothing that a file or an answer says can widen that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from assistant.engine.types import StopReason
from assistant.errors import AnswerError, RequestError
from lsp.actions.document_range import (
    Change,
    DocumentRange,
    Proposal,
    describe,
    difference,
    rebased,
    syntax_errors,
)
from lsp.output import clean
from lsp.uri import path_of

if TYPE_CHECKING:
    from assistant.settings import ActionSettings
    from assistant.wire import ChatMessage
    from context import Document
    from lsp.actions.offer import Region
    from lsp.actions.prompts import Question
    from lsp.backend import Backend
    from lsp.completion.prompts import Prompts
    from lsp.served_model import Served

T = TypeVar("T")


class Documents(Protocol):
    """The open documents of the editor."""

    roots: tuple[Path, ...]

    def document_range(self, uri: str) -> DocumentRange | None:
        """A document as it is now; None if it is not open."""
        ...

    def uri_at(self, path: Path) -> str | None:
        """The URI under which the editor has a file open."""
        ...


class Edits:
    """Edits that the model writes for the documents of one editor.

    Args:
        prompts: see `Explanations`.
    """

    def __init__(
        self, backend: Backend, prompts: Callable[[], Prompts], documents: Documents
    ) -> None:
        self._backend = backend
        self._prompts = prompts
        self._documents = documents

    async def fixed(
        self, document_range: DocumentRange, diagnostic: str, settings: ActionSettings
    ) -> Proposal:
        """Fix what a diagnostic reports in the range."""
        from lsp.actions import offer, prompts

        region = await self._study(
            document_range, lambda document: offer.to_fix(document, document_range)
        )
        question = prompts.rewriting(document_range, region, "fix", diagnostic=diagnostic)
        return await self._rewritten(question, region, settings, "Fix this error")

    async def instructed(
        self, document_range: DocumentRange, instruction: str, settings: ActionSettings
    ) -> Proposal:
        """Change the lines of the range as an instruction says; in blank ones, write new code."""
        from lsp.actions import offer, prompts

        if not instruction.strip():
            raise RequestError("there is no instruction", advice="Say what is to change")
        region = await self._study(
            document_range, lambda document: offer.chosen(document, document_range)
        )
        blank = not document_range.block(region.first, region.stop).strip()
        which = "insertion" if blank else "instruction"
        question = prompts.rewriting(document_range, region, which, instruction=instruction.strip())
        return await self._rewritten(question, region, settings, "Edit with an instruction")

    async def documented(self, document_range: DocumentRange, settings: ActionSettings) -> Proposal:
        """Write the documentation comment of the definition around the range."""
        from lsp.actions import conventions, prompts
        from lsp.actions.answer import words_of

        found = await self._study(
            document_range,
            lambda document: prompts.documentation_question(document, document_range),
        )
        words = words_of(await self._answer(found.question, settings))
        if not words:
            raise AnswerError("the model wrote no documentation", advice="Try again")
        spot = found.spot
        comment = conventions.written_comment(words, found.style, spot.indent)
        behind = spot.indent if spot.lead else ""
        old = document_range.text
        text = f"{old[: spot.start]}{spot.lead}{comment}{behind}{old[spot.stop :]}"
        change = difference(document_range.lines, 0, len(document_range.lines), text.split("\n"))
        return await self._proposal(document_range, change, f"Document {found.question.name}")

    async def tested(self, document_range: DocumentRange, settings: ActionSettings) -> Proposal:
        """Write tests for the definition around the range, into the file where they belong."""
        from lsp.actions import prompts
        from lsp.actions.answer import code_of

        path = path_of(document_range.uri)
        if path is None:
            raise RequestError("only a file can be tested", advice="Save this document first")
        roots = self._documents.roots
        asked = await self._study(
            document_range,
            lambda document: prompts.tests_question(document, document_range, path, roots),
        )
        uri = self._documents.uri_at(asked.target.path) or asked.target.path.as_uri()
        known = self._documents.document_range(uri)
        old = known.text if known is not None else asked.target.text
        shown = old if self._prompts().shows_workspace else None
        code = code_of(await self._answer(asked.on(shown), settings), "")
        if not code:
            raise AnswerError("the model wrote no tests", advice="Try again")
        label = f"Write tests for {asked.question.name}"
        lines = tuple(code.split("\n"))
        if old is None:
            made = DocumentRange(uri, 0, document_range.language, "")
            change = Change(0, 1, (*lines, ""))
            return replace(
                await self._checked(made, change, f"{label} in a new file"),
                version=None,
                creates=True,
            )
        target = known or DocumentRange(uri, 0, document_range.language, old)
        end = len(target.text.rstrip().split("\n")) if target.text.strip() else 0
        change = Change(end, len(target.lines), ("", "", *lines, "")[0 if end else 2 :])
        if known is not None:
            return await self._proposal(known, change, label)
        return replace(await self._checked(target, change, label), version=None)

    async def _rewritten(
        self, question: Question, region: Region, settings: ActionSettings, label: str
    ) -> Proposal:
        from lsp.actions.answer import code_of, fitted, place_for

        document_range = question.document_range
        old = document_range.block(region.first, region.stop)
        like = old if old.strip() else place_for(document_range.lines, region.first)
        code = code_of(await self._answer(question, settings), old)
        if not code:
            raise AnswerError("the model answered in words, not in code", advice="Try again")
        lines = fitted(code, like).split("\n")
        change = difference(
            document_range.lines, region.first, min(region.stop, len(document_range.lines)), lines
        )
        name = f" in {question.name}" if question.name else ""
        return await self._proposal(document_range, change, label + name)

    async def _answer(self, question: Question, settings: ActionSettings) -> str:
        """The answer of the model, if it is complete."""
        from lsp.actions.answer import Limits, complete_chat

        control: tuple[str, ...] = ()

        async def make(served: Served, room_tokens: int) -> list[ChatMessage]:
            nonlocal control
            control = served.fim.control
            return await question.messages(self._prompts(), served, room_tokens)

        limits = Limits(settings.context_tokens, settings.edit_tokens)
        answer = await complete_chat(
            self._backend, make, limits, f"edit {question.document_range.uri}"
        )
        if answer.reason in {StopReason.LENGTH, StopReason.TIME}:
            raise AnswerError(
                "the answer reached its limit before its end, so nothing is changed",
                advice="Select less, or raise actions.edit_tokens",
            )
        if answer.reason is StopReason.CANCELLED:
            raise AnswerError("a newer edit of this document took its place")
        return clean(answer.text, question.document_range.text, control)

    async def _proposal(
        self, document_range: DocumentRange, change: Change | None, label: str
    ) -> Proposal:
        """The change for the current text, which may be newer than what the model was sent."""
        if change is None:
            raise AnswerError("the model would change nothing", advice="Ask in other words")
        now = self._documents.document_range(document_range.uri)
        if now is None:
            raise AnswerError("the document was closed meanwhile", advice="Open it, and try again")
        found = rebased(change, document_range.lines, now.lines)
        if found is None:
            raise AnswerError("these lines were changed meanwhile", advice="Try again")
        return await self._checked(now, found, label)

    async def _checked(self, document_range: DocumentRange, change: Change, label: str) -> Proposal:
        broken = await self._study(
            document_range,
            lambda document: syntax_errors(change, document.path, document_range.lines),
        )
        return Proposal(
            uri=document_range.uri,
            version=document_range.version,
            lines=document_range.lines,
            change=change,
            label=label,
            description=describe(change, broken),
            broken=broken,
            line_end=document_range.line_end,
        )

    async def _study(self, document_range: DocumentRange, look: Callable[[Document], T]) -> T:
        return await self._prompts().study(
            document_range.uri, document_range.text, look, language_id=document_range.language
        )
