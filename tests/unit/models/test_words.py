"""Vocabularies from a server's own list and from a tokenizer.json give the model's own ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_checkpoint

from assistant.errors import VocabularyError
from assistant.models import families, vocabulary, vocabulary_import

TEXT = "def größe(x):\n\t\treturn x ** 12345  # 汉字 <|im_end|> <tool_call>\r\n\n   'It''s'\n"


@pytest.fixture(scope="module")
def folder(dense_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_checkpoint.write_tokenizer(dense_model, folder)
    return folder


def told(dense: vocabulary.Vocabulary) -> vocabulary_import.Words:
    """As a llama-server tells it."""
    return vocabulary_import.Words(
        name="qwen2.5-coder",
        tokens=[dense.decode_bytes([token]) for token in range(dense.size)],
        control=frozenset(dense.control.values()),
        user=frozenset(dense.special.values()) - frozenset(dense.control.values()),
    )


def test_a_servers_list_gives_its_own_ids(home: Path, dense_model: Path) -> None:
    dense = vocabulary.load(dense_model)
    path = vocabulary_import.adopt(told(dense), dense.encode)
    found = vocabulary.load(path)
    assert found.encode(TEXT) == dense.encode(TEXT)
    assert found.special == dense.special
    assert path.is_relative_to(home)
    layout = families.layout_for(found)
    assert layout is not None and layout.family == "qwen2.5-coder"


def test_no_pattern_that_fits_is_no_vocabulary(home: Path, small_vocabulary: Path) -> None:
    words = vocabulary.load(small_vocabulary)
    with pytest.raises(VocabularyError, match="estimated"):
        vocabulary_import.adopt(told(words), lambda text: words.encode(text)[:-1])
    assert not list((home / "cache/vocabularies").glob("*.gguf"))


def test_a_tokenizer_file_gives_the_models_ids(home: Path, dense_model: Path, folder: Path) -> None:
    dense = vocabulary.load(dense_model)
    read = vocabulary_import.read_tokenizer(folder / "tokenizer.json", "qwen2.5-coder")
    for encode in (dense.encode, None):
        found = vocabulary.load(vocabulary_import.adopt(read, encode))
        assert found.encode(TEXT) == dense.encode(TEXT)
        assert found.special == dense.special


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pre_tokenizer": {"type": "Metaspace"}, "decoder": None}, "byte-level"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.1]]}}, "cannot be used"),
        ({"added_tokens": [{"id": 1 << 40, "content": "x"}]}, "ids reach"),
    ],
)
def test_what_is_no_byte_level_bpe_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole | change), "utf-8")
    with pytest.raises(VocabularyError, match=says):
        vocabulary_import.read_tokenizer(path, "x")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"model": 1}'])
def test_no_tokenizer_at_all_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        vocabulary_import.read_tokenizer(path, "x")
    with pytest.raises(VocabularyError):
        vocabulary_import.read_tokenizer(tmp_path / "missing.json", "x")
