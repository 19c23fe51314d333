"""llama.cpp's model behind `Model`: sizes that llama.cpp returns are used, none is guessed."""

from __future__ import annotations

import pytest
import tiny_models

from assistant.llama import LoadSpec, structs
from assistant.llama.model import Model

# The vocabulary has the bytes 0x00 to 0xFC and no word: a space is "\u2581", which is three tokens.
_LONG_NAME = "\u00e9" * 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    return Model(LoadSpec(path=str(tiny_models.sliding_window(folder / "m.gguf", _LONG_NAME))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        " " * 5,
        " " * 9,
        " " * 5000,
        " a" * 300,
        "\u00e9 " * 50,
        "\n \n" * 40,
        "x" * 3000,
    ],
)
def test_tokens_may_outnumber_the_bytes(model: Model, text: str) -> None:
    """S25: every token comes, however many there are for a byte."""
    expected = f" {text}" if text else ""  # the vocabulary puts a space in front
    data = expected.replace(" ", "\u2581").encode()
    tokens = model.tokenise(text)
    assert tokens == [byte + 3 for byte in data]
    assert len(tokens) > len(text.encode()) + 8 or text.count(" ") < 3
    assert model.tokenise(text, special=True) == tokens
    assert b"".join(model.piece(token) for token in tokens) == data


def test_a_long_value_of_the_header_is_whole(model: Model) -> None:
    """S25: of 600 bytes, where 256 are usual."""
    assert model.facts.name == _LONG_NAME


def test_weights_are_not_stored_for_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several models end in a segmentation fault in ggml's AMX buffer; our build has no AMX."""
    spec = LoadSpec(path="m.gguf")
    assert structs.model_params(spec).struct.use_extra_bufts
    monkeypatch.setattr(structs, "_has_amx", lambda: True)
    assert not structs.model_params(spec).struct.use_extra_bufts
