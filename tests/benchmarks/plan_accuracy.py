"""How well the header foretells what llama.cpp takes by family, and others' failures on ours.

    flock /tmp/bench.lock python tests/benchmarks/plan_accuracy.py [--write]

For each family a header of its true shape is planned for a 24 GiB GPU beside 1,000 GiB of host
memory, from the header alone; then llama.cpp's dry run of the same plan is asked, on a simulated
GPU. Prints JSON; `--write` keeps it under `tests/benchmarks/results/`, with tables to read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results"
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1] / "equipment")]

import known_failures  # noqa: E402
import shapes  # noqa: E402
from head import head  # noqa: E402
from simulated import GIB, Gpu  # noqa: E402
from simulated import Machine as SimulatedMachine  # noqa: E402

from assistant import paths  # noqa: E402
from assistant.errors import PlanError  # noqa: E402
from assistant.memory.gguf.header import Header, read_header  # noqa: E402
from assistant.memory.model.known_models import known_header, known_models  # noqa: E402
from assistant.memory.model.profile import model_of  # noqa: E402
from assistant.memory.planning import Plan, Requirements  # noqa: E402
from assistant.memory.planning.dry_run import DryRun  # noqa: E402
from assistant.memory.planning.measured_planner import measure  # noqa: E402
from assistant.memory.planning.planner import make_plan  # noqa: E402

MIB = 1 << 20
_COLUMNS = (
    "| family | weights MiB | KV MiB | weights and KV off by | compute: estimate MiB "
    "| compute: taken MiB | compute off | all off | dry run ms |"
)
REQUIREMENTS = Requirements(n_ctx=16_384, overhead_bytes=0)
ON = known_failures.gpu(24, host=1000)


def headers() -> Iterator[tuple[str, Header]]:
    """Every family of the tests, and every other model of the table of known models."""
    for family in shapes.SHAPES:
        yield family, shapes.family_header(family)
    for name in known_models():
        if name not in shapes.KNOWN.values():
            yield name, known_header(name)


def family_row(family: str, header: Header, dry_run: DryRun) -> dict[str, Any]:
    """One family: predicted and taken bytes by class, over GPU and host together."""
    started = time.perf_counter()
    try:
        guess = make_plan(model_of(header), ON, REQUIREMENTS)
    except PlanError:
        guess = make_plan(model_of(header), known_failures.gpu(48, host=1000), REQUIREMENTS)
    planned_ms = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    real = measure(header, guess, dry_run)
    asked_ms = 1000 * (time.perf_counter() - started)
    fixed_off = sum(abs(usage.other_bytes) for usage in real.usages)
    before, after = totals(guess), totals(real)
    return {
        "family": family,
        "architecture": header.architecture,
        "experts_on_gpu": guess.expert_layers_on_gpu,
        "cache_type": guess.choice.cache.type_k,
        "weights_bytes": before["weights"],
        "kv_bytes": before["kv"],
        "weights_and_kv_off_bytes": fixed_off,
        "compute_estimated_bytes": before["compute"],
        "compute_taken_bytes": after["compute"],
        "compute_error_percent": round(100 * (before["compute"] / after["compute"] - 1), 1),
        "all_error_percent": round(100 * (sum(before.values()) / sum(after.values()) - 1), 3),
        "plan_ms": round(planned_ms, 1),
        "dry_run_ms": round(asked_ms, 1),
    }


def totals(plan: Plan) -> dict[str, int]:
    return {
        "weights": sum(usage.weights_bytes for usage in plan.usages),
        "kv": sum(usage.kv_bytes for usage in plan.usages),
        "compute": sum(usage.compute_bytes for usage in plan.usages),
    }


def header_row(name: str) -> dict[str, Any]:
    """How long reading one header takes, its vocabulary included."""
    path = paths.models_dir() / name
    times = []
    for _ in range(7):
        started = time.perf_counter()
        header = read_header(path)
        times.append(1000 * (time.perf_counter() - started))
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert hasattr(tokens, "__len__")
    return {
        "file": name,
        "vocabulary": len(tokens),
        "median_ms": round(statistics.median(times), 1),
        "most_ms": round(max(times), 1),
    }


def failure_rows(bench: known_failures.Bench) -> list[dict[str, Any]]:
    rows = []
    for name, trial in known_failures.TRIALS.items():
        outcome = trial(bench)
        rows.append({"failure": name, "holds": outcome.holds, "seen": outcome.seen})
    for name, why in known_failures.UNTRIED.items():
        rows.append({"failure": name, "holds": None, "seen": f"not tried here: {why}"})
    return rows


def markdown(found: dict[str, Any]) -> str:
    """The tables to read."""
    machine = found["machine"]
    version = machine["llama_cpp_python"]
    lines = [
        "# Plans against llama.cpp's own figures",
        "",
        f"{found['date'][:10]}, {machine['system']}, llama-cpp-python {version}. Made by",
        "`tests/benchmarks/plan_accuracy.py`: true shapes in sparse files, a simulated 24 GiB GPU",
        "(48 where 24 do not hold it) beside 1,000 GiB of host memory, 16,384 tokens, 4 sequences.",
        "Weights, KV and compute are GPU and host together. The compute estimate comes from the",
        "header alone, mostly on the safe side; a plan that is loaded uses the dry run's figure.",
        "",
        _COLUMNS,
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['family']} | {row['weights_bytes'] / MIB:,.1f} | {row['kv_bytes'] / MIB:,.1f} "
        f"({row['cache_type']}) | {row['weights_and_kv_off_bytes']} B "
        f"| {row['compute_estimated_bytes'] / MIB:,.0f} | {row['compute_taken_bytes'] / MIB:,.0f} "
        f"| {row['compute_error_percent']:+.1f} % | {row['all_error_percent']:+.2f} % "
        f"| {row['dry_run_ms']:.0f} |"
        for row in found["families"]
    ]
    lines += ["", "## Reading a header", "", "| file | tokens in it | median ms | most ms |"]
    lines += ["|---|---:|---:|---:|"]
    lines += [
        f"| {row['file']} | {row['vocabulary']:,} | {row['median_ms']} | {row['most_ms']} |"
        for row in found["headers"]
    ]
    lines += ["", "## Others' known failures, tried on ours", "", "| failure | holds | seen |"]
    lines += ["|---|---|---|"]
    verdicts = {True: "yes", False: "no", None: "-"}
    lines += [
        f"| {row['failure']} | {verdicts[row['holds']]} | {row['seen']} |"
        for row in found["failures"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the results")
    wanted = parser.parse_args()
    import llama_cpp

    with tempfile.TemporaryDirectory() as folder:
        gpus = [Gpu("SIM0", total_bytes=24 * GIB), Gpu("SIM1", total_bytes=12 * GIB)]
        machine = SimulatedMachine(Path(folder) / "gpus", gpus)
        os.environ.update(machine.environment())
        with DryRun() as dry_run:
            family_row(
                "olmoe", shapes.family_header("olmoe"), dry_run
            )  # the child's start is not the dry run's
            found = {
                **head("plan_accuracy", llama_cpp_python=llama_cpp.__version__),
                "families": [family_row(family, header, dry_run) for family, header in headers()],
                "headers": [
                    header_row(name)
                    for name in ("starter-moe.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")
                ],
                "failures": failure_rows(known_failures.Bench(dry_run, machine)),
            }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if wanted.write:
        (RESULTS / "plan_accuracy.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "plan_accuracy.md").write_text(markdown(found))


if __name__ == "__main__":
    main()
