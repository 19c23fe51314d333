"""Sessions of the agent while memory is short: the real loop and store, and a scripted model.

The budget changes before every request, the worker dies, prompts are refused, and between turns
the agent's own process ends: the next one has only what is on disk.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from pathlib import Path

from scripted_model import Line, Recorder, ScriptedModel, use

from assistant.agent.conversation import SessionStore
from assistant.agent.loop import Limits, Reason
from assistant.agent.session import AgentSession
from assistant.errors import ContextFullError, UnderkeelError, WorkerDiedError

RUNGS = (2400, 3000, 4000, 8000, 16_000)
"""Budgets as the rungs of a ladder: memory pressure moves a session down, its end up again."""


@dataclass
class Pressure:
    """What has happened in all sessions.

    Attributes:
        lost: sessions that lack a prompt or a step on disk, or did not end as they should.
        over_budget: prompts above the budget of their moment, as sent or as shown to the user.
    """

    sessions: int = 0
    requests: int = 0
    changes_of_budget: int = 0
    worker_deaths: int = 0
    refusals: int = 0
    restarts: int = 0
    summaries: int = 0
    lost: int = 0
    over_budget: int = 0


def under_pressure(folder: Path, sessions: int, turns: int, reads: int) -> Pressure:
    """Play sessions of `turns` prompts with `reads` calls each; `folder` takes their files."""
    random_ = random.Random(7)
    seen = Pressure()
    work = folder / "work"
    work.mkdir()
    (work / "long.py").write_text("\n".join(f"VALUE_{i} = {i}" for i in range(80)))
    store = SessionStore(folder / "sessions")
    for number in range(sessions):
        asyncio.run(_session(store, work, (number, turns, reads), random_, seen))
    return seen


async def _session(
    store: SessionStore,
    work: Path,
    size: tuple[int, int, int],
    random_: random.Random,
    seen: Pressure,
) -> None:
    number, n_turns, n_reads = size
    id_ = store.create((work,), "auto").record.id
    rung = len(RUNGS) - 1
    prompts, steps, is_lost = [], 0, False
    for turn in range(n_turns):
        script: list[Line] = []
        budgets: list[int] = []
        for _ in range(n_reads):
            first = random_.randrange(1, 60)
            script += _trouble(random_, seen)
            script.append(use("read_file", path="long.py", first=first, last=first + 20))
        for _ in range(6 * n_reads):
            rung = min(max(rung + random_.choice((-1, -1, 0, 1, 1)), 0), len(RUNGS) - 1)
            budgets.append(RUNGS[rung])
        seen.changes_of_budget += sum(a != b for a, b in itertools.pairwise(budgets))
        model = ScriptedModel(script, budgets=budgets)
        user = Recorder()
        session = AgentSession(store.load(id_), model, limits=Limits(retries=5))
        prompts.append(f"Task {number}, part {turn}: read and tell.")
        finished = await session.run(prompts[-1], user)
        steps += finished.steps
        seen.restarts += 1
        seen.requests += len(model.prompts)
        seen.summaries += model.summaries
        seen.over_budget += model.overflows + sum(used > size for used, size in user.used)
        is_lost |= finished.stop.reason is not Reason.DONE
    turns = store.load(id_).turns
    is_lost |= [one.prompt for one in turns] != prompts
    is_lost |= sum(len(one.steps) for one in turns) != steps
    seen.sessions += 1
    seen.lost += is_lost


def _trouble(random_: random.Random, seen: Pressure) -> list[Line]:
    kind = random_.random()
    error: UnderkeelError
    if kind < 0.15:
        seen.worker_deaths += 1
        error = WorkerDiedError("the worker died")
    elif kind < 0.25:
        seen.refusals += 1
        error = ContextFullError("the prompt has 9000 tokens, the budget is 2400")
    else:
        return []
    return [error]
