"""Headroom on the full stack: whatever happens to the memory, people are served.

Language servers, the daemon and its worker run as for a user, on a simulated card and a stand-in
NVML that follow one script (`headroom`). Sizes are a sixty-fourth of life; the ways back up are
faster than life; the probes look as often as ever. The long form is `make bench-scenarios`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from headroom import Scenario, run, scenarios
from long_typing import soak

pytestmark = pytest.mark.model

ALL = scenarios()


@pytest.mark.parametrize("scenario", ALL, ids=[scenario.name for scenario in ALL])
def test_scenario(scenario: Scenario, home: Path, tmp_path: Path, tiny_moe: Path) -> None:
    outcome = run(scenario, home, tmp_path, tiny_moe)
    assert outcome.broken == [], outcome.figures


def test_soak(home: Path, tmp_path: Path, tiny_moe: Path) -> None:
    """Two minutes of life in seconds; `make bench-soak` is half an hour."""
    report = asyncio.run(soak(home, tmp_path, tiny_moe, life_s=120, speed=8, n_editors=1))
    assert report.broken == [], report.figures
