"""The fill-in-the-middle layout of a model by its vocabulary.

The families are data (`families.toml`). The tokens in the vocabulary decide, because converters
keep those while they lose names and change architectures.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Container, Mapping
from importlib import resources
from typing import Protocol

import msgspec

from assistant.memory.gguf.header import Header, StringArray
from context.prompt import FimLayout, Part
from context.syntax.text import CursorKind

HOLE = "hole"
"""Family of models for conversations without fill-in-the-middle."""

PLAIN = "plain"
"""Family of models that only continue the text before the cursor."""


_TURNS = ("<|im_start|>", "<|im_end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|eot_id|>")


class Tokens(Protocol):
    """What `layout_for` needs to know of a vocabulary. `chats`: the model has a chat template."""

    @property
    def name(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def special(self) -> Mapping[str, int]: ...
    @property
    def chats(self) -> bool: ...

    def encode(self, text: str) -> list[int]: ...


class _Orders(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    line_start: tuple[Part, ...]
    mid_line: tuple[Part, ...]


class _Family(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    names: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    documented: bool = True
    tokens: dict[Part, str]
    line_start: tuple[Part, ...]
    mid_line: tuple[Part, ...]
    stop: tuple[str, ...]


class _Turns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: tuple[str, ...]
    user: str
    assistant: str


class _Hole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    order: tuple[Part, ...]
    before: str
    after: str
    middle: str
    answer: str
    stop: tuple[str, ...]
    turns: tuple[_Turns, ...]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    encoders: frozenset[str]
    hole: _Hole
    plain: _Orders
    family: tuple[_Family, ...]


@functools.cache
def _table() -> _Table:
    text = resources.files("assistant.models").joinpath("families.toml").read_text("utf-8")
    table = msgspec.convert(tomllib.loads(text), _Table)
    names = [family.name for family in table.family]
    if len(set(names)) < len(names) or PLAIN in names:
        raise ValueError("families.toml names a family twice")
    return table


def layout_for(model: Header | Tokens) -> FimLayout | None:
    """The layout for a model, or None where it cannot complete text (encoders, no vocabulary).

    A model whose vocabulary has no family's tokens gets the layout of family `HOLE` if it is made
    for conversations in a known format, else of `PLAIN`; also where only its header is given.
    """
    if model.architecture in _table().encoders:
        return None
    known = _special_texts(model)
    if known is None:
        return None
    family = _best(known, model.name, model.architecture)
    if family is not None:
        return _layout(family, known)
    if isinstance(model, Header) or not (model.chats and _turns_of(model)):
        return _plain(known)
    return hole_layout(model)


def hole_layout(model: Tokens) -> FimLayout:
    """A prompt with a marked hole, for a model without FIM tokens."""
    hole = _table().hole
    turns = _turns_of(model) if model.chats else None
    user, assistant = (turns.user, turns.assistant) if turns else ("", "")
    texts = {
        Part.PREFIX_TOKEN: user + hole.before,
        Part.SUFFIX_TOKEN: hole.after,
        Part.MIDDLE_TOKEN: hole.middle + assistant + hole.answer,
    }
    return FimLayout(
        family=HOLE,
        tokens={},
        order=dict.fromkeys(CursorKind, hole.order),
        stop=(*_plain(model.special).stop, *hole.stop),
        ids={part: _written(text, turns, model) for part, text in texts.items()},
    )


def _turns_of(model: Tokens) -> _Turns | None:
    """How the model's conversations are written; None where that is not known."""
    turns = _table().hole.turns
    return next((one for one in turns if all(text in model.special for text in one.tokens)), None)


def _written(text: str, turns: _Turns | None, model: Tokens) -> tuple[int, ...]:
    """Token ids of a text with the control tokens of a turn in it."""
    control = "|".join(map(re.escape, turns.tokens)) if turns else "(?!)"
    ids: list[int] = []
    for piece in re.split(f"({control})", text):
        if turns and piece in turns.tokens:
            ids.append(model.special[piece])
        elif piece:
            ids += model.encode(piece)
    return tuple(ids)


def layout_named(model_name: str) -> FimLayout:
    """The layout by a model's name alone, for engines that tell nothing else.

    A family's name gives exactly that family; a name that no family knows gives `PLAIN`.
    """
    table = _table()
    exact = [family for family in table.family if family.name == model_name]
    best = max(table.family, key=lambda family: _likeness(family, model_name))
    if not exact and not _likeness(best, model_name):
        return _plain(None)
    return _layout(exact[0] if exact else best, None)


def control_texts() -> frozenset[str]:
    """Every control token's text that some family's layout or stop list has, and the usual marks
    of a turn."""
    found = {*_TURNS, *(text for turns in _table().hole.turns for text in turns.tokens)}
    for family in _table().family:
        found.update(family.tokens.values(), family.stop)
    return frozenset(found)


def _best(known: Container[str], name: str, architecture: str) -> _Family | None:
    fitting = [
        family
        for family in _table().family
        if all(text in known for text in family.tokens.values())
    ]
    # max takes the first of equals: the table's order is the last tie-break.
    return max(
        fitting,
        key=lambda family: (_likeness(family, name), architecture in family.architectures),
        default=None,
    )


def _likeness(family: _Family, name: str) -> int:
    """How many letters of the family's own are in the model's name; 0 where none of its names."""
    squeezed = _squeeze(name)
    names = (_squeeze(part) for part in family.names)
    return max((len(part) for part in names if part in squeezed), default=0)


def _squeeze(name: str) -> str:
    """Names are spelt with dots, hyphens, underscores and spaces at will."""
    return re.sub(r"[-_. ]", "", name.lower())


def _layout(family: _Family, known: Container[str] | None) -> FimLayout:
    return FimLayout(
        family=family.name,
        tokens=dict(family.tokens),
        order={
            CursorKind.LINE_START: family.line_start,
            CursorKind.MID_LINE: family.mid_line,
        },
        stop=tuple(text for text in family.stop if known is None or text in known),
    )


def _plain(known: Container[str] | None) -> FimLayout:
    plain = _table().plain
    ends = dict.fromkeys(text for family in _table().family for text in family.stop)
    return FimLayout(
        family=PLAIN,
        tokens={},
        order={
            CursorKind.LINE_START: plain.line_start,
            CursorKind.MID_LINE: plain.mid_line,
        },
        stop=tuple(text for text in ends if known is not None and text in known),
    )


def _special_texts(model: Header | Tokens) -> Container[str] | None:
    if not isinstance(model, Header):
        return model.special
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        return None
    # The FIM tokens stand in no other place than among the tokens, so any token's text will do.
    return frozenset(tokens)
