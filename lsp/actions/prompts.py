"""What the model is sent for explanations and edits: code in fences under headings, then the
instruction. The words are in `wording.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.errors import RequestError
from assistant.wire import ChatMessage
from context import Document, Explanation, Passage, Topic, Workspace
from context.syntax.secrets import masked
from context.syntax.text import Encoder
from lsp.actions import conventions, offer
from lsp.actions.document_range import DocumentRange, name_of
from lsp.actions.offer import Region

if TYPE_CHECKING:
    from lsp.completion.prompts import Prompts
    from lsp.served_model import Served

# A template's words for one turn, and what joins passages, counted from above.
TURN_TOKENS = 12
PASSAGE_TOKENS = 16

_HEADINGS = {
    Topic.DEFINITION: "Used here, from {path}",
    Topic.ENCLOSING: "Around it",
    Topic.SELECTION: "Selected code",
    Topic.FILE: "The file",
}
_BACKTICKS = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_SECRETS = "this file may hold secrets"
_BEFORE_LINES = 24
_TAIL_LINES = 40
_FRAME_TOKENS = 48
_TRIES = 3


def wording(task: str, which: str, **fields: str) -> str:
    """A text of the table with its fields filled in; what a field holds is taken as it is."""
    return _wording_table()[task][which].format(**fields)


@cache
def _wording_table() -> dict[str, dict[str, str]]:
    return tomllib.loads((resources.files("lsp.actions") / "wording.toml").read_text("utf-8"))


def fenced(heading: str, code: str, language: str = "") -> str:
    """Code under a heading, in a fence that it cannot close."""
    longest = max(map(len, _BACKTICKS.findall(code)), default=2)
    fence = "`" * (longest + 1)
    return f"{heading}:\n{fence}{language}\n{code.rstrip()}\n{fence}\n"


def passages_text(found: Explanation, file: str, *, without: Iterable[Topic] = ()) -> str:
    """The passages of an explanation: what is around the code first, the code itself last."""
    order = (Topic.DEFINITION, Topic.ENCLOSING, Topic.FILE, Topic.SELECTION)
    left = [one for one in found.passages if one.topic in _HEADINGS and one.topic not in without]
    left.sort(key=lambda one: order.index(one.topic))
    parts = [f"File: {file}\n"]
    parts += [fenced(_heading(one), _code(one), found.language) for one in left]
    return "\n".join(parts)


def shown_diagnostic(found: Explanation) -> str:
    """What the tool says, as far as it is shown."""
    return "\n".join(one.text for one in found.passages if one.topic is Topic.DIAGNOSTIC)


def conversation(system: str, opening: str, turns: Sequence[str] = ()) -> list[ChatMessage]:
    """The system's word, then the user's and the assistant's in turn, the user's first."""
    said = [ChatMessage(role="system", content=system)]
    for number, content in enumerate((opening, *turns)):
        role = "assistant" if number % 2 else "user"
        said.append(ChatMessage(role=role, content=content))
    return said


def conversation_tokens(messages: Iterable[ChatMessage], count: Callable[[str], int]) -> int:
    """How many tokens a conversation takes, from above."""
    return sum(count(one.content) + TURN_TOKENS for one in messages)


def is_secret(found: Explanation) -> bool:
    """Whether the file is one that no model is shown."""
    return _SECRETS in found.cut


def _heading(passage: Passage) -> str:
    return _HEADINGS[passage.topic].format(path=passage.path)


def _code(passage: Passage) -> str:
    """A definition's passage begins with the path that its heading says already."""
    return passage.text.removeprefix(f"{passage.path}\n") if passage.path else passage.text


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
                self.document_range.uri,
                self.document_range.text,
                served.fim,
                look,
                language_id=self.document_range.language,
            )
            if is_secret(found):
                raise RequestError(
                    "this file may contain secrets and is never sent to a model", subject=file
                )
            made = self._made(found, file)
            over = conversation_tokens(made, count) - room_tokens
            if over <= 0:
                return made
            room -= over + PASSAGE_TOKENS
        raise RequestError(
            f"this is too long for the {room_tokens} tokens that are left",
            advice="Select less, or try again when memory is free",
        )

    def _look(self, room_tokens: int, workspace: Workspace, document: Document) -> Explanation:
        start, stop = self.span_bytes
        return workspace.explain(document, start, stop, room_tokens, diagnostic=self.diagnostic)

    def _made(self, found: Explanation, file: str) -> list[ChatMessage]:
        without = () if self.shows_span else (Topic.SELECTION,)
        diagnostic = shown_diagnostic(found) or self.diagnostic
        parts = [passages_text(found, file, without=without)]
        parts += [fenced(heading, code, found.language) for heading, code in self.parts]
        parts.append(wording(self.task, self.which, diagnostic=diagnostic, **self.fields))
        return conversation(wording(self.task, "system"), "\n".join(parts))


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
    spot: conventions.CommentSpot
    style: conventions.CommentStyle


def documentation_question(
    document: Document, document_range: DocumentRange
) -> DocumentationQuestion:
    """The documentation of the definition around the range.

    Raises:
        RequestError: there is none, or its language has no documentation style.
    """
    definition = offer.definition_at(document, document_range)
    style = conventions.comment_style_of(document)
    if definition is None or style is None:
        raise RequestError(
            "there is nothing to document here", advice="Go to a function or a class"
        )
    question = Question(
        document_range,
        "document",
        "definition",
        span_bytes=_bytes(document_range, offer.of_definition(document_range, definition)),
        shows_span=True,
        name=definition.name,
        fields={"name": definition.name, "manner": style.manner},
    )
    return DocumentationQuestion(
        question, conventions.comment_spot(document, definition, style), style
    )


@dataclass(frozen=True)
class TestsQuestion:
    """A question for tests, and the file that gets them."""

    question: Question
    target: conventions.TestTarget

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
    definition = offer.definition_at(document, document_range)
    convention = conventions.test_convention_of(document)
    if definition is None or convention is None:
        raise RequestError("there is nothing to test here", advice="Go to a function or a class")
    target = conventions.test_target(path, roots, convention)
    question = Question(
        document_range,
        "tests",
        "new",
        span_bytes=_bytes(document_range, offer.of_definition(document_range, definition)),
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
