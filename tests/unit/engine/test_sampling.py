"""The sampler's biases and penalties, by llama.cpp's own chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assistant.engine.transformers.runner import Chooser
from assistant.engine.types import Sampling
from assistant.llama.context import Sampler

LOGITS = np.array([1.0, 3.0, 2.9, 0.0], np.float32)


@pytest.mark.parametrize(
    ("fields", "history", "expected"),
    [
        ({}, [1], 1),
        ({"logit_bias": {1: -100.0}}, [], 2),
        ({"logit_bias": ((3, 50.0),)}, [], 3),
        ({"presence_penalty": 0.5}, [1], 2),
        ({"presence_penalty": 0.5}, [1, 2], 1),
        ({"frequency_penalty": 0.2}, [1, 1, 2], 2),
        ({"frequency_penalty": -2.0}, [0, 0], 0),
        ({"repeat_penalty": 1.5, "repeat_last_n": -1}, [1], 2),
        ({"presence_penalty": 0.5, "repeat_last_n": 0}, [1], 1),
        ({"presence_penalty": 0.5, "repeat_last_n": 1}, [1, 3], 1),
    ],
)
def test_greedy_with(fields: dict[str, Any], history: list[int], expected: int) -> None:
    """Engines agree. Without any of them there is no chain, so plain answers cost the same."""
    sampling = Sampling(temperature=0.0, seed=0, **fields)
    sampler = Sampler(sampling, len(LOGITS), history)
    assert sampler.propose(LOGITS.copy()) == expected
    assert sampler.greedy is not bool(fields)
    sampler.free()
    assert Chooser(sampling).choose(LOGITS, history) == expected
