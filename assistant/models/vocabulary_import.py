"""Vocabularies that come in another form than a GGUF, made into a GGUF without tensors.

A server's own list of its tokens, or a `tokenizer.json`: what everything else here reads is a GGUF,
so such a vocabulary becomes one, in the cache folder, under a name made of its content. How texts
are split into words before they are merged is not in every form: then it is tried out on a text
whose tokens the server tells.
"""

# ruff: noqa: RUF001  # look-alike characters are the point

from __future__ import annotations

import codecs
import hashlib
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from assistant import paths
from assistant.errors import VocabularyError
from assistant.models.encoders import CONTROL, NORMAL, UNUSED, USER_DEFINED
from assistant.models.gguf_file import string, uint32, write
from assistant.models.vocabulary import Vocabulary, load, split_patterns

_MOST_TOKENS = 1 << 21
_MOST_BYTES = 256 << 20

PROBE = """# A text on which the ways to split words differ, to find out which one a server has.
def naïve_größe(x1, y22, z333, n4444=55555):\r\n\tIt's = WE'LL + 'D  \t\n\n\n     return 0x1+1_0.2e3
if (a&&b)||c!=d: {"k": [1,2,3], 'q': "\\n"}  //--->>===  ---- ____ ....
CamelCaseWord HTTPServer2 snake_case_name 12 123 1234 12345678 3.14159 ½ ② ٣٫٥ Ⅳ
   汉字かなカナ한글。 Привет, мир! שלום 😀🏳️‍🌈 ﬀ \u00a0\u2028 \u200b x\u3000y
don't I'm you've SHE'D they'Re it'S O'Neil ''' \"\"\" ```
\t\tfor(;;){}\n \n  \n   x    y     z\r\r\nend.  \n"""
"""Some seven hundred bytes of everything, but for what some servers read as they should not: texts
of control tokens, and letters in parts that Unicode's normal form puts together."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Words:
    """A byte-level BPE vocabulary.

    Attributes:
        tokens: the bytes of each, by id; a control token's are its text.
        control: ids that no plain text becomes; `user`: ids of whole texts that plain text becomes.
        merges: as in a GGUF, "left right" in GPT-2's alphabet; empty where nobody tells.
        pre: names of split patterns that may be its own; empty for any.
    """

    name: str
    tokens: Sequence[bytes]
    control: frozenset[int] = frozenset()
    user: frozenset[int] = frozenset()
    merges: Sequence[str] = ()
    bos: int = -1
    eos: int = -1
    add_bos: bool = False
    pre: tuple[str, ...] = field(default=())


def adopt(words: Words, encode: Encode | None) -> Path:
    """A GGUF with this vocabulary, in the cache folder.

    Args:
        encode: the tokens that the server makes of a plain text. None where it does not tell: the
            split pattern must then be known.

    Raises:
        VocabularyError: no split pattern gives the server's tokens, or none is known for sure.
    """
    if encode is None:
        if not words.pre:
            raise _unusable(words, "how it splits words is not known")
        return _written(words, words.pre[0])
    wanted = encode(PROBE)
    for pre in words.pre or _each_pattern():
        path = _written(words, pre)
        try:
            if load(path).encode(PROBE) == wanted:
                return path
        except VocabularyError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)
    raise _unusable(words, "no known way to split words gives the server's tokens")


def proved(vocabulary: Vocabulary, encode: Encode) -> bool:
    """Whether a vocabulary makes the server's tokens of the probe."""
    return vocabulary.encode(PROBE, first=True) == encode(PROBE)


def _each_pattern() -> Iterator[str]:
    """One name for each different split pattern, in the table's order."""
    seen: set[str] = set()
    for name, pattern in split_patterns().items():
        if pattern not in seen:
            seen.add(pattern)
            yield name


def _written(words: Words, pre: str) -> Path:
    if not 0 < len(words.tokens) <= _MOST_TOKENS:
        raise _unusable(words, f"it has {len(words.tokens)} tokens")
    values = {
        "general.architecture": string("vocabulary"),
        "general.name": string(words.name),
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string(pre),
        "tokenizer.ggml.tokens": _strings(_texts(words)),
        "tokenizer.ggml.token_type": _int32s(_kinds(words)),
        "tokenizer.ggml.merges": _strings(words.merges),
        "tokenizer.ggml.add_bos_token": struct.pack("<I?", 7, words.add_bos),
    }
    for key, token in (("bos", words.bos), ("eos", words.eos)):
        if token >= 0:
            values[f"tokenizer.ggml.{key}_token_id"] = uint32(token)
    digest = hashlib.sha256(b"".join(values.values())).hexdigest()[:16]
    folder = paths.cache_dir() / "vocabularies"
    path = folder / f"{re.sub('[^A-Za-z0-9.-]+', '-', words.name)[-60:] or 'model'}-{digest}.gguf"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        with beside.open("wb") as file:
            for _ in write(file, values, [], 32):
                pass
        beside.replace(path)
    except OSError as error:
        raise VocabularyError(
            f"the vocabulary cannot be kept ({error.strerror})",
            subject=str(path),
            advice="Fix the cache folder's permissions",
        ) from error
    return path


