"""Half an hour of typing under random pressure, on the full stack: memory, slots, files and tasks.

    python tests/benchmarks/soak.py [--minutes 30] [--speed 6] [--save]

`--minutes` are of life; `--speed` says how much faster than life keys come and calm passes. Two
editors type five keys a second of life each, and somebody reads explanations, while other programs
take and return memory at random and the GPU is lost now and then. Prints JSON; writes
soak.{csv,svg} under `results`, and soak.json with --save.

Resident memory, but for mapped files, is judged at equal states (a worker's depends on its rung):
see `gauges`. Spells over the GPU's limit are reported with the cores that the worker had
meanwhile: a move takes its time in those, and a busy machine has few to give.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

sys.path[:0] = [str(HERE.parent / "equipment"), str(HERE.parents[1]), str(HERE)]


def main() -> None:
    from head import publish
    from long_typing import soak
    from scenarios import RESULTS, keep, machine, private_home
    from tiny_moe import write_tiny_moe

    from assistant import paths

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--speed", type=float, default=6.0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starter = paths.models_dir() / "starter-moe.gguf"
        model = write_tiny_moe(folder / "tiny-moe.gguf", starter)
        home = private_home(folder)
        report = asyncio.run(
            soak(home, folder, model, life_s=60 * options.minutes, speed=options.speed)
        )
        keep(report.stage, "soak", "Typing under random pressure", RESULTS.parent)
    result = {
        "benchmark": "soak",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "gpu": "simulated, with a stand-in NVML; sizes are 1/64 of life",
        "load_average": os.getloadavg()[0],
        **report.figures,
    }
    publish(result, RESULTS.parent / "soak.json", save=options.save)


if __name__ == "__main__":
    main()
