"""Plays a scenario of `plays` on the full stack, and says what was broken.

Language servers, the daemon, its worker, a simulated GPU and a stand-in NVML follow one script,
with people at work throughout.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plays import Scenario
from stage import ROOT, Look, Stage, serves_all, staged, until
from typist import Reader, Tally, at_work, editors

from assistant.memory.ladder import DROP, TRIM

MOST_OVER_S = 2.0
"""Memory that others take must be given back within so long, in the time of the probes."""

_TRUTH_STEP_S = 0.05


@dataclass
class Outcome:
    """How a play went: what was broken, and figures for the report."""

    broken: list[str]
    figures: dict[str, Any]
    stage: Stage


async def play(
    scenario: Scenario, home: Path, folder: Path, model: Path, n_editors: int = 1
) -> Outcome:
    """Play it with people at work throughout, and wait until all is as before."""
    async with staged(
        home, folder, model, speed=scenario.speed, gpus=scenario.gpus, tables=scenario.tables
    ) as (stage, client):
        pid = (await client.status()).pid
        async with editors(n_editors, root=str(ROOT), seed=7) as typists:
            reader = Reader(client, tokens=scenario.answer_tokens, patience_s=scenario.patience_s)
            await asyncio.gather(*(typist.arrive() for typist in typists))
            people = [typist.type() for typist in typists]
            async with at_work(*people, reader.read()):
                await stage.play(scenario.acts)
            status = await until(client, serves_all, 90, "restored")
            restored_s = stage.now_s
            before = reader.tally.shown
            await reader.ask(-1)
            served = reader.tally.shown > before
        tallies = [typist.tally for typist in typists]
        admitted = stage.admitted()
        over_s = over(stage)
        looks = stage.looks()
        broken = [
            *_of_people(scenario, tallies, reader.tally),
            *([] if served else ["it does not serve afterwards"]),
            *([] if status.pid == pid else ["another daemon"]),
            *([] if over_s <= MOST_OVER_S else [f"over the GPU's memory for {over_s:.2f} s"]),
            *(f"a prompt of {n} over the budget of {most}" for n, most in admitted if n > most),
            *_of_the_ladder(scenario, looks),
        ]
        figures = {
            "scenario": scenario.name,
            "says": scenario.says,
            "requests": sum(tally.asked for tally in (*tallies, reader.tally)),
            "editors": [tally.row() for tally in tallies],
            "reader": reader.tally.row(),
            "admitted": len(admitted),
            "over_budget": sum(n > most for n, most in admitted),
            "over_the_gpu_s": round(over_s, 2),
            "deepest_rung": max(looks, key=lambda look: look.index).rung,
            "moves": looks[-1].moves,
            "acts": dict(Counter(says for _, says in stage.marks)),
            "deaths": looks[-1].deaths,
            "causes": stage.causes(),
            "refusals": looks[-1].refusals,
            "restored_after_s": round(restored_s - stage.marks[-1][0], 1),
            "speed": scenario.speed,
            "broken": broken,
        }
        return Outcome(broken, figures, stage)


def over(stage: Stage) -> float:
    """The longest time, in seconds, that more was held of a GPU than it has."""
    longest = run = 0
    for gpu in stage.machine.gpus:
        for _, others, ours in stage.truths[gpu.name]:
            run = run + 1 if others + ours > gpu.total_bytes else 0
            longest = max(longest, run)
    return longest * _TRUTH_STEP_S


def _of_people(scenario: Scenario, editing: Sequence[Tally], reading: Tally) -> list[str]:
    broken = []
    for tally in (*editing, reading):
        for what in ("hung", "lost", "wrong"):
            count = getattr(tally, what)
            broken += [f"{count} requests {what}"] if count else []
    for tally in editing:
        broken += [f"an editor was answered with the error {said!r}" for said in tally.errors]
        if not scenario.errors:
            broken += [f"an editor got {said!r}" for said in tally.told]
        if not tally.shown:
            broken.append("an editor was shown nothing at all")
    broken += [f"a reader got the error {code!r}" for code in set(reading.errors) - scenario.errors]
    return broken


def _of_the_ladder(scenario: Scenario, looks: Sequence[Look]) -> list[str]:
    broken, last = [], looks[-1].data
    stood = {look.rung for look in looks if look.rung}
    if scenario.costless and (stood - {"plan"} != stood & {TRIM, DROP} or stood == {"plan"}):
        broken.append(f"it stood on {sorted(stood)}")
    if last["moves"] > scenario.most_moves:
        broken.append(f"{last['moves']} moves, where {scenario.most_moves} suffice")
    if scenario.moves and not last["moves"]:
        broken.append("the ladder was not used")
    if scenario.deaths not in {None, bool(last["deaths"])}:
        broken.append(f"{last['deaths']} deaths")
    return broken


def run(scenario: Scenario, home: Path, folder: Path, model: Path, n_editors: int = 1) -> Outcome:
    """`play` in an event loop of its own."""
    return asyncio.run(play(scenario, home, folder, model, n_editors))
