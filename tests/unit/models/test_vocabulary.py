"""tiktoken from a GGUF's vocabulary gives llama.cpp's own ids."""

# ruff: noqa: RUF001  # look-alike characters are the point

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_tokeniser import ODDITIES, LlamaTokeniser, gguf_bytes, sources, vocabulary_only

from assistant.errors import VocabularyError
from assistant.memory.gguf.header import read_bytes, read_header
from assistant.models.gguf_file import raw_values, string
from assistant.models.vocabulary import Vocabulary, facts_of, load, split_patterns


@pytest.fixture(scope="module")
def vocabulary(dense_model: Path) -> Vocabulary:
    return load(dense_model)


@pytest.fixture(scope="module")
def reference(dense_model: Path) -> Iterator[LlamaTokeniser]:
    with LlamaTokeniser(dense_model) as tokeniser:
        yield tokeniser


def test_real_source_encodes_as_llama_cpp_does(
    vocabulary: Vocabulary, reference: LlamaTokeniser
) -> None:
    compared = 0
    for text in sources(1_600_000):
        ids = vocabulary.encode(text)
        assert ids == reference.encode(text)
        assert vocabulary.decode(ids) == text
        compared += len(ids)
    assert compared >= 300_000


@pytest.mark.parametrize("name", ODDITIES)
def test_oddities_encode_as_llama_cpp_does(
    vocabulary: Vocabulary, reference: LlamaTokeniser, name: str
) -> None:
    ids = vocabulary.encode(ODDITIES[name])
    if name != "fillers":  # here source stays plain text, in llama.cpp it does not
        assert ids == reference.encode(ODDITIES[name])
    assert vocabulary.decode(ids) == ODDITIES[name]
    assert vocabulary.count(ODDITIES[name]) == len(ids)


def test_every_character_encodes_as_llama_cpp_does(
    vocabulary: Vocabulary, reference: LlamaTokeniser
) -> None:
    """Each code point between letters, digits and signs, many to a text for speed."""
    for first in range(0, 0x110000, 0x400):
        chars = [chr(c) for c in range(first, first + 0x400) if not 0xD800 <= c < 0xE000]
        if first >= 0x20000:  # ideographs, private use and nothing: all of a kind
            chars = chars[::61]
        text = "".join(f"a{char} {char}1.{char}\n" for char in chars)
        assert vocabulary.encode(text) == reference.encode(text), f"U+{first:04X} and after"


# Where llama.cpp departs from the models' own patterns (case beyond ASCII, marks; all case for
# kimi-k2), the texts below do not go.
EXACT = sorted(name for name in split_patterns() if name != "kimi-k2")
ASCII_CASE_ONLY = {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "tekken"}


def representatives() -> list[str]:
    """One name for each distinct pattern."""
    return sorted({pattern: name for name, pattern in split_patterns().items()}.values())


@pytest.mark.parametrize("pre", [name for name in representatives() if name in EXACT])
def test_every_split_pattern_cuts_as_llama_cpp_does(
    dense_model: Path, tmp_path: Path, pre: str
) -> None:
    path = vocabulary_only(dense_model, tmp_path / f"{pre}.gguf", pre)
    vocabulary = load(path)
    random_ = random.Random(pre)
    common = "\r\n\t    \n\n  'sSdD're'll  12399 _.,;(){}[]<>=+-*/\\\"#@" * 3
    rare = "\0\x07\f\x7f\u00a0\u3000\u2028\u0085éßñç汉字かなカナ한글。、！：०१２😀①Ⅳ½$€"
    pool = common + "abcXYZ" * 12 + (rare if pre in ASCII_CASE_ONLY else rare + "É𝔘𝟘\u0301া")
    texts = ["".join(random_.choices(pool, k=60)) for _ in range(500)]
    with LlamaTokeniser(path) as reference:
        for text in [*sources(50_000), *texts]:
            if text.isascii() or pre not in ASCII_CASE_ONLY or len(text) == 60:
                assert vocabulary.encode(text) == reference.encode(text), repr(text[:80])


