"""Recurrent layers that keep earlier states (`n_rs_seq`): drafts, short deletions, and limits.

llama.cpp steps back without checking that it can; what it would get wrong is refused before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from running import Bench, running

from assistant.engine.worker import speculation
from assistant.llama.context import Context, DecodeStatus
from assistant.llama.structs import Span

Kind = Callable[[Path], Path]
KINDS = pytest.mark.parametrize(
    "kind", [tiny_models.hybrid, tiny_models.predicting_hybrid, tiny_models.compressed]
)
PROMPT = [3 + (n * n + 7 * n) % 247 for n in range(100)]
STATES = 4


def predicting_badly(path: Path) -> Path:
    return tiny_models.predicting_hybrid(path, noise=0.35)


def without_states(path: Path) -> Path:
    """Of Qwen3-Next llama.cpp keeps no earlier states."""
    return tiny_models.predicting_hybrid(path, noise=0.2, architecture="qwen3next")


@pytest.fixture
def every_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draft is tried, though a row of these models costs as much as any other."""
    monkeypatch.setattr(speculation.Pace, "length", lambda _, draft, *__: len(draft.tokens))


def logits(context: Context, sequence: int, position: int, token: int) -> np.ndarray:
    assert context.decode([Span(sequence, position, [token], 1)]) is DecodeStatus.DONE
    return context.logits(0).copy()


def evaluated(context: Context, sequence: int, tokens: list[int], start: int = 0) -> None:
    assert context.decode([Span(sequence, start, tokens, 0)]) is DecodeStatus.DONE


@KINDS
def test_a_sequence_steps_back_once_after_a_batch(kind: Kind, tmp_path: Path) -> None:
    with running(kind(tmp_path / "m.gguf"), n_rs_seq=STATES) as bench:
        context = bench.context
        assert context.n_rs_seq == STATES
        evaluated(context, 0, PROMPT[:20])
        assert context.undoable(0) == STATES
        assert not context.forget(0, 20 - STATES - 1)
        assert context.forget(0, 17)
        assert context.last(0) == 16 and context.undoable(0) == 0
        assert not context.forget(0, 16)
        evaluated(context, 1, PROMPT[:17])
        np.testing.assert_allclose(
            logits(context, 0, 17, 9), logits(context, 1, 17, 9), rtol=1e-4, atol=1e-4
        )


@KINDS
def test_no_more_than_the_batch_is_stepped_back(kind: Kind, tmp_path: Path) -> None:
    """Older states are of an earlier batch; the one before the batch is not kept."""
    with running(kind(tmp_path / "m.gguf"), n_rs_seq=STATES) as bench:
        evaluated(bench.context, 0, PROMPT[:20])
        evaluated(bench.context, 0, PROMPT[20:22], 20)
        assert bench.context.undoable(0) == 1
        assert not bench.context.forget(0, 20)
        assert bench.context.forget(0, 21)
        evaluated(bench.context, 0, PROMPT[21:22], 21)
        assert bench.context.undoable(0) == 0


@KINDS
def test_a_shared_state_is_not_stepped_back(kind: Kind, tmp_path: Path) -> None:
    with running(kind(tmp_path / "m.gguf"), n_rs_seq=STATES) as bench:
        context = bench.context
        evaluated(context, 0, PROMPT[:20])
        context.share(0, 1)
        assert context.undoable(0) == context.undoable(1) == 0
        assert not context.forget(0, 18)
        evaluated(context, 1, PROMPT[20:22], 20)  # it has a state of its own now
        assert context.undoable(0) == STATES and context.undoable(1) == 1


@KINDS
def test_a_sequence_that_stepped_back_is_shared_as_it_is(kind: Kind, tmp_path: Path) -> None:
    with running(kind(tmp_path / "m.gguf"), n_rs_seq=STATES) as bench:
        context = bench.context
        evaluated(context, 0, PROMPT[:20])
        assert context.forget(0, 17)
        context.share(0, 1)
        evaluated(context, 2, PROMPT[:17])
        fresh = logits(context, 2, 17, 9)
        np.testing.assert_allclose(logits(context, 1, 17, 9), fresh, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits(context, 0, 17, 9), fresh, rtol=1e-4, atol=1e-4)


