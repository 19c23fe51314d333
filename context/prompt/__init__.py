"""Builds prompts: what goes into them, how much of it, and in which order.

Here: what comes out, and how a model wants it written. Frozen data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from context.syntax.text import CursorKind

__all__ = ["FimLayout", "Part", "Prompt", "Section", "builder", "head", "window"]


class Part(StrEnum):
    """A place in a FIM layout. `repo` stands for all sections that are not the current file."""

    PREFIX_TOKEN = "fim_prefix"
    SUFFIX_TOKEN = "fim_suffix"
    MIDDLE_TOKEN = "fim_middle"
    REPO_TOKEN = "repo"
    FILE_TOKEN = "file"
    REPO = "repo_text"
    FAR_PREFIX = "far_prefix"
    PREFIX = "prefix"
    SUFFIX = "suffix"


@dataclass(frozen=True)
class FimLayout:
    """How one model family wants fill-in-the-middle written.

    Attributes:
        family: name in the families table.
        tokens: control-token text for each of the *_TOKEN parts that the family has,
            e.g. {Part.PREFIX_TOKEN: "<|fim_prefix|>"}.
        order: parts in prompt order, for each kind of cursor.
        stop: control-token texts that end an answer.
        ids: token ids of those *_TOKEN parts that are written out, for models without FIM tokens.
    """

    family: str
    tokens: dict[Part, str]
    order: dict[CursorKind, tuple[Part, ...]]
    stop: tuple[str, ...] = ()
    ids: Mapping[Part, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A piece of the prompt with its reason.

    Attributes:
        part: its place in the layout.
        text: the exact text, without control tokens.
        tokens: how many tokens `text` takes.
        reason: why it is here, for `underkeel context` and the log of cuts.
        path: where it comes from, relative to its workspace root; empty for the current file.
        cut_tokens: tokens of the source left out here.
    """

    part: Part
    text: str
    tokens: int
    reason: str
    path: str = ""
    cut_tokens: int = 0


@dataclass(frozen=True)
class Prompt:
    """What the model is asked.

    Attributes:
        sections: in prompt order.
        ids: the whole prompt as token ids, control tokens included.
        layout: the FIM layout used.
        kind: the kind of cursor it was built for.
        budget_tokens: the budget it was built under; len(ids) never exceeds it.
        cut: human-readable list of what was left out.
        aside: token ids of what did not fit and may still be repeated: pieces of this file and of
            others, the likeliest last. The same for all prompts with one head.
    """

    sections: Sequence[Section]
    ids: tuple[int, ...]
    layout: FimLayout
    kind: CursorKind
    budget_tokens: int
    cut: tuple[str, ...] = field(default=())
    aside: tuple[int, ...] = ()
