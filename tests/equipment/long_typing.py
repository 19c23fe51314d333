"""Typing for a long time under pressure that changes at random: nothing may grow, nothing may leak.

Time passes `speed` times as fast as in life: keys come so much sooner, and what waits for calm
waits so much shorter. Now and then everybody has a coffee, so that the ladder can climb.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from stage import DESKTOP_BYTES, ROOT, UNIT, Act, Stage, serves_all, staged, until, workers
from typist import Reader, at_work, editors

from assistant.client import DaemonClient
from assistant.daemon.instance import running_pid

_KEY_S = 0.2  # of life: five keys a second
_COFFEE_S = 60.0
_CALM_S = 0.5


@dataclass
class Gauge:
    """Figures of one process over time: seconds, resident MiB, files, threads."""

    name: str
    rows: list[tuple[float, float, int, int]] = field(default_factory=list)

    def slope_mib_per_hour(self) -> float:
        """Of the resident memory over the second half, by least squares, in hours of real time."""
        rows = self.rows[len(self.rows) // 2 :]
        if len(rows) < 3:
            return 0.0
        hours = np.array([row[0] for row in rows]) / 3600
        return float(np.polyfit(hours, np.array([row[1] for row in rows]), 1)[0])

    def growth_mib(self) -> float:
        """What the median of the last quarter is above that of the second."""
        quarter = max(len(self.rows) // 4, 1)
        second, last = self.rows[quarter : 2 * quarter], self.rows[-quarter:]
        return float(np.median([row[1] for row in last]) - np.median([row[1] for row in second]))


@dataclass
class Report:
    """How it went."""

    broken: list[str]
    figures: dict[str, Any]
    stage: Stage


async def soak(
    home: Path, folder: Path, model: Path, *, life_s: float, speed: float, n_editors: int = 2
) -> Report:
    """Type for `life_s` seconds of life.

    Args:
        speed: seconds of life in a second.
    """
    noise = random.Random(3)
    gauges = {name: Gauge(name) for name in ("daemon", "worker", "editors")}
    async with staged(home, folder, model, speed=speed) as (stage, client):
        async with editors(n_editors, key_s=_KEY_S / speed, root=str(ROOT), seed=11) as typists:
            reader = Reader(client, tokens=30)
            await asyncio.gather(*(typist.arrive() for typist in typists))
            await reader.ask(-1)
            servers = [psutil.Process(typist.pid) for typist in typists]
            before = await _held(stage, client)
            begun_s = stage.now_s
            ends_s = begun_s + life_s / speed
            async with at_work(_measure(stage, gauges, servers), _press(stage, noise)):
                while stage.now_s < ends_s:
                    people = [typist.type() for typist in typists]
                    async with at_work(*people, _reads(reader, speed)):
                        await asyncio.sleep(noise.uniform(40, 160) / speed)
                    await asyncio.sleep(_COFFEE_S / speed)
            lasted_s = stage.now_s - begun_s
            stage.do(Act(0, "calm", card={"others_bytes": DESKTOP_BYTES}))
            await until(client, serves_all, 120, "restored")
            after = await _held(stage, client)
        tallies = [*(typist.tally for typist in typists), reader.tally]
        admitted = stage.admitted()
        looks = stage.looks()
        broken = [
            *(f"{tally.hung} hung" for tally in tallies if tally.hung),
            *(f"{tally.lost} lost" for tally in tallies if tally.lost),
            *(f"{tally.wrong} wrong" for tally in tallies if tally.wrong),
            *(f"an error: {said}" for tally in tallies for said in tally.errors),
            *(f"a prompt of {n} over {most}" for n, most in admitted if n > most),
            *(
                f"{name}: {before[name]} before, {after[name]} after"
                for name in _more(before, after)
            ),
        ]
        figures = {
            "life_s": life_s,
            "real_s": round(lasted_s, 1),
            "speed": speed,
            "requests": sum(tally.asked for tally in tallies),
            "people": [tally.row() for tally in tallies],
            "admitted": len(admitted),
            "moves": looks[-1].moves,
            "deaths": looks[-1].deaths,
            "refusals": looks[-1].refusals,
            "held_before": before,
            "held_after": after,
            "resident": {
                gauge.name: {
                    "first_mib": round(gauge.rows[0][1], 1),
                    "last_mib": round(gauge.rows[-1][1], 1),
                    "growth_mib": round(gauge.growth_mib(), 1),
                    "slope_mib_per_hour": round(gauge.slope_mib_per_hour(), 1),
                    "most_files": max(row[2] for row in gauge.rows),
                    "most_threads": max(row[3] for row in gauge.rows),
                }
                for gauge in gauges.values()
                if gauge.rows
            },
            "broken": broken,
        }
        return Report(broken, figures, stage)


async def _reads(reader: Reader, speed: float) -> None:
    """Somebody has something explained every twenty seconds of life."""
    number = 0
    while True:
        number += 1
        await reader.ask(number)
        await asyncio.sleep(20 / speed)


async def _press(stage: Stage, noise: random.Random) -> None:
    """Other programs come and go; now and then the driver fails for a moment."""
    while True:
        await asyncio.sleep(noise.uniform(0.5, 4))
        units = noise.choice((0.25, 0.25, 1, 2, 3, 4, 5, 6, 6.5))
        stage.do(Act(0, f"others {units:g}", card={"others_bytes": int(units * UNIT)}))
        if noise.random() < 0.05:
            stage.do(Act(0, "lost", card={"lost": True}))
            await asyncio.sleep(noise.uniform(0.5, 2))
            stage.do(Act(0, "returned", card={"lost": False}))


async def _measure(
    stage: Stage, gauges: dict[str, Gauge], servers: Sequence[psutil.Process]
) -> None:
    daemon = psutil.Process(running_pid())
    while True:
        for name, processes in (("daemon", [daemon]), ("worker", workers()), ("editors", servers)):
            with contextlib.suppress(psutil.Error):
                if processes:
                    gauges[name].rows.append(
                        (
                            stage.now_s,
                            sum(process.memory_info().rss for process in processes) / 2**20,
                            sum(process.num_fds() for process in processes),
                            sum(process.num_threads() for process in processes),
                        )
                    )
        await asyncio.sleep(1.0)


async def _held(stage: Stage, client: DaemonClient) -> dict[str, int]:
    """What is in use once nobody asks for anything: must be the same before and after."""
    await until(
        client,
        lambda now: bool(
            now.stats and not (now.in_flight or now.stats.running or now.stats.waiting)
        ),
        what="calm",
    )
    await asyncio.sleep(_CALM_S + 1.0)  # the probes look once a second while nobody works
    status = await client.status()
    assert status.stats is not None
    daemon = psutil.Process(running_pid())
    return {
        "busy_slots": sum(slot.busy for slot in status.stats.slots),
        "in_flight": status.in_flight,
        "workers": len(workers()),
        "daemon_files": daemon.num_fds(),
        "daemon_tasks": stage.looks()[-1].tasks,
    }


def _more(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """What there is more of than the few that come and go."""
    spare = {"daemon_files": 4, "daemon_tasks": 4}
    return [name for name, count in after.items() if count > before[name] + spare.get(name, 0)]