@KINDS
def test_a_batch_of_several_sequences_ends_all_steps_back(kind: Kind, tmp_path: Path) -> None:
    with running(kind(tmp_path / "m.gguf"), n_rs_seq=STATES) as bench:
        context = bench.context
        evaluated(context, 2, PROMPT[:9])
        spans = [Span(number, 0, PROMPT[:6], 0) for number in (0, 1)]
        assert context.decode(spans) is DecodeStatus.DONE
        assert [context.undoable(number) for number in range(3)] == [0, 0, 0]


@KINDS
def test_after_an_aborted_batch_the_state_is_lost(kind: Kind, tmp_path: Path) -> None:
    """llama.cpp takes the batch back by a step that leads to a state that was never written."""
    with running(kind(tmp_path / "m.gguf"), n_rs_seq=STATES) as bench:
        context = bench.context
        evaluated(context, 0, PROMPT[:20])
        context.abort.set()
        assert context.decode([Span(0, 20, PROMPT[20:22], 0)]) is DecodeStatus.ABORTED
        context.abort.clear()
        assert not context.ends_before(0, 20)
        assert not context.forget(0, 20)
        assert context.forget(0) and context.ends_before(0, 0)
        evaluated(context, 0, PROMPT[:5])
        assert context.undoable(0) == STATES


@KINDS
def test_an_aborted_answer_goes_on_right(kind: Kind, tmp_path: Path) -> None:
    path = kind(tmp_path / "m.gguf")
    with running(path, n_rs_seq=STATES) as bench, running(path) as other:
        wanted = other.answer(PROMPT, 12).tokens
        for steps in range(1, 6):
            name = bench.ask(PROMPT, 12)
            for _ in range(steps):
                bench.runner.step()
            bench.context.abort.set()
            bench.runner.step()
            bench.until(lambda: bench.heard[name].done is not None)  # noqa: B023
            assert bench.heard[name].tokens == wanted, steps


@KINDS
@pytest.mark.parametrize("back", [1, 2, STATES])
def test_a_short_deletion_evaluates_nothing_again(kind: Kind, back: int, tmp_path: Path) -> None:
    """Case S11: the last token of a prompt is always evaluated, for its logits."""
    path = kind(tmp_path / "m.gguf")
    counts, answers = [], []
    for states in (0, STATES):
        with running(path, n_rs_seq=states) as bench:
            bench.answer(PROMPT, 4)
            shorter = bench.answer(PROMPT[:-back], 4)
            counts.append(shorter.timings.evaluated_tokens)
            answers.append(shorter.tokens)
    assert counts[1] == 1 < counts[0]
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("every_draft")
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "kind", [tiny_models.hybrid, tiny_models.predicting_hybrid, predicting_badly]
)
def test_drafts_change_nothing(kind: Kind, exact: bool, tmp_path: Path) -> None:
    path = kind(tmp_path / "m.gguf")
    repeated = [*PROMPT[:40], *PROMPT[:40]]
    with running(path, n_rs_seq=STATES) as bench:
        drafter = bench.runner.drafter
        for prompt in (repeated, repeated[:-3], [*repeated, 7], PROMPT):
            plain = bench.answer(prompt, 40, speculate=False)
            drafted = bench.answer(prompt, 40, exact_drafts=exact)
            assert drafted.tokens == plain.tokens
        assert drafter.drafted > 0
        assert exact or not drafter.rewritten


