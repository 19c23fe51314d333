"""What other programs do to the GPU, the driver and the host while people work: as data."""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulated import Compute, Foreign, Gpu, Stage
from stage import DESKTOP_BYTES, GPU, GPU_BYTES, UNIT, Act
from typist import HANGS_AFTER_S

GIB = 1 << 30

_GPU = Gpu(GPU, GPU_BYTES, others_bytes=DESKTOP_BYTES)
_SECOND = "SIM1"


@dataclass(frozen=True)
class Scenario:
    """One play.

    Attributes:
        name: for files and tests.
        says: what happens, for a person.
        acts: the script; the last one ends it.
        GPUs: the GPUs when the curtain rises, `GPU` first.
        most_moves: more moves on the ladder than this would be restless.
        moves: whether the ladder has to be used at all.
        costless: only rungs that make nothing again may be used, and one has to be.
        deaths: whether a worker is bound to die; None where it may, or may be moved in time.
        errors: codes that a reader may get while nothing can be served at all.
        speed: how much faster than life the ways back up are.
        answer_tokens: of what a reader is reported; `patience_s`: who waits longer is left hanging.
        tables: settings over those of the stage.
    """

    name: str
    says: str
    acts: Sequence[Act]
    gpus: Sequence[Gpu] = (_GPU,)
    most_moves: int = 4
    moves: bool = True
    costless: bool = False
    deaths: bool | None = False
    errors: frozenset[str] = frozenset()
    speed: float = 10.0
    answer_tokens: int = 60
    patience_s: float = HANGS_AFTER_S
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def scenarios(stretch: float = 1.0, hits: int = 8) -> list[Scenario]:
    """All scenarios; `stretch` makes them longer, `hits` is how often the worker is hit."""
    return [
        _game(stretch),
        _leak(stretch),
        _second_server(stretch),
        _lost(stretch),
        _overstated(stretch),
        *_refused_loads(stretch),
        *_refused_computations(stretch),
        _host(stretch),
        _two_gpus(stretch),
        _cells(stretch),
        _hits(hits, stretch),
    ]


def _others(units: float) -> dict[str, int]:
    return {"others_bytes": int(units * UNIT)}


def _game(stretch: float) -> Scenario:
    acts = [
        Act(1.5, "a game takes 6 GiB", gpu=_others(6.25)),
        Act(1.5 + 4 * stretch, "it leaves", gpu=_others(0.25)),
        Act(2.5 + 4 * stretch),
    ]
    return Scenario("game", "A game takes 6 GiB and leaves.", acts, most_moves=3)


def _leak(stretch: float) -> Scenario:
    steps = 26
    acts = [
        Act(1 + stretch * 0.25 * n, "a leak begins" if n == 0 else "", gpu=_others(0.25 + 0.25 * n))
        for n in range(steps)
    ]
    end = 1.5 + stretch * 0.25 * steps
    acts += [Act(end, "the leaking program is ended", gpu=_others(0.25)), Act(end + 1)]
    return Scenario("leak", "A program leaks 256 MiB at a time.", acts, most_moves=9)


def _second_server(stretch: float) -> Scenario:
    noise = random.Random(4)
    listed = (Foreign(GPU, 4242, int(3.5 * UNIT)),)
    acts = [
        Act(
            1 + 0.3 * n,
            "a second model server loads" if n == 0 else "",
            gpu=_others(0.25 + 0.6 * n),
        )
        for n in range(6)
    ]
    acts += [
        Act(3 + 0.3 * n, gpu=_others(3.5 + noise.uniform(-0.1, 0.1)), processes=listed)
        for n in range(int(14 * stretch))
    ]
    end = 3 + 0.3 * int(14 * stretch)
    acts += [Act(end, "it ends", gpu=_others(0.25), processes=()), Act(end + 1)]
    says = "A second model server comes, whose memory goes up and down, and leaves."
    return Scenario("second_server", says, acts, most_moves=6)


def _lost(stretch: float) -> Scenario:
    acts = [
        Act(1.5, "the GPU is lost", gpu={"lost": True}),
        Act(1.5 + 4 * stretch, "it returns", gpu={"lost": False}),
        Act(2.5 + 4 * stretch),
    ]
    return Scenario("lost", "The GPU falls off the bus and returns.", acts, deaths=None)


def _overstated(stretch: float) -> Scenario:
    gpu = Gpu(GPU, GPU_BYTES, others_bytes=5 * UNIT, overstate_bytes=5 * UNIT)
    acts = [
        Act(1.5, "the worker is killed", send=signal.SIGKILL),
        Act(3 + 2 * stretch, "the driver tells the truth", gpu={"overstate_bytes": 0}),
        Act(4 + 2 * stretch, "and the memory is free", gpu=_others(0.25)),
        Act(5 + 2 * stretch),
    ]
    says = "The driver reports 5 GiB as free that are not, from before the load."
    return Scenario("overstated", says, acts, gpus=(gpu,), moves=False, deaths=True, speed=20)


