"""Prompts for edits: the code that must be complete, its surroundings, and the instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.errors import RequestError
from context import Document, Explanation, Topic, Workspace
from context.syntax.secrets import masked
from context.syntax.tokens import Encoder
from lsp.actions import code_range, doc_comments, messages, test_files, wording
from lsp.actions.code_range import Region
from lsp.actions.document_range import DocumentRange
from lsp.actions.explanations import name_of

if TYPE_CHECKING:
    from assistant.client import ChatMessage
    from lsp.completion.prompts import Prompts
    from lsp.daemon.model import Served

_BEFORE_LINES = 24
_TAIL_LINES = 40
_FRAME_TOKENS = 48
_TRIES = 3


@dataclass(frozen=True)
class Question:
    """A prompt about a part of a document.

    Attributes:
        task, which: the words in `wording.toml`; `fields` fills them in.
        span_bytes: the range that the workspace is searched for.
        parts: headings and code that must be shown whole.
        shows_span: the span itself is shown too, as far as it fits.
        diagnostic: the message of a tool about it.
        name: the definition it is about, for titles.
    """

    document_range: DocumentRange
    task: str
    which: str
    span_bytes: tuple[int, int]
    parts: tuple[tuple[str, str], ...] = ()
    shows_span: bool = False
    diagnostic: str = ""
    name: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    async def messages(
        self, prompts: Prompts, served: Served, room_tokens: int
    ) -> list[ChatMessage]:
        """The conversation within `room_tokens`.

        Raises:
            RequestError: the required code does not fit, or must not be sent to a model.
        """
        count = Encoder.of(served.fim.counter).text_count
        file = name_of(self.document_range.uri)
        whole = sum(count(f"{heading}\n{code}") for heading, code in self.parts)
        words = count(self.diagnostic) + sum(map(count, self.fields.values()))
        room = room_tokens - whole - words - _FRAME_TOKENS
        for _ in range(_TRIES):
            look = partial(self._look, max(room, 0) + (0 if self.shows_span else whole))
            found = await prompts.explanation(
                self.document_range.uri, self.document_range.text, served.fim, look
            )
            if messages.is_secret(found):
                raise RequestError(
                    "this file may contain secrets and is never sent to a model", subject=file
                )
            made = self._made(found, file)
            over = messages.tokens(made, count) - room_tokens
            if over <= 0:
                return made
            room -= over + messages.PASSAGE_TOKENS
        raise RequestError(
            f"this is too long for the {room_tokens} tokens that are left",
            advice="Select less, or try again when memory is free",
        )

    def _look(self, room_tokens: int, workspace: Workspace, document: Document) -> Explanation:
        start, stop = self.span_bytes
        return workspace.explain(document, start, stop, room_tokens, diagnostic=self.diagnostic)

    def _made(self, found: Explanation, file: str) -> list[ChatMessage]:
        without = () if self.shows_span else (Topic.SELECTION,)
        diagnostic = messages.shown_diagnostic(found) or self.diagnostic
        parts = [messages.passages_text(found, file, without=without)]
        parts += [messages.fenced(heading, code, found.language) for heading, code in self.parts]
        parts.append(wording.text(self.task, self.which, diagnostic=diagnostic, **self.fields))
        return messages.conversation(wording.text(self.task, "system"), "\n".join(parts))


def rewriting(
    document_range: DocumentRange,
    region: Region,
    which: str,
    *,
    instruction: str = "",
    diagnostic: str = "",
) -> Question:
    """A prompt to rewrite the lines of a region.

    Raises:
        RequestError: they contain a key, which is never sent to a model.
    """
    code = document_range.block(region.first, region.stop)
    # The same lines: whether a part is a key can only be seen in the whole text.
    shown = masked(document_range.text).split("\n")
    _check_keys(document_range, region, shown)
    if which == "insertion":
        before = shown[max(region.first - _BEFORE_LINES, 0) : region.first]
        parts = (("Code before", "".join(f"{line}\n" for line in before)),)
    else:
        parts = (("Code to change", code),)
    return Question(
        document_range,
        "edit",
        which,
        span_bytes=_bytes(document_range, region),
        parts=parts,
        diagnostic=diagnostic,
        name=region.name,
        fields={"instruction": instruction},
    )


@dataclass(frozen=True)
class DocumentationQuestion:
    """A question for documentation, and where the answer goes."""

    question: Question
    spot: doc_comments.Spot
    style: doc_comments.Style


def documentation_question(
    document: Document, document_range: DocumentRange
) -> DocumentationQuestion:
    """The documentation of the definition around the range.

    Raises:
        RequestError: there is none, or its language has no documentation style.
    """
    definition = code_range.definition_at(document, document_range)
    style = doc_comments.style_of(document)
    if definition is None or style is None:
        raise RequestError(
            "there is nothing to document here", advice="Go to a function or a class"
        )
    question = Question(
        document_range,
        "document",
        "definition",
        span_bytes=_bytes(document_range, code_range.of_definition(document_range, definition)),
        shows_span=True,
        name=definition.name,
        fields={"name": definition.name, "manner": style.manner},
    )
    return DocumentationQuestion(question, doc_comments.spot(document, definition, style), style)


@dataclass(frozen=True)
class TestsQuestion:
    """A question for tests, and the file that gets them."""

    question: Question
    target: test_files.Target

    def on(self, old: str | None) -> Question:
        """The question, once it is known what the file holds; None if it is to be made."""
        if not old or not old.strip():
            return self.question
        tail = "\n".join(masked(old.rstrip()).split("\n")[-_TAIL_LINES:])
        parts = (("Existing tests", tail),)
        return replace(self.question, which="more", parts=parts)


def tests_question(
    document: Document, document_range: DocumentRange, path: Path, roots: Sequence[Path]
) -> TestsQuestion:
    """Tests for the definition around the range.

    Raises:
        RequestError: there is none, or its language has no test convention.
    """
    definition = code_range.definition_at(document, document_range)
    convention = test_files.convention_of(document)
    if definition is None or convention is None:
        raise RequestError("there is nothing to test here", advice="Go to a function or a class")
    target = test_files.target(path, roots, convention)
    question = Question(
        document_range,
        "tests",
        "new",
        span_bytes=_bytes(document_range, code_range.of_definition(document_range, definition)),
        shows_span=True,
        name=definition.name,
        fields={
            "name": definition.name,
            "file": _relative(path, roots),
            "target": _relative(target.path, roots),
            "framework": convention.framework,
        },
    )
    return TestsQuestion(question, target)


def _bytes(document_range: DocumentRange, region: Region) -> tuple[int, int]:
    start = len(document_range.block(0, region.first).encode())
    return start, start + len(document_range.block(region.first, region.stop).encode())


def _check_keys(document_range: DocumentRange, region: Region, shown: Sequence[str]) -> None:
    if document_range.lines[region.first : region.stop] != shown[region.first : region.stop]:
        raise RequestError(
            "these lines contain what looks like a key and are never sent to a model",
            advice="Leave the key out of the selection",
        )


def _relative(path: Path, roots: Sequence[Path]) -> str:
    root = next((one for one in roots if path.is_relative_to(one)), path.parent)
    return path.relative_to(root).as_posix()