@pytest.mark.parametrize("said", [None, True, False])
def test_a_bos_is_added_where_llama_cpp_adds_one(
    tmp_path: Path, small_vocabulary: Path, said: bool | None
) -> None:
    """S21: the split pattern decides it where the file does not say."""
    values = {
        key: value
        for key, value in raw_values(small_vocabulary).items()
        if key != "tokenizer.ggml.add_bos_token"
    }
    if said is not None:
        values["tokenizer.ggml.add_bos_token"] = struct.pack("<I?", 7, said)
    more = {"llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "chameleon"}
    found = {}
    names = more | {"jina-v5-nano", *split_patterns()} if said is None else {"llama-bpe", "qwen2"}
    for name in sorted(names):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(gguf_bytes(values | {"tokenizer.ggml.pre": string(name)}))
        with LlamaTokeniser(path) as theirs:
            found[name] = (theirs.add_bos, facts_of(read_header(path)).add_bos)
    assert not {name for name, (theirs, ours) in found.items() if theirs != ours}
    assert said is not None or {theirs for theirs, _ in found.values()} == {True, False}


def test_text_without_seams_neither_fails_nor_loses_a_byte(vocabulary: Vocabulary) -> None:
    for text in (" " * 1_500_000, "x" * 1_000_000, "=+" * 500_000, "e" + "\u0301" * 400_000):
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_lone_surrogates_become_replacement_characters(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode(vocabulary.encode("a\ud800b")) == "a\ufffdb"
    assert vocabulary.decode(vocabulary.encode("\ud83d\ude00")) == "😀"


def test_control_tokens_have_ids_only_when_asked_for(vocabulary: Vocabulary) -> None:
    prefix = vocabulary.control["<|fim_prefix|>"]
    assert vocabulary.special["<|fim_prefix|>"] == prefix
    assert prefix not in vocabulary.encode("<|fim_prefix|>")
    assert vocabulary.decode([prefix]) == "<|fim_prefix|>"


def test_moe_has_the_same_vocabulary(vocabulary: Vocabulary, moe_model: Path) -> None:
    assert load(moe_model).control == vocabulary.control
    assert load(moe_model).encode("for i in range(10):") == vocabulary.encode("for i in range(10):")


def test_a_loaded_vocabulary_is_remembered(dense_model: Path) -> None:
    assert load(dense_model) is load(dense_model)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("tokenizer.ggml.model", string("llama"), "scores"),
        ("tokenizer.ggml.model", string("plamo2"), "scores"),
        ("tokenizer.ggml.pre", string("viking"), "no split pattern"),
        ("tokenizer.ggml.tokens", string("none"), "no vocabulary"),
        ("tokenizer.ggml.token_type", string("none"), "do not fit"),
        ("tokenizer.ggml.merges", string("none"), "no merges"),
    ],
)
def test_other_vocabularies_are_refused(
    dense_model: Path, key: str, value: bytes, says: str
) -> None:
    header = read_bytes(gguf_bytes({**raw_values(dense_model), key: value}))
    with pytest.raises(VocabularyError, match=says) as caught:
        Vocabulary(header)
    assert "/tokenize" in caught.value.advice


def test_bytes_that_are_no_tokens_are_left_out_as_llama_cpp_does(
    dense_model: Path, tmp_path: Path
) -> None:
    """As in StarCoder's vocabulary: 0xF1 begins a character, and 0xFF is in none."""
    values = raw_values(dense_model)
    tokens = values["tokenizer.ggml.tokens"]
    for char in "\u00f1\u00ff":  # how the alphabet of byte-level BPE writes these bytes
        entry = struct.pack("<Q", 2) + char.encode()
        assert tokens.count(entry) == 1
        tokens = tokens.replace(entry, struct.pack("<Q", 2) + b"\x01" + char.encode()[1:])
    path = tmp_path / "incomplete.gguf"
    path.write_bytes(gguf_bytes({**values, "tokenizer.ggml.tokens": tokens}))
    vocabulary = load(path)
    with LlamaTokeniser(path) as reference:
        for text in ("a\U00050000b", "\U00050000", "\u00f1 \u00ff", "plain"):
            assert vocabulary.encode(text) == reference.encode(text)
            assert all(token < vocabulary.size for token in vocabulary.encode(text))
    assert "\U00050000" not in vocabulary.decode(vocabulary.encode("a\U00050000b"))


def test_a_file_without_any_vocabulary_is_refused() -> None:
    with pytest.raises(VocabularyError):
        Vocabulary(read_bytes(gguf_bytes({"general.architecture": string("llama")})))
