"""Byte-level BPE ("gpt2" in a GGUF) by tiktoken, built from a GGUF's own vocabulary."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import msgspec
import tiktoken

from assistant.errors import VocabularyError
from assistant.memory.gguf.header import Header, StringArray
from assistant.models.encoders import NORMAL

_PIECE_CHARS = 1 << 15
_LONGEST_PIECE_CHARS = 1 << 18
_ANYTHING_ELSE = "|(?s:.)"  # what no alternative takes would be dropped without a word
# Between these no split pattern of ours joins anything, and none looks across: an ASCII letter or
# digit ends a word, and white space after it begins the next.
_SEAM = re.compile(r"(?<=[A-Za-z0-9])(?=[ \t\n\r])")


class _Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    names: tuple[str, ...]
    pattern: str


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    control: frozenset[str]
    split: tuple[_Split, ...]


@functools.cache
def _table() -> _Table:
    text = resources.files("assistant.models").joinpath("split_patterns.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _Table)


def known_control() -> frozenset[str]:
    """Texts of tokens that are control tokens whatever the file says of their type."""
    return _table().control


@functools.cache
def split_patterns() -> Mapping[str, str]:
    """The split pattern for each known value of `tokenizer.ggml.pre`."""
    found: dict[str, str] = {}
    for split in _table().split:
        for name in split.names:
            if name in found:
                raise ValueError(f"split_patterns.toml names {name!r} twice")
            found[name] = split.pattern + _ANYTHING_ELSE
    return MappingProxyType(found)


class ByteLevel:
    """Byte-level BPE by tiktoken: the vocabulary's ids ascend with its merges, so the id is the
    rank that tiktoken wants."""

    def __init__(self, header: Header, tokens: Sequence[str], types: Sequence[int]) -> None:
        """Raises VocabularyError where tiktoken cannot reproduce it exactly."""
        name = header.metadata.get("tokenizer.ggml.pre")
        pattern = split_patterns().get(name) if isinstance(name, str) else None
        if pattern is None:
            raise unusable(header, f"there is no split pattern for the pre-tokeniser {name!r}")
        self._size = len(tokens)
        self.contents, ranks = _ranks(tokens, types)
        _check_merges(header, ranks)
        # Bytes that UTF-8 never or hardly ever has are no tokens of some vocabularies. llama.cpp
        # leaves them out; tiktoken would panic, so they get ids beyond the end, left out below.
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        ranks |= {bytes([byte]): self._size + byte for byte in missing}
        self._whole = not missing
        try:
            self._encoding = tiktoken.Encoding(
                Path(header.path).stem, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except (ValueError, KeyError) as error:
            raise unusable(header, f"tiktoken refuses the vocabulary ({error})") from error

    def encode(self, text: str) -> list[int]:
        if len(text) <= _PIECE_CHARS:
            ids = self._encoding.encode_ordinary(text)
        else:
            ids = []
            for piece in _pieces(text):
                ids += self._encoding.encode_ordinary(piece)
        return ids if self._whole else [token for token in ids if token < self._size]


def _pieces(text: str) -> Iterable[str]:
    """Cut a long text where its tokens stay the same: tiktoken's matcher recurses over a piece."""
    start = 0
    while len(text) - start > _PIECE_CHARS:
        seam = _SEAM.search(text, start + _PIECE_CHARS, start + _LONGEST_PIECE_CHARS)
        stop = seam.start() if seam else min(start + _LONGEST_PIECE_CHARS, len(text))
        yield text[start:stop]
        start = stop
    yield text[start:]


@functools.cache
def _byte_of_char() -> dict[int, int]:
    """GPT-2's alphabet: each byte as a printable character (openai/gpt-2, src/encoder.py).

    Characters that stand for no byte become one that Latin-1 cannot encode.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {0x100 + index: byte for index, byte in enumerate(others)}
    return dict.fromkeys(others, 0xFFFF) | {char: char for char in printable} | shifted


def _ranks(tokens: Sequence[str], types: Sequence[int]) -> tuple[list[bytes], dict[bytes, int]]:
    """Each token's bytes, and tiktoken's ranks."""
    alphabet = _byte_of_char()
    as_bytes: list[bytes] = []
    ranks: dict[bytes, int] = {}
    spare_bytes: dict[bytes, int] = {}
    for token, (text, kind) in enumerate(zip(tokens, types, strict=False)):
        if kind == NORMAL:
            # A character outside the alphabet is no byte: such a token cannot come from text.
            try:
                content = text.translate(alphabet).encode("latin-1")
            except UnicodeEncodeError:
                content = text.encode()
            else:
                ranks[content] = token
        else:
            content = text.encode()
            if len(text) == 1 and alphabet.get(ord(text), 0xFFFF) < 0x100:
                spare_bytes[bytes([alphabet[ord(text)]])] = token
        as_bytes.append(content)
    for content, token in spare_bytes.items():  # DeepSeek keeps thirteen bytes as user tokens
        if ranks.setdefault(content, token) == token:
            as_bytes[token] = content
    return as_bytes, ranks


def _check_merges(header: Header, ranks: dict[bytes, int]) -> None:
    """tiktoken merges by rank: the ids must ascend as the merges do."""
    merges = header.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, StringArray):
        raise unusable(header, "the file holds no merges")
    alphabet = _byte_of_char()
    last = -1
    for merge in merges:
        left, _, right = merge.partition(" ")
        try:
            token = ranks.get((left + right).translate(alphabet).encode("latin-1"), -1)
        except UnicodeEncodeError:
            token = -1
        if token < last:
            raise unusable(header, "its merges are not in the order of its tokens")
        last = token


def unusable(header: Header, why: str) -> VocabularyError:
    """The error for a vocabulary that cannot be counted here."""
    return VocabularyError(
        f"tokens cannot be counted outside the engine: {why}",
        subject=header.name,
        advice="Ask the daemon's /tokenize",
    )
