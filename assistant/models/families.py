"""The fill-in-the-middle layout of a model by its vocabulary, and token ids without one.

The families are data (`families.toml`). The tokens in the vocabulary decide, because converters
keep those while they lose names and change architectures.

Where a model's tokeniser is not available, estimated ids hold the text itself: up to four ASCII
letters of a word, two signs, a run of blanks, or one byte of anything else. Code takes more of them
than of a model's real tokens (`tests/benchmarks/remote_engines.py` measures the ratio), so what
fits by them fits. An id is the same in every process and version: up to four times seven bits with
a mark in front, the upper half of a byte, the length of a run of blanks, or the CRC-32 of a control
token's text, each in a range of its own.
"""

from __future__ import annotations

import functools
import re
import tomllib
import zlib
from collections.abc import Container, Iterable, Mapping
from importlib import resources
from types import MappingProxyType

import msgspec

from assistant.errors import RequestError
from assistant.memory.gguf.header import Header, StringArray
from assistant.models.vocabulary import Vocabulary
from context.types import CursorKind, FimLayout, Part

PLAIN = "plain"
"""Family of models without fill-in-the-middle: the text before the cursor, continued."""


_TURNS = ("<|im_start|>", "<|im_end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|eot_id|>")


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


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    encoders: frozenset[str]
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


def layout_for(model: Header | Vocabulary) -> FimLayout | None:
    """The layout for a model, or None where it cannot complete text (encoders, no vocabulary).

    A model whose vocabulary has no family's tokens gets the layout of family `PLAIN`.
    """
    if model.architecture in _table().encoders:
        return None
    known = _special_texts(model)
    if known is None:
        return None
    family = _best(known, model.name, model.architecture)
    return _layout(family, known) if family else _plain(known)


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
    found = {*_TURNS}
    for family in _table().family:
        found.update(family.tokens.values(), family.stop)
    return frozenset(found)


def family_names() -> list[str]:
    """Names of all families, `PLAIN` included."""
    return [*(family.name for family in _table().family), PLAIN]


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


def _special_texts(model: Header | Vocabulary) -> Container[str] | None:
    if isinstance(model, Vocabulary):
        return model.special
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        return None
    # The FIM tokens stand in no other place than among the tokens, so any token's text will do.
    return frozenset(tokens)


_WORD = re.compile(r" ?[A-Za-z]+|[0-9]{1,2}| +|[!-/:-@\[-`{-~]{1,2}|(?s:.)")
_MOST_CHARS = 4
_CHAR_BITS = 7
_CONTROL = 1 << 30
_CONTROL_BITS = _CONTROL - 1
_RUN = 1 << 29
_RUN_SPACES = 16
_SEAM = "\u200b"  # zero-width space

N_IDS = 1 << 31
"""Above every id."""

MARGIN_SHARE = 0.05
"""Of a server's context, kept free where counts are estimates."""


class Estimate:
    """Implements `context.types.TokenCounter`.

    Attributes:
        special: id of every control token's text that any family has.
    """

    special: Mapping[str, int]

    def __init__(self) -> None:
        self.special = _specials()

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; control tokens written in it are ordinary text."""
        ids: list[int] = []
        for match in _WORD.finditer(text):
            word = match[0]
            if not word.strip(" "):
                ids += _spaces(len(word))
            elif word.isascii():
                step = _MOST_CHARS
                ids += [_pack(word[at : at + step]) for at in range(0, len(word), step)]
            else:
                ids += [byte - 0x80 for byte in word.encode("utf-8", "replace") if byte >= 0x80]
        return ids

    def count(self, text: str) -> int:
        """`len(encode(text))`."""
        return len(self.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text that a server is sent.

        Plain text that would read as a control token there gets a zero-width space inside.

        Raises:
            RequestError: an id is not one of these.
        """
        texts: list[str] = []
        plain = bytearray()
        for token in ids:
            if token < 0:
                raise _unknown(token)
            if not token & _CONTROL:
                plain += _unpack(token)
                continue
            text = _by_id().get(token)
            if text is None:
                raise _unknown(token)
            texts += [_guarded(plain), text]
            plain.clear()
        return "".join([*texts, _guarded(plain)])


def _spaces(count: int) -> list[int]:
    """Runs of blanks are one token in every vocabulary for code, up to some length."""
    whole, rest = divmod(count, _RUN_SPACES)
    return [_RUN | _RUN_SPACES] * whole + ([_RUN | rest] if rest else [])


def _pack(word: str) -> int:
    packed = 1
    for char in word:
        packed = packed << _CHAR_BITS | ord(char)
    return packed


def _unpack(token: int) -> bytes:
    if token < 0x80:
        return bytes([token + 0x80])
    if token & _RUN:
        count = token & ~_RUN
        if not 0 < count <= _RUN_SPACES:
            raise _unknown(token)
        return b" " * count
    length, odd = divmod(token.bit_length() - 1, _CHAR_BITS)
    if odd or length > _MOST_CHARS:
        raise _unknown(token)
    return bytes(token >> _CHAR_BITS * at & 0x7F for at in range(length - 1, -1, -1))


def _guarded(data: bytes | bytearray) -> str:
    text = bytes(data).decode("utf-8", "replace")
    return _pattern().sub(lambda match: match[0][:1] + _SEAM + match[0][1:], text)


@functools.cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(control_texts(), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


@functools.cache
def _specials() -> Mapping[str, int]:
    found = {
        text: _CONTROL | (zlib.crc32(text.encode()) & _CONTROL_BITS) for text in control_texts()
    }
    if len(set(found.values())) < len(found):
        raise ValueError("two control tokens have the same id")
    return MappingProxyType(found)


@functools.cache
def _by_id() -> Mapping[int, str]:
    return MappingProxyType({token: text for text, token in _specials().items()})


def _unknown(token: int) -> RequestError:
    return RequestError(
        f"{token} is no token of an estimated vocabulary",
        advice="Encode again for the model that is served now",
    )
