"""What watching the memory costs: CPU time of the sampler as a share of one core.

    flock /tmp/bench.lock python tests/benchmarks/sampler_cost.py [--seconds 20]

Two simulated GPUs answer through the real pynvml, whose calls are then cheaper than a driver's;
the figure for a real GPU is marked by `"driver": "nvidia"`. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1] / "equipment")]

from head import head  # noqa: E402


async def _measure(busy: bool, seconds: float) -> dict[str, Any]:
    from assistant.memory.sampler import Probes, Sample, Sampler

    samples: list[Sample] = []
    sampler = Sampler(Probes(), samples.append)
    sampler.busy(busy)
    task = asyncio.create_task(sampler.run())
    await asyncio.sleep(5.0)  # past the start, when it looks more often
    looks, cpu, wall = len(samples), time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    looks = len(samples) - looks
    return {
        "busy": busy,
        "gpus": len(samples[-1].gpus),
        "looks_per_s": round(looks / wall, 2),
        "core_percent": round(100 * cpu / wall, 3),
        "cpu_us_per_look": round(1e6 * cpu / max(looks, 1)),
        "trouble": samples[-1].trouble,
    }


def _child(seconds: float) -> None:
    rows = [asyncio.run(_measure(busy, seconds)) for busy in (False, True)]
    sys.stdout.write(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--real", action="store_true", help="ask the machine's own driver")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if not options.real:
            from simulated import GIB, Gpu, Machine

            gpus = [Gpu("SIM0", 8 * GIB), Gpu("SIM1", 24 * GIB)]
            environment = Machine(Path(folder), gpus).environment()
        heading = head("sampler_cost")
        answer = subprocess.run(
            [sys.executable, str(HERE), "--child", "--seconds", str(options.seconds)],
            env=environment,
            capture_output=True,
            check=True,
        )
    result = {
        **heading,
        "driver": "nvidia" if options.real else "simulated",
        "seconds": options.seconds,
        "rows": json.loads(answer.stdout),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
