"""Drafts by a model's own layers for multi-token prediction, on a model made here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tiny_models
from running import Bench, running

from assistant.engine.worker import speculation
from assistant.llama import nextn

Kind = Callable[..., Path]
KINDS = pytest.mark.parametrize(
    ("kind", "shape"),
    [
        pytest.param(tiny_models.predicting, {}, id="glm4moe"),
        pytest.param(tiny_models.predicting_hybrid, {"n_rs_seq": 4}, id="qwen35moe"),
        pytest.param(
            partial(tiny_models.predicting_hybrid, architecture="qwen3next"), {}, id="qwen3next"
        ),
        pytest.param(tiny_models.predicting_sparse, {}, id="deepseek32"),
        pytest.param(partial(tiny_models.predicting_sparse, architecture="glm-dsa"), {}, id="glm5"),
    ],
)
PROMPT = [3 + number * 11 % 250 for number in range(70)]


@pytest.fixture(autouse=True)
def no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt lookup finds nothing, so that every draft is the layers' own; each is tried, though
    a layer of this model costs a third of it."""
    monkeypatch.setattr(speculation.Lookup, "draft", lambda *_: speculation.NO_DRAFT)
    monkeypatch.setattr(speculation.Pace, "length", lambda _, draft, *__: len(draft.tokens))


def both(bench: Bench, prompt: list[int], count: int = 40) -> tuple[int, int]:
    """Answers with and without drafts are the same; drafted and accepted tokens."""
    plain = bench.answer(prompt, count, speculate=False)
    drafted = bench.answer(prompt, count)
    assert drafted.tokens == plain.tokens
    assert plain.timings.drafted_tokens == 0
    return drafted.timings.drafted_tokens, drafted.timings.accepted_tokens


def test_this_build_hands_out_hidden_states() -> None:
    assert nextn.available()


@KINDS
def test_layers_that_know_what_comes_draft_it_all(
    kind: Kind, shape: dict[str, int], tmp_path: Path
) -> None:
    with running(kind(tmp_path / "m.gguf"), nextn=True, **shape) as bench:
        drafted, accepted = both(bench, PROMPT)
        assert accepted >= 20 and accepted >= 0.8 * drafted


@KINDS
def test_wrong_drafts_change_nothing(kind: Kind, shape: dict[str, int], tmp_path: Path) -> None:
    noise = 0.6 if kind is tiny_models.predicting else 0.3
    with running(kind(tmp_path / "m.gguf", noise=noise), nextn=True, **shape) as bench:
        counts = [both(bench, PROMPT[start:]) for start in (0, 5, 9)]
    drafted, accepted = (sum(column) for column in zip(*counts, strict=True))
    assert 0 < accepted < drafted


@KINDS
def test_drafts_follow_cuts_shares_and_other_slots(
    kind: Kind, shape: dict[str, int], tmp_path: Path
) -> None:
    """What these layers have read is what the sequence holds, wherever that came from."""
    with running(kind(tmp_path / "m.gguf"), nextn=True, **shape) as bench:
        for prompt in (
            PROMPT,
            [*PROMPT[:40], 9, 8],  # cut
            [*PROMPT[:60], 7],  # another slot shares the start
            [5, *PROMPT],  # nothing is shared
            [*PROMPT[:40], 9],
        ):
            drafted, accepted = both(bench, prompt, 24)
            assert accepted > 5 and accepted >= 0.7 * drafted, prompt


def test_without_the_layers_nothing_is_predicted(tmp_path: Path) -> None:
    with running(tiny_models.predicting(tmp_path / "m.gguf")) as bench:
        assert bench.context.nextn is None
        assert both(bench, PROMPT) == (0, 0)
