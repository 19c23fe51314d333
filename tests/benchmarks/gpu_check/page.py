"""The Markdown page of a run, and which of its goals hold. Pure; standard library only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

MIB, GIB = 1 << 20, 1 << 30
MOST_OFF_PERCENT = 5.0
MOST_OVER_S = 2.0

_TITLES = {
    "build": "A. Building llama.cpp",
    "memory": "B. Plans against what is taken",
    "headroom": "C. Another process takes memory",
    "speed": "D. Speed",
}


@dataclass(frozen=True)
class Goal:
    """One thing that the run was to show.

    Attributes:
        holds: None where nothing was measured.
        seen: the figure, for a person.
        timed: it depends on how fast the machine is; a simulated run does not fail over it.
    """

    name: str
    holds: bool | None
    seen: str
    timed: bool = False


def goals(data: Row) -> list[Goal]:
    """Which goals hold, by what was measured so far."""
    loads = rows_of(data, "loads")
    done = [row for row in loads if "error" not in row]
    plans = rows_of(data, "plans")
    rungs, takes, served = (rows_of(data, name) for name in ("rungs", "takes", "served"))
    exact = [row["weights_and_kv_off_bytes"] for row in (*plans, *done)]
    total = [abs(row["total_off_percent"]) for row in done]
    return [
        _goal(
            "Weights and KV cache take exactly the planned bytes",
            exact,
            lambda: max(exact) == 0,
            lambda: f"{max(exact)} B off at most, in {len(exact)} plans and loads",
        ),
        _goal(
            f"All memory of the GPU within {MOST_OFF_PERCENT:.0f} % of the plan",
            total,
            lambda: max(total) <= MOST_OFF_PERCENT,
            lambda: f"{max(total):.2f} % off at most, in {len(total)} loads",
        ),
        _goal(
            "Every plan loads and computes finite logits",
            loads,
            lambda: all(row.get("finite") for row in loads),
            lambda: f"{sum(bool(row.get('finite')) for row in loads)} of {len(loads)} loads",
        ),
        _goal(
            "Every rung of the ladder is reached under an answer, which is written to its end",
            rungs,
            lambda: all(row.get("answer_complete", True) for row in rungs),
            lambda: f"{len({row['name'] for row in rungs})} rungs, {len(rungs)} moves",
        ),
        _goal(
            f"Each rung that uses the GPU holds what is predicted within {MOST_OFF_PERCENT:.0f} %",
            on_gpu := [row for row in rungs if row["predicted_bytes"]],
            lambda: max(map(_rung_off_percent, on_gpu)) <= MOST_OFF_PERCENT,
            lambda: f"{max(map(_rung_off_percent, on_gpu)):.2f} % off at most",
        ),
        _goal(
            "No request is lost and no worker dies while another process takes memory",
            served,
            lambda: (
                served[0]["answered"] == served[0]["requests"]
                and not served[0]["errors"]
                and not served[0]["worker_deaths"]
            ),
            lambda: (
                f"{served[0]['answered']} of {served[0]['requests']} requests answered,"
                f" {served[0]['worker_deaths']} deaths"
            ),
        ),
        _goal(
            "The other process gets what it asks for",
            takes,
            lambda: all(row["got_bytes"] == row["wanted_bytes"] for row in takes),
            lambda: (
                f"{len(takes)} times, {_mib(max(row['wanted_bytes'] for row in takes))} at most"
            ),
        ),
        _goal(
            f"It gets it within {MOST_OVER_S:.0f} s, and half of the margin is free again as soon",
            takes,
            lambda: (
                max(max(row["seconds"], row["below_half_margin_s"]) for row in takes) <= MOST_OVER_S
            ),
            lambda: (
                f"{max(row['seconds'] for row in takes):.2f} s and"
                f" {max(row['below_half_margin_s'] for row in takes):.2f} s at most"
            ),
            timed=True,
        ),
    ]


def _rung_off_percent(row: Row) -> float:
    predicted = float(row["predicted_bytes"])
    return 100 * abs(float(row["held_bytes"]) - predicted) / predicted


def _goal(
    name: str,
    measured: Sequence[object],
    holds: Callable[[], bool],
    seen: Callable[[], str],
    *,
    timed: bool = False,
) -> Goal:
    if not measured:
        return Goal(name, None, "not measured", timed)
    return Goal(name, holds(), seen(), timed)


def rows_of(data: Row, table: str) -> list[Row]:
    """The rows of one table, of whichever part."""
    parts = data["parts"].values()
    return [row for part in parts for row in part["rows"] if row["table"] == table]


def page(data: Row) -> str:
    """The whole page."""
    lines = [*_opening(data), "## What was to be shown", ""]
    marks = {True: "yes", False: "**no**", None: "-"}
    lines += _table(
        "goal | holds | seen",
        "-|-|-",
        [[goal.name, marks[goal.holds], goal.seen] for goal in goals(data)],
    )
    parts: dict[str, Callable[[Row], list[str]]] = {
        "build": _build,
        "memory": _memory,
        "headroom": _headroom,
        "speed": _speed,
    }
    for name, section in parts.items():
        lines += [f"## {_TITLES[name]}", ""]
        lines += _state(data, name)
        lines += section(data)
    return "\n".join(lines).rstrip() + "\n"


def _opening(data: Row) -> list[str]:
    machine = data.get("machine", {})
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory']})" for gpu in machine.get("gpus", ()))
    lines = ["# GPU check" + (" (simulated)" if data.get("simulated") else ""), ""]
    if data.get("simulated"):
        lines += _paragraph(
            "**No GPU was used: none was available on this machine.** The GPU of this page is a"
            " simulated ggml device whose graphs the CPU computes, beside a stand-in for NVIDIA's"
            " management library (NVML). Bytes are those that llama.cpp really allocates; the"
            " driver's own share is a figure that the simulation makes up, and every speed is the"
            " CPU's. What this page proves is that the check itself runs, and that plans match"
            " llama.cpp's own count. It says nothing about a GPU."
        )
    lines += _table(
        "what | value",
        "-|-",
        [
            ["date", data.get("date", "")],
            ["GPU", gpus or ("simulated" if data.get("simulated") else "none found")],
            ["driver", ", ".join(gpu["driver"] for gpu in machine.get("gpus", ())) or "-"],
            ["CPU", f"{machine.get('cpu', '')}, {machine.get('cores', '?')} cores"],
            ["load average before", str(machine.get("load_average_before", "-"))],
            ["host memory", f"{machine.get('memory_bytes', 0) / GIB:.0f} GiB"],
            ["system", machine.get("system", "")],
            ["Python", machine.get("python", "")],
            ["llama-cpp-python", data.get("llama_cpp_python") or "-"],
            ["command", f"`{data.get('command', '')}`"],
        ],
    )
    lines += _paragraph(
        "Models are files of random weights in the true shape and quantisation of the models that"
        " they are named after (small ones of the same kinds where the run is simulated): they take"
        " the same memory and time, and say nothing of use; MiB and GiB are powers of two."
    )
    return lines


def _state(data: Row, name: str) -> list[str]:
    part = data["parts"].get(name)
    if part is None:
        return ["Not run.", ""]
    took = (
        f", {part['seconds']:.0f} s of at most {part['limit_s']:.0f}" if "seconds" in part else ""
    )
    lines = [f"State: {part['state']}{took}.", ""]
    for row in part["rows"]:
        if row["table"] == "skipped":
            lines += [f"- Left out: {row['what']} ({row['why']}).", ""]
    if part.get("log_tail"):
        lines += ["```", *part["log_tail"], "```", ""]
    return lines


def _build(data: Row) -> list[str]:
    rows = [
        [row["step"], f"{row['seconds']:.0f}", ", ".join(f"{v}" for v in row["tools"].values())]
        if "tools" in row
        else [row["step"], f"{row['seconds']:.0f}", ""]
        for row in rows_of(data, "build")
    ]
    return _table("step | seconds | tools", "-|-:|-", rows)


def _memory(data: Row) -> list[str]:
    lines: list[str] = []
    if plans := rows_of(data, "plans"):
        lines += _paragraph(
            "Plans of the true shapes for a GPU of each size, against llama.cpp's dry run of the"
            " same plan (nothing is loaded). Bytes are of GPU and host together; the compute"
            " estimate comes from the header alone, and a plan that is loaded uses the dry run's"
            " figure."
        )
        lines += _table(
            "model | GPU | blocks on it | expert groups on it | context | cache | weights MiB"
            " | KV MiB | off | compute estimated MiB | by dry run MiB | plan ms | dry run ms",
            "-|-|-:|-:|-:|-|-:|-:|-:|-:|-:|-:|-:",
            [
                [
                    row["model"],
                    f"{row['limit_gib']} GiB",
                    f"{row['blocks_on_gpu']} of {row['blocks']}",
                    f"{row['expert_groups_on_gpu']} of {row['expert_groups']}",
                    f"{row['n_ctx']:,}",
                    row["cache_type"],
                    f"{row['weights_bytes'] / MIB:,.1f}",
                    f"{row['kv_bytes'] / MIB:,.1f}",
                    f"{row['weights_and_kv_off_bytes']} B",
                    f"{row['compute_estimated_bytes'] / MIB:,.0f}",
                    f"{row['compute_bytes'] / MIB:,.0f}",
                    f"{row['plan_ms']:.0f}",
                    f"{row['dry_run_ms']:.0f}",
                ]
                for row in plans
            ],
        )
    if files := rows_of(data, "files"):
        lines += ["Files of random weights that were loaded:", ""]
        lines += _table(
            "model | kind | GiB | written in s",
            "-|-|-:|-:",
            [
                [row["model"], row["kind"], f"{row['bytes'] / GIB:.2f}", f"{row['write_s']:.1f}"]
                for row in files
            ],
        )
    if loads := rows_of(data, "loads"):
        lines += _paragraph(
            "Loads by the plan, in MiB of the GPU: planned / taken. Weights, KV cache and compute"
            " buffers are what llama.cpp allocated; the total is what NVML saw after a prompt and"
            " some tokens; the driver's share is the rest (CUDA's context, cuBLAS, the pool)."
        )
        lines += _table(
            "model | free before | expert groups | weights | KV | compute | driver | total | off"
            " | off without driver | finite | load s | prefill/s | decode/s",
            "-|-:|-:|-:|-:|-:|-:|-:|-:|-:|-|-:|-:|-:",
            [_load(row) for row in loads],
        )
    return lines


def _load(row: Row) -> list[str]:
    if "error" in row:
        return [row["model"], _mib(row["limit_bytes"]), row["error"], *[""] * 11]
    planned, taken = row["planned"], row["taken"]
    classes = ("weights", "kv", "compute", "driver", "total")
    return [
        row["model"],
        f"{row['free_before_bytes'] / MIB:,.0f}",
        f"{row['expert_groups_on_gpu']} of {row['expert_groups']}",
        *(f"{planned[name] / MIB:,.1f} / {taken[name] / MIB:,.1f}" for name in classes),
        f"{row['total_off_percent']:+.2f} %",
        f"{row['without_driver_off_percent']:+.2f} %",
        "yes" if row["finite"] else "**no**",
        f"{row['load_s']:.1f}",
        f"{row['prefill_tokens_per_s']:,.0f}",
        f"{row['decode_tokens_per_s']:,.1f}",
    ]


def _headroom(data: Row) -> list[str]:
    lines: list[str] = []
    if rungs := rows_of(data, "rungs"):
        lines += _paragraph(
            "Each rung of the ladder, down and up again, while an answer is written. A rung that"
            " is loaded like the plan (trim, drop) is only tried on the way down. Where 0 is"
            " predicted, the driver's context is what is held: the worker's process keeps it until"
            " it ends, as it does at `unload`."
        )
        lines += _table(
            "way | rung | gives up | predicted MiB | held MiB (NVML) | seconds | answer written",
            "-|-|-|-:|-:|-:|-",
            [
                [
                    row["way"],
                    row["name"],
                    row.get("gives_up", "everything"),
                    f"{row['predicted_bytes'] / MIB:,.1f}",
                    f"{row['held_bytes'] / MIB:,.1f}",
                    f"{row['seconds']:.2f}",
                    {True: "to its end", False: "**no**", None: "-"}[row.get("answer_complete")],
                ]
                for row in rungs
            ],
        )
    if takes := rows_of(data, "takes"):
        lines += _paragraph(
            "The daemon serves three completions at a time while a second process takes memory and"
            " returns it. Moves up come ten times sooner than in use, moves down as in use."
        )
        lines += _table(
            "wanted MiB | got | after s | refusals it saw | less than half of the margin free for s"
            " | rung meanwhile",
            "-:|-:|-:|-:|-:|-",
            [
                [
                    f"{row['wanted_bytes'] / MIB:,.0f}",
                    f"{row['got_bytes'] / MIB:,.0f}",
                    f"{row['seconds']:.2f}",
                    str(row["refused"]),
                    f"{row['below_half_margin_s']:.2f}",
                    row["rung_while_held"],
                ]
                for row in takes
            ],
        )
    for row in rows_of(data, "served"):
        lines += _paragraph(
            f"Requests: {row['requests']}, answered: {row['answered']}, asked again with a shorter"
            f" prompt: {row['shortened']}, errors: {row['errors'] or 'none'}. Wait: median"
            f" {row['median_s']} s, 90th percentile {row['p90_s']} s, longest {row['slowest_s']} s."
            f" Worker deaths: {row['worker_deaths']}; loads that were refused memory and made"
            f" again smaller: {row['refusals']}."
        )
    for row in rows_of(data, "restored"):
        said = row.get("error") or f"{row['seconds']:.1f} s after the last request"
        lines += [f"The whole plan served again: {said}.", ""]
    return lines


def _speed(data: Row) -> list[str]:
    lines: list[str] = []
    tables = {
        "worker": ("by", "The worker beside a bare loop of the same library, whole model on it"),
        "placements": (
            "way",
            "The same bytes of the GPU, filled in three ways (the cache counted)",
        ),
        "offload": ("way", "Batches of experts that are on the host"),
    }
    for name, (key, says) in tables.items():
        rows = rows_of(data, name)
        if not rows:
            continue
        lines += [f"{says}:", ""]
        lines += _table(
            f"{key} | prefill tokens/s | decode tokens/s | weights on the GPU MiB",
            "-|-:|-:|-:",
            [
                [row[key], row["error"], "", ""]
                if "error" in row
                else [
                    row[key],
                    f"{row['prefill_tokens_per_s']:,.0f}",
                    f"{row['decode_tokens_per_s']:,.1f}",
                    f"{row['gpu_weights_bytes'] / MIB:,.0f}" if "gpu_weights_bytes" in row else "",
                ]
                for row in rows
            ],
        )
    if ghosts := rows_of(data, "ghost_text"):
        lines += _paragraph(
            "Ghost text: the wait from the request to its last token, as a person types on at the"
            " end of a prompt that is in the cache; the first request reads all of it."
        )
        lines += _table(
            "where | prompt tokens | tokens | requests | first ms | median ms | 90th percentile ms",
            "-|-:|-:|-:|-:|-:|-:",
            [
                [
                    row["where"],
                    str(row["prompt_tokens"]),
                    str(row["tokens"]),
                    str(row["requests"]),
                    f"{row['first_ms']:.0f}",
                    f"{row['median_ms']:.0f}",
                    f"{row['p90_ms']:.0f}",
                ]
                for row in ghosts
            ],
        )
    return lines


def _paragraph(text: str) -> list[str]:
    return [text, ""]


def _table(head: str, kinds: str, rows: Sequence[Sequence[object]]) -> list[str]:
    if not rows:
        return []
    rules = ("---:" if kind == "-:" else "---" for kind in kinds.split("|"))
    lines = [f"| {head} |", f"|{'|'.join(rules)}|"]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return [*lines, ""]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
