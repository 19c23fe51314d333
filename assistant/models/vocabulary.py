"""Exact token counts without an engine: tiktoken built from a GGUF's own vocabulary.

Byte-level BPE vocabularies ("gpt2" in a GGUF) only: their ids ascend with their merges, so the id
is the rank that tiktoken wants. Others (SentencePiece, RWKV, unigram) raise `VocabularyError`, and
the caller asks the daemon's `/tokenize` instead.
"""

from __future__ import annotations

import functools
import re
import tomllib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import msgspec
import tiktoken

from assistant.errors import VocabularyError
from assistant.memory.gguf.header import Header, StringArray, read_header

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # llama.h, enum llama_token_type
_FILLER = re.compile(r"\[PAD\d+\]|<unused\d+>|\[unused\d+\]", re.IGNORECASE)
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


@dataclass(frozen=True)
class Facts:
    """What a GGUF's header says of its vocabulary, whatever the algorithm is.

    Attributes:
        tokens: text of each, as the file writes it; types: llama.cpp's kind of each.
        control: id of every control token by its text.
        bos, eos: ids, or -1; `add_bos`: whether a prompt must begin with `bos`.
    """

    tokens: StringArray
    types: Sequence[int]
    control: Mapping[str, int]
    bos: int
    eos: int
    add_bos: bool


