"""Estimated tokens: they hold the text, never undercount code, and guard control tokens."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.errors import RequestError
from assistant.models import families, vocabulary
from assistant.models.token_estimate import N_IDS, Estimate

ROOT = Path(__file__).resolve().parents[3]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_ids_hold_the_text(text: str) -> None:
    estimate = Estimate()
    ids = estimate.encode(text)
    assert all(0 <= token < N_IDS for token in ids)
    if not any(mark in text for mark in families.control_texts()):
        assert estimate.decode(ids) == text


@given(st.lists(TEXT))
def test_pieces_joined_are_the_text(texts: list[str]) -> None:
    """A prompt is a concatenation of pieces: joining must lose nothing."""
    estimate = Estimate()
    ids = [token for text in texts for token in estimate.encode(text)]
    if not any(mark in "".join(texts) for mark in families.control_texts()):
        assert estimate.decode(ids) == "".join(texts)


def test_control_tokens_are_ids_of_their_own_and_never_come_of_text() -> None:
    estimate = Estimate()
    for text, token in estimate.special.items():
        assert estimate.decode([token]) == text
        assert token not in estimate.encode(text)
        assert text not in estimate.decode(estimate.encode(f"a {text} b"))


def test_ids_are_the_same_in_every_version() -> None:
    """The language server and the daemon may be of different versions."""
    estimate = Estimate()
    assert estimate.encode("def f():\n    é") == [
        0b1_1100100_1100101_1100110,
        0b1_0100000_1100110,
        0b1_0101000_0101001,
        0b1_0111010,
        0b1_0001010,
        (1 << 29) + 4,
        0xC3 - 0x80,
        0xA9 - 0x80,
    ]
    assert estimate.special["<|fim_prefix|>"] == 1377431477


@pytest.mark.parametrize("token", [-1, 1 << 7 | 0xFF << 8, 1 << 29, (1 << 29) + 99, (1 << 30) + 5])
def test_other_ids_are_refused(token: int) -> None:
    with pytest.raises(RequestError):
        Estimate().decode([token])


def test_code_takes_no_fewer_than_the_models_own(dense_model: Path) -> None:
    words, estimate = vocabulary.load(dense_model), Estimate()
    folders = ("assistant", "context", "lsp", "tests/unit/context/fixtures", "editors/nvim")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.*"))]
    kinds = {".py", ".lua", ".rs", ".go", ".java", ".ts", ".rb", ".php", ".c", ".cs"}
    ratios = []
    for path in islice((path for path in files if path.suffix in kinds), 0, None, 6):
        text = path.read_text("utf-8")
        ratios.append(estimate.count(text) / max(words.count(text), 1))
    assert len(ratios) > 30
    assert min(ratios) >= 1.0
    assert sum(ratios) / len(ratios) < 2.0, "so much above that half of a context would be lost"
