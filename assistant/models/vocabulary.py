"""Exact token counts without an engine, from a GGUF's own vocabulary.

Byte-level BPE ("gpt2" in a GGUF) is encoded by tiktoken, built from the vocabulary; the other kinds
by `encoders`. What neither knows (PLaMo 2, a byte-level BPE whose split pattern is not in the
table) raises `VocabularyError`: then counts are estimated, and the engine encodes
(`token_estimate`).
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
from assistant.models.encoders import (
    BYTE,
    CONTROL,
    LONGEST_TOKEN_CHARS,
    NORMAL,
    SPACE,
    USER_DEFINED,
    PairMerges,
    Rwkv,
    SentencePiece,
    Unigram,
    WordPiece,
    unescaped,
)

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_C_SPACES = " \t\n\v\f\r"
# Ids of the tokens that begin and end a text, and of the unknown one, where a file does not say.
_DEFAULTS = {"llama": (1, 2, 0), "bert": (101, -1, 100), "t5": (-1, 1, 2)}
_ADDS_BOS = {"llama", "bert"}
# Where the file does not say, these split patterns of a byte-level BPE mean a BOS too (llama.cpp,
# src/llama-vocab.cpp, `llama_vocab::impl::load`).
_PATTERN_ADDS_BOS = {
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    *("jina-v5-nano", "tekken", "chameleon"),
}
_FILLER = re.compile(r"\[PAD\d+\]|<unused\d+>|\[unused\d+\]", re.IGNORECASE)
_PIECE_CHARS = 1 << 15
_LONGEST_PIECE_CHARS = 1 << 18
_ANYTHING_ELSE = "|(?s:.)"  # what no alternative takes would be dropped without a word
# Between these no split pattern of ours joins anything, and none looks across: an ASCII letter or
# digit ends a word, and white space after it begins the next.
_SEAM = re.compile(r"(?<=[A-Za-z0-9])(?=[ \t\n\r])")


@dataclass(frozen=True)
class Facts:
    """What a GGUF's header says of its vocabulary, whatever the algorithm is.

    Attributes:
        tokens: text of each, as the file writes it; types: llama.cpp's kind of each.
        control: id of every control token by its text; user: of every user's token.
        unknown: id of the token for what has none; 0 where the file does not say.
        bos, eos: ids, or -1; `add_bos`: whether a prompt must begin with `bos`.
        chats: whether the model has a chat template.
    """

    tokens: StringArray
    types: Sequence[int]
    control: Mapping[str, int]
    user: Mapping[str, int]
    unknown: int
    bos: int
    eos: int
    add_bos: bool
    chats: bool


def facts_of(header: Header) -> Facts:
    """Read a header's vocabulary.

    Raises:
        VocabularyError: it has none, or its parts do not fit together.
    """
    tokens, types = _tokens(header)
    known = known_control()
    control: dict[str, int] = {}
    user: dict[str, int] = {}
    for token, (text, kind) in enumerate(zip(tokens, types, strict=False)):
        if kind == CONTROL or text in known:  # an ordinary word may end an answer, like </s>
            control[text] = token
        elif kind == USER_DEFINED and text and not _FILLER.fullmatch(text):
            user[text] = token
    model = header.metadata.get("tokenizer.ggml.model")
    bos, eos, unknown = _DEFAULTS.get(str(model), (-1, -1, 0))
    pattern = header.metadata.get("tokenizer.ggml.pre")
    usual = model in _ADDS_BOS or (model == "gpt2" and pattern in _PATTERN_ADDS_BOS)
    add_bos = header.metadata.get("tokenizer.ggml.add_bos_token", usual)
    return Facts(
        tokens=tokens,
        types=types,
        control=control,
        user=user,
        unknown=_integer(header, "unknown_token_id", unknown),
        bos=_integer(header, "bos_token_id", bos),
        eos=_integer(header, "eos_token_id", eos),
        add_bos=bool(add_bos),
        chats=any(f"tokenizer.chat_template{name}" in header.metadata for name in ("", ".default")),
    )


class Vocabulary:
    """One model's tokens. Implements `context.syntax.text.TokenCounter`.

    Attributes:
        name, architecture: of the model, as its header says.
        size: number of tokens.
        control: id of every control token by its text, e.g. `"<|fim_prefix|>"`.
        special: the control tokens and those that the vocabulary defines for users.
        bos, eos: ids, or -1; `add_bos`: whether a prompt must begin with `bos`.
        chats: whether the model has a chat template.
    """

    def __init__(self, header: Header) -> None:
        """Build from a GGUF's header.

        Raises:
            VocabularyError: it has no vocabulary, or none that can be reproduced exactly here.
        """
        facts = facts_of(header)
        self.name = header.name
        self.architecture = header.architecture
        self.size = len(facts.tokens)
        self.control = facts.control
        self._user = facts.user
        self.special = {**facts.user, **facts.control}
        self.bos, self.eos, self.add_bos = facts.bos, facts.eos, facts.add_bos
        self.chats = facts.chats
        # llama.cpp takes the longest first, wherever it is.
        self._user_texts = sorted(facts.user, key=lambda text: -len(text.encode()))
        self._any_user = re.compile("|".join(map(re.escape, self._user_texts)) or "(?!)")
        self._encoder, self._bytes = _encoder(header, facts)
        self._prefix = (
            bool(header.metadata.get("tokenizer.ggml.add_space_prefix", True))
            if isinstance(self._encoder, SentencePiece)
            else False
        )
        # llama.cpp, src/llama-vocab.cpp: load, per token attributes.
        self._strips = "phi-3" in self.name.lower() or "phi3" in self.name.lower()

    def encode(self, text: str, *, first: bool = False) -> list[int]:
        """Token ids of plain text; control tokens written in it are ordinary text.

        As in llama.cpp, texts that the vocabulary defines as user tokens (`<tool_call>`) become
        those tokens. Lone surrogates are encoded as U+FFFD. Text without a seam for a quarter of
        a million characters is cut there, which can cost one token more than an uncut word.

        Args:
            first: the text is a whole prompt: vocabularies with a blank in front of every text get
                it here too. Otherwise text goes on where other text ended.
        """
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = []
        for part in self._parts(text):
            if isinstance(part, int):
                ids.append(part)
                first = True
            elif part:
                ids += self._plain_ids(part, first=first)
                first = False
        return ids

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

    def _plain_ids(self, text: str, *, first: bool) -> list[int]:
        encoder = self._encoder
        if isinstance(encoder, Unigram):
            return encoder.encode(encoder.normalized(text, first=first))
        if isinstance(encoder, SentencePiece | PairMerges):
            return encoder.encode((" " * (first and self._prefix) + text).replace(" ", SPACE))
        return encoder.encode(text)

    def _parts(self, text: str) -> list[str | int]:
        """The user's tokens in a text, and the texts between (tokenizer_st_partition)."""
        parts: list[str | int] = [text]
        if self._any_user.search(text) is None:
            return parts
        for user in self._user_texts:
            if user in text:
                parts = [piece for part in parts for piece in self._split(part, user)]
        return parts

    def _split(self, part: str | int, user: str) -> list[str | int]:
        if isinstance(part, int) or user not in part:
            return [part]
        pieces: list[str | int] = []
        at = 0
        while (found := part.find(user, at)) >= 0:
            if found > at:
                pieces.append(part[at:found])
            pieces.append(self._user[user])
            at = found + len(user)
            while self._strips and part[at : at + 1] and part[at] in _C_SPACES:
                at += 1
        return [*pieces, part[at:]] if at < len(part) else pieces


