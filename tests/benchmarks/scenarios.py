"""Every scenario of headroom in its long form, with figures, a CSV and a picture of each.

    python tests/benchmarks/scenarios.py [--only game --only lost] [--stretch 3] [--hits 100]
        [--save]

The full stack on a simulated GPU (see tests/equipment/plays.py): sizes are a sixty-fourth of
life, the ways back up are faster by each scenario's `speed`, falls take the time that they take.
Writes scenarios/NAME.{csv,svg} under `results` and prints JSON; --save keeps it in scenarios.json,
where rows of scenarios that were not played stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "equipment"), str(HERE)]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headroom_chart import Row
    from stage import Look, Stage

RESULTS = HERE / "results" / "scenarios"


def keep(stage: Stage, name: str, title: str, folder: Path = RESULTS) -> None:
    """Write what happened on a stage as CSV and SVG."""
    from headroom_chart import svg, write_csv

    folder.mkdir(parents=True, exist_ok=True)
    looks = stage.looks()
    rungs: dict[int, str] = {look.index: look.rung for look in looks}
    names = [rungs.get(index, "") for index in range(max(max(rungs, default=0) + 1, 11))]
    for gpu in stage.machine.gpus:
        first = gpu is stage.machine.gpus[0]
        file = folder / (name if first else f"{name}_{gpu.name}")
        rows = _rows(stage.truths[gpu.name], looks, gpu.total_bytes)
        write_csv(file.with_suffix(".csv"), rows)
        told = f"{title} ({gpu.name})" if len(stage.machine.gpus) > 1 else title
        picture = svg(told, rows, stage.marks, gpu.total_bytes, names)
        file.with_suffix(".svg").write_text(picture, encoding="utf-8")


def _rows(
    truth: Sequence[tuple[float, int, int]], looks: Sequence[Look], total_bytes: int
) -> list[Row]:
    """What was true of a GPU, with what the governor made of it at the look before."""
    from headroom_chart import Row

    rows, number = [], 0
    for at_s, others, ours in truth[:: max(len(truth) // 1500, 1)]:
        while number + 1 < len(looks) and looks[number + 1].at_s <= at_s:
            number += 1
        look = looks[number]
        rows.append(
            Row(
                at_s=at_s,
                others_bytes=others,
                ours_bytes=ours,
                free_bytes=max(total_bytes - others - ours, 0),
                budget_tokens=look.tokens,
                level=look.level,
                rung=look.index,
                rung_name=look.rung,
                state=look.state,
            )
        )
    return rows


def machine() -> dict[str, object]:
    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}


def private_home(folder: Path) -> Path:
    """Make `folder`/home this process's UNDERKEEL_HOME; the models stay where they are."""
    from assistant import paths

    models = str(paths.models_dir())
    home = folder / "home"
    home.mkdir(mode=0o700)
    os.environ |= {"UNDERKEEL_MODELS": models, "UNDERKEEL_HOME": str(home)}
    return home


def main() -> None:
    from head import publish
    from headroom import run
    from plays import scenarios
    from tiny_moe import write_tiny_moe

    from assistant import paths

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--stretch", type=float, default=3.0)
    parser.add_argument("--hits", type=int, default=100)
    parser.add_argument("--editors", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as models:
        starter = paths.models_dir() / "starter-moe.gguf"
        model = write_tiny_moe(Path(models) / "tiny-moe.gguf", starter)
        for scenario in scenarios(options.stretch, options.hits):
            if options.only and scenario.name not in options.only:
                continue
            print(f"{scenario.name}: {scenario.says}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                outcome = run(
                    scenario, private_home(Path(folder)), Path(folder), model, options.editors
                )
                keep(outcome.stage, scenario.name, scenario.says)
            print(f"  broken: {outcome.broken or 'nothing'}", file=sys.stderr)
            load = round(os.getloadavg()[0], 1)
            when = {
                "date": time.strftime("%Y-%m-%d"),
                "stretch": options.stretch,
                "load_average": load,
            }
            rows.append(outcome.figures | when)
    kept = RESULTS.with_suffix(".json")
    if options.save and kept.exists():
        rows = merged(json.loads(kept.read_text())["rows"], rows)
    publish(result(rows), kept, save=options.save)


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, in the place of the old ones of the same scenarios."""
    found = {row["scenario"]: row for row in (*old, *new)}
    return list(found.values())


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "benchmark": "scenarios",
        "machine": machine(),
        "gpu": "simulated, with a stand-in NVML; sizes are 1/64 of life",
        "requests": sum(row["requests"] for row in rows),
        "broken": sum(len(row["broken"]) for row in rows),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