def _kinds(words: Words) -> list[int]:
    def kind(token: int, content: bytes) -> int:
        if token in words.control:
            return CONTROL
        if token in words.user:
            return USER_DEFINED
        return NORMAL if content else UNUSED

    return [kind(token, content) for token, content in enumerate(words.tokens)]


def _texts(words: Words) -> list[str]:
    """Each token as a GGUF writes it: its text where it is whole, else GPT-2's alphabet."""
    alphabet = char_of_byte()
    whole = words.control | words.user
    return [
        content.decode("utf-8", "replace")
        if token in whole
        else "".join(map(alphabet.__getitem__, content)) or f"[PAD{token}]"
        for token, content in enumerate(words.tokens)
    ]


def char_of_byte() -> list[str]:
    """GPT-2's alphabet: each byte as a printable character (openai/gpt-2, src/encoder.py)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _strings(texts: Sequence[str]) -> bytes:
    parts = [struct.pack("<IIQ", 9, 8, len(texts))]
    for text in texts:
        content = text.encode()
        parts += [struct.pack("<Q", len(content)), content]
    return b"".join(parts)


def _int32s(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<IIQ{len(numbers)}i", 9, 5, len(numbers), *numbers)


def _unusable(words: Words, why: str) -> VocabularyError:
    return VocabularyError(
        f"its tokens can only be estimated: {why}",
        subject=words.name,
        advice="Name the model's tokenizer.json or GGUF: tokenizer = ... under [remote]",
    )


# tokenizer.json


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | list[str]]
    type: str = "BPE"


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    decoder: msgspec.Raw = msgspec.Raw(b"null")


def read_tokenizer(path: Path, name: str) -> Words:
    """The vocabulary of a `tokenizer.json` (Hugging Face's format).

    Raises:
        VocabularyError: it cannot be read, or is no byte-level BPE.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _unreadable(path, "it is too large for one")
        read = msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=_Tokenizer)
    except OSError as error:
        raise _unreadable(path, error.strerror or "no such file") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if b"ByteLevel" not in bytes(read.decoder) + bytes(read.pre_tokenizer):
        raise _unreadable(path, "it is not byte-level BPE")
    byte_of = {char: byte for byte, char in enumerate(char_of_byte())}
    count = 1 + max([*read.model.vocab.values(), *(added.id for added in read.added_tokens)])
    if not 0 < count <= _MOST_TOKENS or min(read.model.vocab.values()) < 0:
        raise _unreadable(path, f"its ids reach to {count}")
    tokens = [b""] * count
    for text, token in read.model.vocab.items():
        known = [byte_of.get(char) for char in text]
        tokens[token] = bytes(byte for byte in known if byte is not None)
        if None in known:
            tokens[token] = text.encode()
    for added in read.added_tokens:
        tokens[added.id] = added.content.encode()
    return Words(
        name=name,
        tokens=tokens,
        control=frozenset(added.id for added in read.added_tokens if added.special),
        user=frozenset(added.id for added in read.added_tokens if not added.special),
        merges=[
            merge if isinstance(merge, str) else " ".join(merge) for merge in read.model.merges
        ],
        pre=_patterns_in(bytes(read.pre_tokenizer)),
    )


def _patterns_in(pre_tokenizer: bytes) -> tuple[str, ...]:
    """The names of the split patterns that are written out in it; empty where none is ours."""
    found = set(re.findall(rb'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")', pre_tokenizer))
    written = {_plain(msgspec.json.decode(text, type=str)) for text in found}
    each = list(_each_pattern())
    same = [name for name in each if _plain(split_patterns()[name].rpartition("|")[0]) in written]
    if not written and b'"use_regex"' in pre_tokenizer:
        same = [name for name in each if name == "gpt-2"]
    return tuple(same)


def _plain(pattern: str) -> str:
    """A pattern without what is spelt in several ways: contractions of either case."""
    return re.sub(r"^\(\?i?:'[^)]*\)|^(?:'\w+\|)+'\w+", "(contractions)", pattern)


def _unreadable(path: Path, why: str) -> VocabularyError:
    return VocabularyError(
        f"this tokenizer cannot be used: {why}",
        subject=str(path),
        advice="Name a tokenizer.json or a GGUF of the model's: tokenizer = ... under [remote]",
    )
