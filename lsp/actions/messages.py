"""The messages of a conversation: code in fences under headings, then what is asked. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from assistant.wire import ChatMessage
from context import Explanation, Passage, Topic

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


def tokens(messages: Iterable[ChatMessage], count: Callable[[str], int]) -> int:
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
