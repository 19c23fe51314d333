"""Headroom on the full stack: whatever happens to the memory, people are served.

Language servers, the daemon and its worker run as for a user, on a simulated GPU and a stand-in
NVML that follow one script (`plays`). Sizes are a sixty-fourth of life; the ways back up are
faster than life; the probes look as often as ever. The long form is `make bench-scenarios`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from daemons import until as wait_for
from headroom import run
from long_typing import soak
from plays import Scenario, scenarios
from stage import ROOT, staged, until, workers
from typist import editors

from assistant.wire import ServiceState

pytestmark = [pytest.mark.model, pytest.mark.alone]

ALL = scenarios()


@pytest.mark.parametrize("scenario", ALL, ids=[scenario.name for scenario in ALL])
def test_scenario(scenario: Scenario, home: Path, tmp_path: Path, tiny_moe: Path) -> None:
    outcome = run(scenario, home, tmp_path, tiny_moe)
    assert outcome.broken == [], outcome.figures


def test_soak(home: Path, tmp_path: Path, tiny_moe: Path) -> None:
    """Two minutes of life in seconds; `make bench-soak` is half an hour."""
    report = asyncio.run(soak(home, tmp_path, tiny_moe, life_s=120, speed=8, n_editors=1))
    assert report.broken == [], report.figures


def test_idle_memory_is_given_back_and_the_next_key_brings_it_again(
    home: Path, tmp_path: Path, tiny_moe: Path
) -> None:
    async def main() -> None:
        tables = {"daemon": {"release_after_s": 30.0, "log_level": "debug"}}
        async with (
            staged(home, tmp_path, tiny_moe, tables=tables) as (stage, client),
            editors(1, root=str(ROOT), seed=5) as (typist,),
        ):
            await typist.arrive()
            await until(client, lambda now: now.state is ServiceState.RELEASED, what="released")
            await wait_for(lambda: not workers() and not stage.ours_bytes())
            shown = typist.tally.shown
            while typist.tally.shown == shown:
                await typist.ask()
            assert typist.tally.row()["errors"] == {}
            assert (await client.status()).state is ServiceState.READY

    asyncio.run(main())