def _refused_loads(stretch: float) -> list[Scenario]:
    found = []
    for name, says, stage in (
        ("refused_weights", "The GPU has room, but refuses every weight.", Stage.WEIGHTS),
        (
            "refused_context",
            "The GPU has room, but refuses cache and buffers.",
            Stage.KV | Stage.COMPUTE,
        ),
    ):
        gpu = Gpu(GPU, GPU_BYTES, others_bytes=DESKTOP_BYTES, refuse=stage)
        acts = [
            Act(2 * stretch, "nothing is refused any more", gpu={"refuse": Stage.NONE}),
            Act(1 + 2 * stretch),
        ]
        found.append(Scenario(name, says, acts, gpus=(gpu,), moves=False, speed=30))
    return found


def _refused_computations(stretch: float) -> list[Scenario]:
    found = []
    for name, says, how in (
        (
            "refused_compute",
            "Memory is refused in the middle of prefill and decode.",
            Compute.ALLOC_FAILED,
        ),
        ("failed_compute", "The driver fails in the middle of prefill and decode.", Compute.FAIL),
    ):
        acts = [
            Act(1.5, "computing is refused", gpu={"compute": how}),
            Act(1.5 + 2 * stretch, "no more", gpu={"compute": Compute.OK}),
            Act(2.5 + 2 * stretch),
        ]
        found.append(Scenario(name, says, acts, most_moves=12))
    acts = [
        Act(1.5, "every computation aborts the process", gpu={"compute": Compute.ABORT}),
        Act(1.5 + 1.5 * stretch, "no more", gpu={"compute": Compute.OK}),
        Act(2.5 + 1.5 * stretch),
    ]
    aborted = Scenario(
        "aborted_compute",
        "The driver aborts the worker as CUDA does.",
        acts,
        deaths=True,
        moves=False,
    )
    return [*found, aborted]


def _host(stretch: float) -> Scenario:
    acts = [
        Act(1.5, "the host runs out of memory", host_memory_bytes=0),
        Act(1.5 + 3 * stretch, "it is free again", host_memory_bytes=8 * GIB),
        Act(2.5 + 3 * stretch),
    ]
    return Scenario(
        "host",
        "The host's memory runs out, so that even the last rung has to go.",
        acts,
        errors=frozenset({"plan"}),
        most_moves=8,
    )


def _two_gpus(stretch: float) -> Scenario:
    """The model stands on both; what happens to the second must not cost the first."""
    gpus = tuple(Gpu(name, 6 * UNIT, others_bytes=DESKTOP_BYTES // 2) for name in (GPU, _SECOND))

    def second(**changes: Any) -> dict[str, dict[str, Any]]:
        return {_SECOND: changes}

    acts = [
        Act(1.5, "a game takes 3 GiB of the second", gpus=second(others_bytes=3 * UNIT)),
        Act(1.5 + 3 * stretch, "it leaves", gpus=second(others_bytes=DESKTOP_BYTES // 2)),
        Act(2.5 + 6 * stretch, "the second is lost", gpus=second(lost=True)),
        Act(2.5 + 9 * stretch, "it returns", gpus=second(lost=False)),
        Act(3.5 + 9 * stretch),
    ]
    says = "Of two GPUs that share the model one is filled and given back, then lost and returns."
    return Scenario("two_gpus", says, acts, gpus=gpus, deaths=None, most_moves=6)


def _cells(stretch: float) -> Scenario:
    acts = [Act(8 * stretch, "they have done enough")]
    return Scenario(
        "cells",
        "Several people share a small cache: its cells run short, the GPU's memory does not.",
        acts,
        moves=False,
        costless=True,
        most_moves=0,
        tables={"model": {"n_ctx": 1024}},
    )


_HANG_S = 5.0
_HITS = {"killed": 0.85, "stopped": 0.1, "hangs in the driver": 0.05}


def _hits(count: int, stretch: float) -> Scenario:
    """Mostly killed, sometimes stopped, and sometimes it hangs in a driver that comes to itself
    only once the watchdog has ended the worker."""
    dice = random.Random(9)
    at_s, acts = 1.0, []
    for _ in range(count):
        how = dice.choices([*_HITS], [*_HITS.values()])[0]
        # Most hit it at work, some while it loads.
        ready = dice.random() < 0.8
        if how == "hangs in the driver":
            acts.append(Act(at_s, how, gpu={"compute": Compute.HANG}, once_ready=True))
            at_s += _HANG_S + 3.0
            acts.append(Act(at_s, gpu={"compute": Compute.OK}))
        else:
            send = signal.SIGKILL if how == "killed" else signal.SIGSTOP
            acts.append(Act(at_s, how, send=send, once_ready=ready))
            if how == "stopped":
                at_s += _HANG_S + 1.5  # until the watchdog ends it; another hit would come first
        at_s += dice.uniform(0.2, 2.0) * stretch
    acts.append(Act(at_s + 1))
    return Scenario(
        "hits",
        f"The worker is killed or made to hang at {count} random moments.",
        acts,
        deaths=True,
        moves=False,
        most_moves=2 * count,
        # An answer begins again with each worker, so it must be shorter than the calm between hits.
        answer_tokens=30,
        # Where a busy machine leaves no such calm, the daemon ends it after two minutes.
        patience_s=140.0,
        # A request beside two hangs cannot be distinguished from the one that causes them.
        errors=frozenset({"worker_died"}),
        tables={"engine": {"hang_s": _HANG_S}},
    )
