"""Token ids without a vocabulary, and prompts that the engine encodes.

Where a model's tokenizer is not available, estimated ids hold the text itself: up to four ASCII
letters of a word, two signs, a run of blanks, or one byte of anything else. Code takes more of them
than of a model's real tokens (`tests/benchmarks/remote_engines.py` measures the ratio), so what
fits by them fits. An id is the same in every process and version: up to four times seven bits with
a mark in front, the upper half of a byte, the length of a run of blanks, or the CRC-32 of a control
token's text, each in a range of its own.
"""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from assistant.errors import RequestError, VocabularyError
from assistant.memory.gguf.header import Header, read_header
from assistant.models import vocabulary
from assistant.models.families import control_texts
from assistant.models.vocabulary import Vocabulary

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
    """Implements `context.syntax.text.TokenCounter`.

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


class EngineEncoded(Estimate):
    """A GGUF's vocabulary that only its engine can encode: counts made here are estimates.

    Attributes:
        name, architecture, control, bos, eos, add_bos, chats: as of `Vocabulary`.
        special: estimated id of every control token of a family's that the vocabulary has.
    """

    def __init__(self, header: Header) -> None:
        """Raises VocabularyError where the file holds no vocabulary."""
        super().__init__()
        facts = vocabulary.facts_of(header)
        ids = {text: token for token, text in enumerate(facts.tokens)}
        self.name, self.architecture = header.name, header.architecture
        self.control = facts.control
        self.bos, self.eos, self.add_bos = facts.bos, facts.eos, facts.add_bos
        self.chats = facts.chats
        self.special = {text: token for text, token in _specials().items() if text in ids}
        self._real = {token: ids[text] for text, token in self.special.items()}

    def parts(self, ids: Iterable[int]) -> list[int | str]:
        """The prompt for the engine: ids of control tokens, and plain texts to encode."""
        found: list[int | str] = []
        for is_control, run in itertools.groupby(ids, lambda token: bool(token & _CONTROL)):
            if is_control:
                found += [self._real[token] for token in run]
            else:
                found.append(b"".join(map(_unpack, run)).decode("utf-8", "replace"))
        return found


def load(path: str | Path) -> Vocabulary | EngineEncoded:
    """The vocabulary of a local GGUF; where it cannot be counted here, estimates of its counts.

    Raises:
        GGUFError: the file is not a GGUF that can be trusted.
        VocabularyError: it holds no vocabulary.
    """
    try:
        return vocabulary.load(path)
    except VocabularyError:
        return EngineEncoded(read_header(path))


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
    return _control_pattern().sub(lambda match: match[0][:1] + _SEAM + match[0][1:], text)


@functools.cache
def _control_pattern() -> re.Pattern[str]:
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
