"""Every kind of vocabulary gives llama.cpp's own ids, on small vocabularies made here.

The tokens are frequent pieces of real source, so that merges, ties, longest matches and unknown
characters all occur. The real Gemma is compared where it is installed.
"""

# ruff: noqa: RUF001  # look-alike characters are the point

from __future__ import annotations

import functools
import random
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from llama_tokeniser import ODDITIES, LlamaTokeniser, gguf_bytes, sources

from assistant import paths
from assistant.errors import VocabularyError
from assistant.models.encoders import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED
from assistant.models.gguf_file import string, uint32
from assistant.models.vocabulary import Vocabulary, load

RARE = "\r\n\t    \n\n  '99_.,;(){}[]<>=+-*/\"#@" * 3 + (
    "\0\x07\f\x7f\u00a0\u3000\u2028\u0085\u00adéßñç汉字かなカナ한글。！०१😀①Ⅳ½$€É𝔘𝟘\u0301ا▁\ufeff\ufffd"
)
USER_TEXTS = ("<tool_call>", "<tool", "call><", "\n\n", "    ", "  ", "\t\t", "</s>x")
CONTROL_TEXTS = ("<s>", "</s>", "<|endoftext|>", "<|fim_prefix|>")


def strings(texts: Sequence[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    return struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(
        struct.pack("<Q", len(text)) + text for text in encoded
    )


def numbers(kind: int, form: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<IIQ{len(values)}{form}", 9, kind, len(values), *values)


def boolean(value: bool) -> bytes:
    return struct.pack("<I?", 7, value)


def frequent(text: str, count: int, longest: int) -> list[str]:
    """The most frequent pieces of 2 to `longest` characters, none with a NUL."""
    found: Counter[str] = Counter()
    for length in range(2, longest + 1):
        found.update(text[at : at + length] for at in range(0, len(text) - length, 3))
    return [piece for piece, _ in found.most_common(count) if "\0" not in piece]


class Written:
    """A vocabulary under construction."""

    def __init__(self, model: str, **values: bytes) -> None:
        self.tokens: list[str] = []
        self.types: list[int] = []
        self.values = {"tokenizer.ggml.model": string(model)}
        self.values |= {f"tokenizer.ggml.{key}": value for key, value in values.items()}

    def add(self, texts: Sequence[str], kind: int = NORMAL) -> None:
        known = set(self.tokens)
        new = [text for text in dict.fromkeys(texts) if text not in known]
        self.tokens += new
        self.types += [kind] * len(new)

    def write(self, path: Path, **values: bytes) -> Path:
        path.write_bytes(
            gguf_bytes(
                {
                    "general.architecture": string("llama"),
                    "general.name": string("made"),
                    **self.values,
                    "tokenizer.ggml.tokens": strings(self.tokens),
                    "tokenizer.ggml.token_type": numbers(5, "i", self.types),
                    **{f"tokenizer.ggml.{key}": value for key, value in values.items()},
                }
            )
        )
        return path


@functools.cache
def texts() -> tuple[str, ...]:
    """Real source in whole files and in snippets, oddities, and texts by chance."""
    chance = random.Random(17)
    found = list(sources(16_000))
    for source in tuple(found):
        for _ in range(30):
            at = chance.randrange(len(source) + 1)
            found.append(source[at : at + chance.randrange(1, 300)])
    # "fillers": here source stays plain text, in llama.cpp it does not.
    found += [text[:1500] for name, text in ODDITIES.items() if name != "fillers"]
    pool = RARE + "".join(USER_TEXTS) + "abcXYZ" * 9
    found += ["".join(chance.choices(pool, k=chance.randrange(1, 60))) for _ in range(400)]
    return tuple(found)


def compare(path: Path, *, text_comes_back: bool = True) -> Vocabulary:
    """That a vocabulary gives llama.cpp's ids for all texts."""
    vocabulary = load(path)
    compared = 0
    with LlamaTokeniser(path) as reference:
        for text in texts():
            ids = vocabulary.encode(text, first=True)
            assert ids == reference.encode(text), repr(text[:80])
            compared += len(ids)
            if text_comes_back:
                rest = vocabulary.encode(text)
                decoded = vocabulary.decode(rest).replace(SPACE, " ")
                assert decoded.replace(" ", "") == text.replace(SPACE, " ").replace(" ", "")
    assert compared > 10_000
    return vocabulary


@pytest.fixture(scope="module")
def pieces() -> list[str]:
    source = "".join(sources(16_000))
    return frequent(source.replace(" ", SPACE), 4000, 7)


def sentence_pieces(model: str, pieces: Sequence[str]) -> Written:
    made = Written(model, bos_token_id=uint32(1), eos_token_id=uint32(2))
    made.add(["<unk>"], UNKNOWN)
    made.add(CONTROL_TEXTS, CONTROL)
    made.add([f"<0x{byte:02X}>" for byte in range(256)], BYTE)
    made.add(USER_TEXTS, USER_DEFINED)
    made.add(pieces)
    made.add([chr(char) for char in range(0x21, 0x7F)] + [SPACE, "é", "汉", "😀", "\u0301", "\n"])
    return made


def scores(made: Written) -> bytes:
    """Falling, with many ties."""
    return numbers(6, "f", [-float(at // 5) for at in range(len(made.tokens))])


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("name", ["made", "phi-3 made"])
def test_sentencepiece(tmp_path: Path, pieces: list[str], prefix: bool, name: str) -> None:
    """Blank in front, byte fallback, ties, user's tokens that overlap; Phi-3's strip blanks."""
    made = sentence_pieces("llama", pieces)
    made.values["general.name"] = string(name)
    path = made.write(tmp_path / "m.gguf", scores=scores(made), add_space_prefix=boolean(prefix))
    vocabulary = compare(path, text_comes_back=name == "made")
    assert vocabulary.add_bos and (vocabulary.bos, vocabulary.eos) == (1, 2)
    plain = vocabulary.encode("def f")
    assert (vocabulary.encode("def f", first=True) == plain) is not prefix
    assert vocabulary.control["<s>"] not in vocabulary.encode("<s>")
    assert vocabulary.encode("\ud800") == vocabulary.encode("\ufffd")


def test_merges_by_rank_over_lines(tmp_path: Path, pieces: list[str]) -> None:
    """Gemma 4: BPE on characters, blanks as in SentencePiece, and byte fallback."""
    lines = [piece for piece in pieces if "\n" not in piece]
    made = sentence_pieces("gemma4", [*lines, "\n\n\n"])
    known = set(made.tokens)
    merges = [
        f"{piece[:at]} {piece[at:]}"
        for piece in lines
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
    random.Random(3).shuffle(merges)
    compare(made.write(tmp_path / "m.gguf", merges=strings(merges)))


def charsmap(replacements: dict[str, str]) -> bytes:
    """SentencePiece's double array; each node's children have 256 entries of their own."""
    entries = [0] * 512
    entries[0] = 256 << 10
    texts = b""
    blocks = {b"": 256}

    def enter(path: bytes) -> int:
        """The entry of a node, made where it is new."""
        index = blocks[path[:-1]] ^ path[-1]
        if path not in blocks:
            blocks[path] = len(entries)
            entries.extend([0] * 256)
            entries[index] |= path[-1] | (index ^ blocks[path]) << 10
        return index

    for text, replacement in replacements.items():
        data = text.encode()
        for end in range(1, len(data) + 1):
            index = enter(data[:end])
        entries[index] |= 1 << 8
        entries[blocks[data]] = 1 << 31 | len(texts)
        texts += replacement.encode() + b"\0"
    blob = struct.pack(f"<{len(entries)}I", *entries)
    return struct.pack("<I", len(blob)) + blob + texts


@pytest.mark.parametrize("merge_blanks", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_unigram(tmp_path: Path, pieces: list[str], merge_blanks: bool, prefix: bool) -> None:
    """Viterbi with unknown characters, user's tokens, and replaced characters."""
    made = Written("t5", unknown_token_id=uint32(0), eos_token_id=uint32(1))
    made.add(["<unk>"], UNKNOWN)
    made.add(CONTROL_TEXTS, CONTROL)
    made.add(["<tool_call>", "A\n"], USER_DEFINED)
    made.add(pieces)
    made.add([chr(char) for char in range(0x21, 0x7F)] + [SPACE, "é", "\n"])
    mapped = charsmap(
        {"\t": " ", "\n": " ", "A": "a", "①": "1", "e\u0301": "é", "\x07": "", "À": "a"}
    )
    path = made.write(
        tmp_path / "m.gguf",
        scores=scores(made),
        add_space_prefix=boolean(prefix),
        remove_extra_whitespaces=boolean(merge_blanks),
        precompiled_charsmap=numbers(0, "B", list(mapped)),
    )
    compare(path, text_comes_back=False)


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece(tmp_path: Path, lowercase: bool) -> None:
    """Words by blanks, signs and ideographs, without accents, the longest pieces first."""
    source = "".join(sources(16_000))
    made = Written("bert", unknown_token_id=uint32(0), seperator_token_id=uint32(1))
    made.add(["[UNK]", "[SEP]"], CONTROL)
    made.add(["<tool_call>"], USER_DEFINED)
    made.add([SPACE + piece for piece in frequent(source.lower(), 3000, 6)])
    made.add([piece for piece in frequent(source, 3000, 6) if " " not in piece])
    letters = [chr(char) for char in range(0x21, 0x7F)] + ["汉", "é", "e"]
    made.add([*letters, *(SPACE + letter for letter in letters)])
    path = made.write(
        tmp_path / "m.gguf", **{"normalizer.lowercase": boolean(lowercase)}, bos_token_id=uint32(1)
    )
    compare(path, text_comes_back=False)


def test_rwkv(tmp_path: Path) -> None:
    """Longest match over bytes; the file writes them escaped."""
    source = "".join(sources(16_000))
    made = Written("rwkv")
    made.add(["<unk>"], CONTROL)
    made.add([f"\\x{byte:02x}" for byte in range(256)])
    made.add([r"\t\t", r"\n\n", r"\r\n", r"\\x41", r"\x61\xcc", r"\'s"])
    made.add([
        piece.replace("\\", "\\\\").replace("\n", "\\n") for piece in frequent(source, 3000, 6)
    ])  # fmt: skip
    vocabulary = compare(made.write(tmp_path / "m.gguf"))
    assert not vocabulary.add_bos
    assert vocabulary.decode(vocabulary.encode("é\n\\")) == "é\n\\"


def test_what_cannot_be_counted_here_is_refused(tmp_path: Path, pieces: list[str]) -> None:
    made = sentence_pieces("plamo2", pieces)
    with pytest.raises(VocabularyError, match="plamo2"):
        load(made.write(tmp_path / "a.gguf", scores=scores(made)))
    made = sentence_pieces("llama", pieces)
    with pytest.raises(VocabularyError, match="scores"):
        load(made.write(tmp_path / "b.gguf", scores=numbers(6, "f", [0.0])))
    made = sentence_pieces("gemma4", pieces)
    with pytest.raises(VocabularyError, match="merges"):
        load(made.write(tmp_path / "c.gguf"))


def test_gemma() -> None:
    """The real vocabulary: 262,144 tokens, blanks and line ends as user's tokens."""
    path = paths.models_dir() / "gemma-3-270m-q4_k_m.gguf"
    if not path.is_file():
        pytest.skip("needs the Gemma test model: underkeel pull gemma-3-270m")
    compare(path)
