"""POST /infill's prompts, with the starter model's real vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from llama_tokeniser import vocabulary_only

from assistant.daemon.http.prompts import can_fill, compose, infill_prompt
from assistant.daemon.http.request_schemas import ExtraBody, InfillBody
from assistant.engine.types import ModelInfo
from assistant.models import families, vocabulary
from assistant.models.vocabulary import Vocabulary
from context import FimLayout


@pytest.fixture(scope="module")
def words(dense_model: Path) -> Vocabulary:
    return vocabulary.load(dense_model)


@pytest.fixture(scope="module")
def layout() -> FimLayout:
    """The documented layout of the model's family, whichever is measured to be best."""
    return families.layout_named("qwen")


def composed(body: InfillBody, layout: FimLayout, words: Vocabulary, room: int = 1000) -> str:
    ids, _ = compose(body, layout, words, words.special, room)
    assert len(ids) <= room
    return words.decode(ids)


def test_prefix_suffix_and_typed_text(layout: FimLayout, words: Vocabulary) -> None:
    body = InfillBody(
        input_prefix="def f(a):\n    x = ", input_suffix="\n    return x\n", prompt="a"
    )
    assert composed(body, layout, words) == (
        "<|fim_prefix|>def f(a):\n    x = <|fim_suffix|>\n    return x\n<|fim_middle|>a"
    )


def test_control_tokens_in_the_source_stay_text(layout: FimLayout, words: Vocabulary) -> None:
    body = InfillBody(input_prefix="x = '<|fim_middle|>'\ny = ", input_suffix="\n")
    ids, _ = compose(body, layout, words, words.special, 1000)
    assert ids.count(words.special["<|fim_middle|>"]) == 1


def test_other_files_newest_last_and_whole_or_not_at_all(
    layout: FimLayout, words: Vocabulary
) -> None:
    extras = [ExtraBody(filename=f"f{n}.py", text=f"value_{n} = {n}\n" * 10) for n in range(3)]
    body = InfillBody(input_prefix="print(", input_suffix=")\n", input_extra=tuple(extras))
    everything = composed(body, layout, words)
    assert everything.index("f0.py") < everything.index("f1.py") < everything.index("f2.py")
    assert everything.count("<|file_sep|>") == 3
    little = composed(body, layout, words, room=170)
    assert "f0.py" not in little and "f2.py" in little
    assert composed(body, layout, words, room=40).count("value") == 0


def test_stop_tokens_of_the_family(dense_model: Path) -> None:
    model = ModelInfo(name="q", path=str(dense_model))
    made = infill_prompt(InfillBody(input_prefix="a = ", input_suffix="\n"), model, 100)
    assert all(isinstance(part, list) for part in made.parts)
    assert 151643 in made.stop_tokens and not made.stop_texts  # <|endoftext|>


def test_where_tokens_cannot_be_counted_the_engine_encodes_the_texts(
    dense_model: Path, tmp_path: Path, words: Vocabulary
) -> None:
    path = vocabulary_only(dense_model, tmp_path / "m.gguf", "viking")  # no pattern of ours
    model = ModelInfo(name="q", path=str(path))
    body = InfillBody(input_prefix="naïve = <|im_end|>", input_suffix="\n")
    made = infill_prompt(body, model, 100)
    special, stop = words.special, made.stop_tokens
    assert made.parts == [
        [special["<|fim_prefix|>"]],
        [special["<|fim_suffix|>"]],
        "\n",
        [special["<|fim_middle|>"]],
        "naïve = <|im_end|>",
    ]
    assert special["<|endoftext|>"] in stop and all(token in special.values() for token in stop)


def test_a_model_without_fim_tokens_is_shown_a_marked_hole(
    dense_model: Path, tmp_path: Path, words: Vocabulary
) -> None:
    """The answer ends with the marks of the hole, and where it goes on with the suffix."""
    path = tmp_path / "chat.gguf"
    data = vocabulary_only(dense_model, path, "qwen2").read_bytes()
    path.write_bytes(data.replace(b"<|fim_", b"<|mif_"))
    model = ModelInfo(name="chat", path=str(path))
    body = InfillBody(input_prefix="def f(a):\n    x = ", input_suffix="\n\n    return x + 1\n")
    made = infill_prompt(body, model, 200)
    (ids,) = made.parts
    assert isinstance(ids, list) and len(ids) <= 200
    text = words.decode(ids)
    assert "<hole>\n\n    return x + 1\n" in text
    assert text.endswith("<|im_start|>assistant\n```\ndef f(a):\n    x = ")
    assert made.stop_texts == ("\n```", "<hole>", "\n    return x + 1")
    assert can_fill(model)
    short = infill_prompt(InfillBody(input_prefix="x", input_suffix="\n)\n"), model, 200)
    assert short.stop_texts == ("\n```", "<hole>"), "a short line may well stand in the answer"