def _encoder(
    header: Header, facts: Facts
) -> tuple[ByteLevel | SentencePiece | PairMerges | Unigram | WordPiece | Rwkv, list[bytes]]:
    """What cuts texts into tokens, and each token's bytes."""
    model = header.metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        byte_level = ByteLevel(header, facts.tokens, facts.types)
        return byte_level, byte_level.contents
    texts = [text.partition("\0")[0] or f"[EMPTY_{at}]" for at, text in enumerate(facts.tokens)]
    if model == "rwkv":
        contents = [unescaped(text) for text in texts]
        return Rwkv(contents, facts.unknown), contents
    ids = {text: token for token, text in enumerate(texts)}
    contents = list(map(_content, texts, facts.types))
    if model in {"bert", "t5"} and max(map(len, texts)) > LONGEST_TOKEN_CHARS:
        raise unusable(header, f"it has a token of more than {LONGEST_TOKEN_CHARS} characters")
    if model == "bert":
        return WordPiece(ids, header, facts.unknown), contents
    if model == "gemma4":
        merges = header.metadata.get("tokenizer.ggml.merges")
        if not isinstance(merges, StringArray):
            raise unusable(header, "the file holds no merges")
        return PairMerges(ids, merges), contents
    scores = header.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, array) or len(scores) < len(texts):
        raise unusable(header, "the vocabulary's scores do not fit its tokens")
    if model == "llama":
        return SentencePiece(ids, scores, facts.unknown), contents
    if model == "t5":
        return Unigram(texts, facts.types, scores, header, facts.unknown), contents
    raise unusable(header, f"its tokenizer is {model!r}")


def _content(text: str, kind: int) -> bytes:
    """The bytes of a token as SentencePiece writes it (llama_vocab::impl::token_to_piece)."""
    if kind == BYTE and (match := _BYTE.fullmatch(text)):
        return bytes([int(match[1], 16)])
    return (text.replace(SPACE, " ") if kind == NORMAL else text).encode()


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
    at = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _load(path, at)


@functools.lru_cache(maxsize=2)
def _load(path: Path, _identity: tuple[int, ...]) -> Vocabulary:
    return Vocabulary(read_header(path))


def _tokens(header: Header) -> tuple[StringArray, Sequence[int]]:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        raise unusable(header, "the file holds no vocabulary")
    types = header.metadata.get("tokenizer.ggml.token_type")
    if types is None:
        return tokens, (NORMAL,) * len(tokens)
    if not isinstance(types, array) or len(types) < len(tokens):
        raise unusable(header, "the vocabulary's token types do not fit its tokens")
    return tokens, types


def _integer(header: Header, key: str, default: int) -> int:
    value = header.metadata.get(f"tokenizer.ggml.{key}", default)
    return value if isinstance(value, int) else default


# Byte-level BPE.


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
