"""Typing for a long time under pressure that changes at random: nothing may grow, nothing may leak.

Time passes `speed` times as fast as in life: keys come so much sooner, and what waits for calm
waits so much shorter. Now and then everybody has a coffee, so that the ladder can climb.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from gauges import Gauge, Reading
from stage import (
    DESKTOP_BYTES,
    GPU,
    GPU_BYTES,
    ROOT,
    UNIT,
    Act,
    Stage,
    serves_all,
    staged,
    until,
    workers,
)
from typist import Reader, at_work, editors

from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid

_KEY_S = 0.2  # of life: five keys a second
_COFFEE_S = 60.0
_CALM_S = 0.5


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
            started_s = stage.now_s
            ends_s = started_s + life_s / speed
            async with at_work(_measure(stage, gauges, servers), _press(stage, noise)):
                while stage.now_s < ends_s:
                    people = [typist.type() for typist in typists]
                    async with at_work(*people, _reads(reader, speed)):
                        await asyncio.sleep(noise.uniform(40, 160) / speed)
                    await asyncio.sleep(_COFFEE_S / speed)
            lasted_s = stage.now_s - started_s
            stage.do(Act(0, "calm", gpu={"others_bytes": DESKTOP_BYTES}))
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
            "resident": {gauge.name: gauge.figures() for gauge in gauges.values() if gauge.rows},
            "over_the_gpu": _spells(stage, gauges["worker"]),
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
        stage.do(Act(0, f"others {units:g}", gpu={"others_bytes": int(units * UNIT)}))
        if noise.random() < 0.05:
            stage.do(Act(0, "lost", gpu={"lost": True}))
            await asyncio.sleep(noise.uniform(0.5, 2))
            stage.do(Act(0, "returned", gpu={"lost": False}))


async def _measure(
    stage: Stage, gauges: dict[str, Gauge], servers: Sequence[psutil.Process]
) -> None:
    daemon = psutil.Process(running_pid())
    while True:
        for name, processes in (("daemon", [daemon]), ("worker", workers()), ("editors", servers)):
            with contextlib.suppress(psutil.Error):
                if processes:
                    gauges[name].rows.append(_reading(stage, name, processes))
        await asyncio.sleep(1.0)


def _reading(stage: Stage, name: str, processes: Sequence[psutil.Process]) -> Reading:
    state = ""
    if name == "worker":  # its memory is what its rung holds of the host
        now = stage.last()
        state = f"{now['rung']}" if now.get("state") == "ready" else "loading"
    cpu = [process.cpu_times() for process in processes]
    held = [process.memory_info() for process in processes]
    return Reading(
        at_s=stage.now_s,
        own_mib=sum(one.rss - one.shared for one in held) / 2**20,
        files=sum(process.num_fds() for process in processes),
        threads=sum(process.num_threads() for process in processes),
        state=state,
        cpu_s=sum(times.user + times.system for times in cpu),
    )


def _spells(stage: Stage, worker: Gauge) -> dict[str, Any]:
    """When more was held of the GPU than it has, for how long, and what the worker could do about
    it: a move takes its time in cores, which other work on the machine may have."""
    rows = stage.truths[GPU]
    spells: list[list[float]] = []
    for before, (at_s, others, ours) in zip([None, *rows], rows, strict=False):
        if others + ours <= GPU_BYTES:
            continue
        if spells and before is not None and spells[-1][1] == before[0]:
            spells[-1][1] = at_s
        else:
            spells.append([at_s, at_s])
    looks = stage.looks()
    longest = sorted(spells, key=lambda spell: spell[0] - spell[1])[:5]
    return {
        "spells": len(spells),
        "longest": [
            {
                "at_s": round(started_s, 1),
                "lasted_s": round(ended_s - started_s, 2),
                "rung": next((look.rung for look in reversed(looks) if look.at_s < started_s), ""),
                "rung_after": next((look.rung for look in looks if look.at_s > ended_s), ""),
                "cores_of_the_worker": worker.cpu_share(started_s, ended_s),
            }
            for started_s, ended_s in longest
        ],
    }


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
