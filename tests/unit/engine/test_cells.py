"""Several requests at once on a cache that is too small for all of them: every one ends."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import running

from assistant.engine.types import LoadSpec, Priority, StopReason
from assistant.llama.model import Model

pytestmark = pytest.mark.model

PROMPT = "".join(f"value_{n} = compute({n})\n" for n in range(40))
CELLS = 512


@pytest.fixture(scope="module")
def model(tiny_moe: Path) -> Iterator[Model]:
    loaded = Model(LoadSpec(path=str(tiny_moe)))
    yield loaded
    loaded.free()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(Priority, Priority)))
def test_two_that_do_not_fit_side_by_side_are_both_answered(
    model: Model, tiny_moe: Path, first: Priority, second: Priority, together: bool
) -> None:
    with running(tiny_moe, model=model, n_ctx=CELLS) as bench:
        bench.runner.together = together
        length = len(bench.model.tokenise(PROMPT))
        assert length + 40 < CELLS < 2 * length
        told = bench.ask(PROMPT, 40, priority=first)
        bench.until(lambda: len(bench.heard[told].tokens) >= 2)
        asked = bench.ask(f"x = 1\n{PROMPT}", 20, priority=second)
        bench.finish()
        for name, wanted in ((told, 40), (asked, 20)):
            done = bench.heard[name].done
            assert done is not None
            assert (done.reason, done.timings.generated_tokens) == (StopReason.LENGTH, wanted)


@given(st.integers(0, 2**32))
@settings(max_examples=examples(3), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_crowd_is_answered_whole(model: Model, tiny_moe: Path, seed: int) -> None:
    """Of all classes, of all lengths that the cache can hold alone, some given up halfway."""
    dice = random.Random(seed)
    with running(tiny_moe, model=model, n_ctx=CELLS, n_seq_max=dice.randint(1, 4)) as bench:
        bench.runner.together = dice.random() < 0.5
        wanted, given_up = {}, set()
        for _ in range(dice.randint(2, 8)):
            count = dice.randint(1, 30)
            length = dice.randint(1, CELLS - count)
            prompt = [dice.randrange(1000, 20_000) for _ in range(length)]
            asked = bench.ask(prompt, count, priority=dice.choice([*Priority]))
            wanted[asked] = count
            for _ in range(dice.randint(0, 12)):
                bench.runner.step()
            if dice.random() < 0.2:
                given_up.add(one := dice.choice([*wanted]))
                bench.runner.cancel(one)
        bench.finish()
        for name, count in wanted.items():
            heard = bench.heard[name]
            assert heard.error is None and heard.done is not None
            if heard.done.reason is StopReason.CANCELLED:
                assert name in given_up
            else:
                assert heard.done.reason is StopReason.LENGTH
                assert heard.timings.generated_tokens == count
        assert bench.runner.slots.cells_used <= CELLS