def facts_of(header: Header) -> Facts:
    """Read a header's vocabulary.

    Raises:
        VocabularyError: it has none, or its parts do not fit together.
    """
    tokens, types = _tokens(header)
    known = _table().control
    control = {
        text: token
        for token, (text, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == _CONTROL or text in known
    }
    add_bos = header.metadata.get("tokenizer.ggml.add_bos_token")
    return Facts(
        tokens=tokens,
        types=types,
        control=control,
        bos=_integer(header, "bos_token_id", -1),
        eos=_integer(header, "eos_token_id", -1),
        add_bos=bool(add_bos),
    )


class Vocabulary:
    """One model's tokens. Implements `context.types.TokenCounter`.

    Attributes:
        name, architecture: of the model, as its header says.
        size: number of tokens.
        control: id of every control token by its text, e.g. `"<|fim_prefix|>"`.
        special: the control tokens and those that the vocabulary defines for users.
        bos, eos: ids, or -1; `add_bos`: whether a prompt must begin with `bos`.
    """

    def __init__(self, header: Header) -> None:
        """Build from a GGUF's header.

        Raises:
            VocabularyError: it has no vocabulary, or none that tiktoken can reproduce exactly.
        """
        pattern = _pattern(header)
        tokens, types = _tokens(header)
        self.name = header.name
        self.architecture = header.architecture
        self.size = len(tokens)
        self._bytes, ranks, self.control, plain = _sort_out(tokens, types)
        self.special = {**plain, **self.control}
        _check_merges(header, ranks)
        # Bytes that UTF-8 never or hardly ever has are no tokens of some vocabularies. llama.cpp
        # leaves them out; tiktoken would panic, so they get ids beyond the end, left out below.
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        ranks |= {bytes([byte]): self.size + byte for byte in missing}
        self._whole = not missing
        self.bos = _integer(header, "bos_token_id", -1)
        self.eos = _integer(header, "eos_token_id", -1)
        self.add_bos = bool(header.metadata.get("tokenizer.ggml.add_bos_token", False))
        # llama.cpp takes the longest first; so does an alternation in this order.
        literal = sorted(plain, key=lambda text: -len(text.encode()))
        self._plain_ids = plain
        self._plain = re.compile("|".join(map(re.escape, literal))) if literal else None
        try:
            self._encoding = tiktoken.Encoding(
                Path(header.path).stem, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except (ValueError, KeyError) as error:
            raise _unusable(header, f"tiktoken refuses the vocabulary ({error})") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens written in it are ordinary text.

        As in llama.cpp, texts that the vocabulary defines as user tokens (`<tool_call>`) become
        those tokens. Lone surrogates are encoded as U+FFFD. Text without a seam for a quarter of
        a million characters is cut there, which can cost one token more than an uncut word.
        """
        if self._plain is None or self._plain.search(text) is None:
            return self._encode_words(text)
        ids: list[int] = []
        at = 0
        for match in self._plain.finditer(text):
            ids += self._encode_words(text[at : match.start()])
            ids.append(self._plain_ids[match.group()])
            at = match.end()
        return ids + self._encode_words(text[at:])

    def count(self, text: str) -> int:
        """`len(encode(text))`."""
        return len(self.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, control tokens rendered; invalid UTF-8 becomes U+FFFD.

        Raises:
            IndexError: an id is not of this vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """As `decode`, but the bytes as they are; a token may end inside a character."""
        return b"".join([self._bytes[token] for token in ids])

    def token_id(self, text: str) -> int | None:
        """The id of a special token by its text, or of a text that is exactly one token."""
        found = self.special.get(text)
        if found is None and text:
            ids = self.encode(text)
            found = ids[0] if len(ids) == 1 else None
        return found

    def _encode_words(self, text: str) -> list[int]:
        if len(text) <= _PIECE_CHARS:
            ids = self._encoding.encode_ordinary(text)
        else:
            ids = []
            for piece in _pieces(text):
                ids += self._encoding.encode_ordinary(piece)
        return ids if self._whole else [token for token in ids if token < self.size]


def load(path: str | Path) -> Vocabulary:
    """The vocabulary of a local GGUF, remembered while the file stays as it is.

    Raises:
        GGUFError: the file is not a GGUF that can be trusted.
        VocabularyError: see `Vocabulary`.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        return Vocabulary(read_header(path))  # says why it cannot be read
    return _load(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)
def _load(path: Path, _modified_ns: int, _size_bytes: int) -> Vocabulary:
    return Vocabulary(read_header(path))


def _pieces(text: str) -> Iterable[str]:
    """Cut a long text where its tokens stay the same: tiktoken's matcher recurses over a piece."""
    start = 0
    while len(text) - start > _PIECE_CHARS:
        seam = _SEAM.search(text, start + _PIECE_CHARS, start + _LONGEST_PIECE_CHARS)
        stop = seam.start() if seam else min(start + _LONGEST_PIECE_CHARS, len(text))
        yield text[start:stop]
        start = stop
    yield text[start:]


def _pattern(header: Header) -> str:
    model = header.metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise _unusable(header, f"its tokeniser is {model!r}, not byte-level BPE")
    name = header.metadata.get("tokenizer.ggml.pre")
    pattern = split_patterns().get(name) if isinstance(name, str) else None
    if pattern is None:
        raise _unusable(header, f"there is no split pattern for the pre-tokeniser {name!r}")
    return pattern


def _tokens(header: Header) -> tuple[StringArray, Sequence[int]]:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        raise _unusable(header, "the file holds no vocabulary")
    types = header.metadata.get("tokenizer.ggml.token_type")
    if types is None:
        return tokens, (_NORMAL,) * len(tokens)
    if not isinstance(types, array) or len(types) < len(tokens):
        raise _unusable(header, "the vocabulary's token types do not fit its tokens")
    return tokens, types


@functools.cache
def _byte_of_char() -> dict[int, int]:
    """GPT-2's alphabet: each byte as a printable character (openai/gpt-2, src/encoder.py).

    Characters that stand for no byte become one that Latin-1 cannot encode.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {0x100 + index: byte for index, byte in enumerate(others)}
    return dict.fromkeys(others, 0xFFFF) | {char: char for char in printable} | shifted


def _sort_out(
    tokens: StringArray, types: Sequence[int]
) -> tuple[list[bytes], dict[bytes, int], dict[str, int], dict[str, int]]:
    """Each token's bytes, tiktoken's ranks, the control tokens, and the user tokens by text."""
    known_control = _table().control
    alphabet = _byte_of_char()
    as_bytes: list[bytes] = []
    ranks: dict[bytes, int] = {}
    control: dict[str, int] = {}
    plain: dict[str, int] = {}
    spare_bytes: dict[bytes, int] = {}
    for token, (text, kind) in enumerate(zip(tokens, types, strict=False)):
        if kind == _NORMAL:
            # A character outside the alphabet is no byte: such a token cannot come from text.
            try:
                content = text.translate(alphabet).encode("latin-1")
            except UnicodeEncodeError:
                content = text.encode()
            else:
                ranks[content] = token
            if text in known_control:  # an ordinary word that also ends an answer, like </s>
                control[text] = token
        else:
            content = text.encode()
            if len(text) == 1 and alphabet.get(ord(text), 0xFFFF) < 0x100:
                spare_bytes[bytes([alphabet[ord(text)]])] = token
            if kind == _CONTROL or text in known_control:
                control[text] = token
            elif kind == _USER_DEFINED and text and not _FILLER.fullmatch(text):
                plain[text] = token
        as_bytes.append(content)
    for content, token in spare_bytes.items():  # DeepSeek keeps thirteen bytes as user tokens
        if ranks.setdefault(content, token) == token:
            as_bytes[token] = content
    return as_bytes, ranks, control, plain


def _check_merges(header: Header, ranks: dict[bytes, int]) -> None:
    """tiktoken merges by rank: the ids must ascend as the merges do."""
    merges = header.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, StringArray):
        raise _unusable(header, "the file holds no merges")
    alphabet = _byte_of_char()
    last = -1
    for merge in merges:
        left, _, right = merge.partition(" ")
        try:
            token = ranks.get((left + right).translate(alphabet).encode("latin-1"), -1)
        except UnicodeEncodeError:
            token = -1
        if token < last:
            raise _unusable(header, "its merges are not in the order of its tokens")
        last = token


def _integer(header: Header, key: str, default: int) -> int:
    value = header.metadata.get(f"tokenizer.ggml.{key}", default)
    return value if isinstance(value, int) else default


def _unusable(header: Header, why: str) -> VocabularyError:
    return VocabularyError(
        f"tokens cannot be counted outside the engine: {why}",
        subject=header.name,
        advice="Ask the daemon's /tokenize",
    )
