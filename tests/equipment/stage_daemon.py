"""The real daemon on a stage: faster waits, host memory that the play decides, every look recorded.

    python stage_daemon.py SPEED RECORD

Started in the environment of a `simulated.Machine`. What waits for calm (the ways back up, idle
times, how long deaths are remembered) passes SPEED times as fast; the probes look as often as ever,
so a fall takes the looks that it takes for a user. Each look becomes a line of JSON in RECORD.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from assistant import paths, settings
from assistant.daemon.process import logs, server
from assistant.daemon.service import Service
from assistant.engine.local import LlamaEngine
from assistant.engine.types import Priority
from assistant.memory.devices import HostMemory
from assistant.memory.sampler import Probes, Sample

HOST_TOTAL = 16 << 30


class StagedProbes(Probes):
    """The machine's probes, but the free host memory is read from a file beside the simulated GPUs.

    Without simulated GPUs, as in the check of a real one, they are the machine's own.
    """

    def __call__(self) -> Sample:
        sample = super().__call__()
        folder = os.environ.get("UNDERKEEL_SIMCARDS")
        if folder is None:
            return sample
        free = Path(folder, "host")
        try:
            available = int(free.read_text())
        except (OSError, ValueError):
            available = HOST_TOTAL // 2
        return replace(sample, host_memory=HostMemory(HOST_TOTAL, available))


class Recorder:
    """Writes down what is so at each look of the governor."""

    def __init__(self, service: Service, target: Path) -> None:
        self._service = service
        self._file = target.open("a", encoding="utf-8", buffering=1)
        service.governor.on_sample = self.look

    def look(self, sample: Sample) -> None:
        service = self._service
        rung = service.governor.rung()
        budget = service.budgets.of(Priority.INTERACTIVE)
        line = {
            "at_s": round(time.monotonic(), 3),
            "state": service.supervisor.state.value,
            "rung": rung.name if rung else "",
            "index": rung.index if rung else 0,
            "reason": rung.reason if rung else "",
            "moves": service.governor.moves,
            "deaths": service.supervisor.deaths,
            "refusals": service.supervisor.refusals,
            "tokens": budget.tokens if budget else 0,
            "level": budget.level if budget else 0,
            "why": budget.reason if budget else "",
            "tasks": len(asyncio.all_tasks()),
            "in_flight": service.admission.inside,
            "cells": service.governor.stats.cells_used if service.governor.stats else 0,
            "reported_free": {gpu.name: gpu.free_bytes for gpu in sample.gpus},
            "lost": list(sample.lost),
        }
        self._file.write(msgspec.json.encode(line).decode() + "\n")


def main() -> None:
    speed, record = float(sys.argv[1]), Path(sys.argv[2])
    chosen, problems = settings.load()
    logs.configure(paths.log_file(), level=chosen.daemon.log_level, terminal=False)

    def staged(*arguments: object, **more: object) -> Service:
        make = functools.partial(Service, clock=lambda: time.monotonic() * speed)
        service = make(*arguments, **more)  # type: ignore[arg-type]
        Recorder(service, record)
        return service

    vars(server).update(Probes=StagedProbes, Service=staged)
    server.run(chosen, problems, LlamaEngine(chosen.engine.hang_s))


if __name__ == "__main__":
    main()