@pytest.mark.usefixtures("every_draft")
def test_a_draft_is_no_longer_than_the_states(tmp_path: Path) -> None:
    with running(tiny_models.predicting_hybrid(tmp_path / "m.gguf"), n_rs_seq=2) as bench:
        lengths = []
        decode = bench.context.decode

        def noted(spans: list[Span]) -> DecodeStatus:
            lengths.append(max(span.outputs for span in spans))
            return decode(spans)

        bench.context.decode = noted  # type: ignore[method-assign,assignment]
        bench.answer([*PROMPT[:40], *PROMPT[:40]], 30)
        assert max(lengths) == 3


@pytest.mark.usefixtures("every_draft")
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", [tiny_models.recurrent, without_states])
def test_drafts_by_checkpoint_change_nothing(kind: Kind, exact: bool, tmp_path: Path) -> None:
    """A wrong draft leads back to a state before it; what was right of it is evaluated again."""
    repeated = [*PROMPT[:40], *PROMPT[:40]]
    with running(kind(tmp_path / "m.gguf"), nextn=kind is without_states) as bench:
        assert bench.context.n_rs_seq == 0
        for prompt in (repeated, repeated[:-3], [*repeated, 7], PROMPT):
            plain = bench.answer(prompt, 40, speculate=False)
            assert bench.answer(prompt, 40, exact_drafts=exact).tokens == plain.tokens
        drafter = bench.runner.drafter
        assert drafter.drafted > drafter.accepted > 0


def test_nothing_is_drafted_where_no_checkpoint_is_kept(tmp_path: Path) -> None:
    path = without_states(tmp_path / "m.gguf")
    with running(path, nextn=True, checkpoint_bytes=0) as bench:
        bench.answer([*PROMPT[:40], *PROMPT[:40]], 30)
        assert bench.runner.drafter.drafted == 0


def test_llama_cpp_keeps_none_for_other_kinds(tmp_path: Path) -> None:
    with running(tiny_models.recurrent(tmp_path / "m.gguf"), n_rs_seq=STATES) as bench:
        assert bench.context.n_rs_seq == 0
        bench.answer(PROMPT, 4)


def _edited(rng: random.Random, prompt: list[int]) -> list[int]:
    """The prompt after some typing, deleting, pasting, or in another file."""
    match rng.randrange(8):
        case 0 | 1 | 2:
            prompt = [*prompt, rng.randrange(3, 250)]
        case 3 | 4:
            prompt = prompt[: -rng.randrange(1, 7)]
        case 5:
            prompt = [*prompt[: rng.randrange(20, len(prompt))], rng.randrange(3, 250)]
        case 6:
            prompt = [*prompt, *prompt[5 : 5 + rng.randrange(3, 30)]]
        case _:
            prompt = [rng.randrange(3, 250) for _ in range(40)] * 2
    return prompt[:300] if len(prompt) > 30 else [*prompt, *PROMPT[:30]]


def _abandoned(bench: Bench, rng: random.Random, prompt: list[int]) -> None:
    """A request that is given up midway, perhaps within a batch."""
    name = bench.ask(prompt, 12)
    for _ in range(rng.randrange(1, 6)):
        if rng.random() < 0.3:
            bench.context.abort.set()
        bench.runner.step()
    bench.runner.cancel(name)
    bench.finish()
    bench.context.abort.clear()


@pytest.mark.usefixtures("every_draft")
@pytest.mark.parametrize("kind", [predicting_badly, without_states])
@pytest.mark.parametrize("seed", range(2))
def test_typing_deleting_and_giving_up_at_random(kind: Kind, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    path = kind(tmp_path / "m.gguf")
    prompt = PROMPT
    with running(path, n_rs_seq=STATES, nextn=True) as bench, running(path) as other:
        for _ in range(60):
            prompt = _edited(rng, prompt)
            if rng.random() < 0.3:
                _abandoned(bench, rng, prompt)
            most = rng.choice([1, 4, 16])
            wanted = other.answer(prompt, most, speculate=False, cache=False)
            assert bench.answer(prompt, most).tokens == wanted.tokens
        assert bench.runner.drafter.drafted > 100
