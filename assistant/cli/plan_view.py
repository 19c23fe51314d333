"""Reports on plans as text for the terminal and as JSON for programs. Nothing is decided here."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from assistant.cli.terminal import printable
from assistant.memory.model.profile import Amount, Model
from assistant.memory.planning import DeviceUsage, Machine, Plan
from assistant.memory.planning.checkpoint import Checkpoint
from assistant.memory.planning.checkpoint_plan import (
    active_parameters,
    checkpoint_bytes,
    map_devices,
    schemes_for,
    token_bytes,
    vllm_command,
)
from assistant.memory.planning.plan_report import (
    PlanReport,
    Speed,
    WhatIf,
    billions,
    gib,
)

_BAR_CELLS = 44
_MAP_LINES = 8
# What a bar consists of: attribute of a usage, word, colour, character.
_PARTS = (
    ("taken", "used by others", "bright_black", "▒"),
    ("dense_bytes", "attention, shared", "blue", "█"),
    ("expert_bytes", "experts", "magenta", "█"),
    ("embedding_bytes", "embeddings", "bright_blue", "█"),
    ("output_bytes", "output", "bright_blue", "█"),
    ("kv_bytes", "KV cache", "green", "█"),
    ("compute_bytes", "compute", "yellow", "█"),
    ("checkpoint_bytes", "checkpoints", "cyan", "█"),
    ("overhead_bytes", "driver", "red", "█"),
    ("margin_bytes", "margin", "bright_black", "▚"),
    ("spare", "free", "bright_black", "░"),
)


def plan_text(report: PlanReport) -> RenderableType:
    """All of `underkeel plan`; without a plan, only the model and the caveats."""
    rows: list[RenderableType] = [Padding(_about(report.model), (0, 0, 1, 0))]
    if report.plan is not None:
        rows.append(_bars(report.plan))
        if report.speed is not None:
            rows.append(_projections(report, report.plan, report.speed))
        rows += [_list("Why", report.plan.reasons), _changes(report, report.plan)]
        rows.append(_list("Caveats", report.caveats))
    return Group(*rows)


def checkpoint_text(checkpoint: Checkpoint, machine: Machine) -> RenderableType:
    """A checkpoint's sizes by scheme, the best device map, and the vLLM line."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("stored as", "weights", "fits", "experts on GPUs"):
        table.add_column(name)
    best = None
    for scheme in schemes_for(checkpoint):
        mapped = map_devices(checkpoint, machine, scheme)
        best = best or (scheme, mapped) if mapped.fits else best
        table.add_row(
            scheme.value,
            gib(checkpoint_bytes(checkpoint, scheme)),
            "yes" if mapped.fits else "no",
            str(mapped.expert_layers_on_gpus),
        )
    words = Text()
    words.append(f"{printable(checkpoint.name)}\n", style="bold")
    words.append(_parameters(checkpoint.parameters, active_parameters(checkpoint)))
    rows: list[RenderableType] = [words, Padding(table, (1, 0))]
    if best is not None:
        scheme, mapped = best
        text = Text(f"device_map for {scheme.value} (Transformers):\n", style="bold")
        entries = [f"  {module!r}: {place!r}," for module, place in mapped.device_map.items()]
        shown = (
            entries
            if len(entries) <= 2 * _MAP_LINES
            else [
                *entries[:_MAP_LINES],
                f"  ... {len(entries) - 2 * _MAP_LINES} more (--json has all)",
                *entries[-_MAP_LINES:],
            ]
        )
        text.append("\n".join(shown), style="not bold")
        rows.append(text)
    command = vllm_command(checkpoint, machine)
    rows.append(Text(f"\nvLLM: {printable(command) if command else 'nothing fits on these GPUs'}"))
    return Group(*rows)


def _about(model: Model) -> Text:
    inventory = model.inventory
    text = Text()
    text.append(printable(model.name), style="bold")
    text.append(f"  {printable(model.architecture)}, {gib(inventory.total.size_bytes)}, ")
    text.append(", ".join(f"{name} {gib(x.size_bytes)}" for name, x in _types(model)))
    text.append("\n" + _parameters(inventory.total.parameters, inventory.active.parameters))
    return text


def _types(model: Model) -> list[tuple[str, Amount]]:
    most = sorted(model.inventory.by_type.items(), key=lambda item: -item[1].size_bytes)
    return most[:3]


def _parameters(total: int, active: int) -> str:
    if active == total:
        return f"{billions(total)} parameters, all of them active in every token"
    return (
        f"{billions(total)} parameters must be in memory; each token uses {billions(active)} of "
        f"them ({100 * active / max(total, 1):.0f} %). The first number decides if it fits, the "
        "second how fast it is"
    )


def _bars(plan: Plan) -> RenderableType:
    rows: list[RenderableType] = []
    words: set[str] = set()
    width = max(len(usage.device.name) for usage in plan.usages)
    for usage in (*plan.gpu_usages, plan.host_memory_usage):
        bar, shown = _bar(usage)
        words |= shown
        line = Text(f"{usage.device.name:{width}} ", style="bold")
        line.append_text(bar)
        needed, free = gib(usage.needed_bytes), gib(usage.device.free_bytes)
        line.append(f" {needed} of {free}", style="not bold")
        rows += [line, Padding(Text(_contents(plan, usage), style="dim"), (0, 0, 0, width + 1))]
    legend = Text()
    for _, word, colour, sign in _PARTS:
        if word in words:
            legend.append(f"{sign} ", style=colour)
            legend.append(f"{word}  ")
    return Padding(Group(*rows, legend), (0, 0, 1, 0))


def _bar(usage: DeviceUsage) -> tuple[Text, set[str]]:
    sizes = {
        "taken": usage.device.total_bytes - usage.device.free_bytes,
        "spare": max(usage.spare_bytes, 0),
    }
    total = max(usage.device.total_bytes, 1)
    bar, shown, drawn, passed = Text(), set(), 0, 0
    for attribute, word, colour, sign in _PARTS:
        size = sizes.get(attribute, getattr(usage, attribute, 0))
        passed += max(size, 0)
        cells = round(passed / total * _BAR_CELLS) - drawn
        if cells > 0:
            bar.append(sign * min(cells, _BAR_CELLS - drawn), style=colour)
            shown.add(word)
            drawn += cells
    return bar, shown


def _contents(plan: Plan, usage: DeviceUsage) -> str:
    lines = []
    if usage.layers:
        lines.append(f"{len(usage.layers)} layers {gib(usage.dense_bytes)}")
    if usage.expert_layers:
        on_disk = f" ({gib(usage.disk_bytes)} on disk)" if usage.disk_bytes else ""
        experts = f"experts of {len(usage.expert_layers)} layers"
        lines.append(f"{experts} {gib(usage.expert_bytes)}{on_disk}")
    if usage.embedding_bytes:
        lines.append(f"embeddings {gib(usage.embedding_bytes)}")
    if usage.kv_bytes:
        lines.append(f"KV {gib(usage.kv_bytes)}")
    if usage.compute_bytes:
        lines.append(f"compute {'' if plan.measured else '~'}{gib(usage.compute_bytes)}")
    return ", ".join(lines) or "nothing of the model"


def _rate(tokens_per_s: float) -> str:
    precise = tokens_per_s < 100
    return f"{tokens_per_s:.3g} tokens/s" if precise else f"{tokens_per_s:,.0f} tokens/s"


def _projections(report: PlanReport, plan: Plan, speed: Speed) -> Text:
    text = Text()
    text.append(f"{plan.n_ctx:,} tokens", style="bold")
    text.append(f" of context, KV cache in {plan.choice.cache.type_k}")
    if report.most_n_ctx > plan.n_ctx:
        moved = " without moving an expert" if plan.expert_layers_on_gpu else " would fit too"
        text.append(f"; up to {report.most_n_ctx:,}{moved}")
    text.append("\nA token reads ")
    text.append(gib(speed.gpu_bytes + speed.host_memory_bytes), style="bold")
    text.append(" of weights: about ")
    text.append(_rate(speed.decode_tokens_per_s), style="bold")
    if speed.disk_bytes:
        rate = report.rates.disk_bytes_per_s
        text.append(f"\nOf these {gib(speed.disk_bytes)} come from disk at {rate / 1e9:.2g} GB/s: ")
        text.append(f"at most {_rate(rate / speed.disk_bytes)}", style="bold")
    text.append("\nA prompt is read at about ")
    text.append(_rate(speed.prefill_tokens_per_s), style="bold")
    text.append(f"; after a jump of the cursor a line comes in {speed.jump_s:.1f} s")
    if not speed.usable:
        text.append("\nToo slow for typing: ", style="yellow")
        text.append(f"a suggestion takes about {speed.suggestion_s:.1f} s")
    text.append(f"\nSpeeds are predicted ({_basis(report)})", style="dim")
    return text


def _basis(report: PlanReport) -> str:
    """What the speeds are predicted from."""
    return report.rates.describe(gpus=bool(report.machine.gpus))


def _changes(report: PlanReport, plan: Plan) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False, title_justify="left")
    groups = bool(report.machine.gpus and report.model.inventory.moe)
    for name in ("context", "cache", "KV", "experts on GPUs" if groups else "in all"):
        table.add_column(name, justify="right")
    for row in report.what_if:
        now = row.n_ctx == plan.n_ctx and row.cache_type == plan.choice.cache.type_k
        table.add_row(
            f"{row.n_ctx:,}",
            row.cache_type,
            gib(row.kv_bytes),
            _outcome(row, groups=groups),
            style="bold" if now else "",
        )
    return Padding(Group(Text("What would change", style="bold"), table), (1, 0, 0, 0))


def _outcome(row: WhatIf, *, groups: bool) -> str:
    """The last column of the table of other plans."""
    if row.plan is None:
        return "does not fit"
    if groups:
        return str(row.plan.expert_layers_on_gpu)
    return gib(sum(usage.needed_bytes for usage in row.plan.usages))


def _list(title: str, lines: tuple[str, ...]) -> RenderableType:
    if not lines:
        return Group()
    points = [Padding(Text(printable(line)), (0, 0, 0, 2)) for line in lines]
    return Group(Text(f"\n{title}", style="bold"), *points)


def plan_json(report: PlanReport) -> dict[str, Any]:
    """Everything that the text shows, and the load spec; without a plan, why nothing fits."""
    plan = report.plan
    if plan is None or report.speed is None:
        return _failure_json(report)
    inventory = report.model.inventory
    return {
        "fits": plan.fits,
        "measured": plan.measured,
        "model": {
            "name": report.model.name,
            "path": report.model.path,
            "architecture": report.model.architecture,
            "total_parameters": inventory.total.parameters,
            "active_parameters": inventory.active.parameters,
            "total_bytes": inventory.total.size_bytes,
            "active_bytes": inventory.active.size_bytes,
            "by_class": {
                kind.value: {"parameters": amount.parameters, "bytes": amount.size_bytes}
                for kind, amount in inventory.by_class.items()
            },
            "by_type": {name: amount.size_bytes for name, amount in inventory.by_type.items()},
            "n_ctx_train": report.model.n_ctx_train,
        },
        "devices": [_device(usage) for usage in plan.usages],
        "context": {
            "n_ctx": plan.n_ctx,
            "most_n_ctx": report.most_n_ctx,
            "cache_type": plan.choice.cache.type_k,
        },
        "decode": {
            "gpu_bytes": report.speed.gpu_bytes,
            "host_memory_bytes": report.speed.host_memory_bytes,
            "disk_bytes": report.speed.disk_bytes,
            "disk_bytes_per_s": round(report.rates.disk_bytes_per_s),
            "most_tokens_per_s_from_disk": round(
                report.rates.disk_bytes_per_s / report.speed.disk_bytes, 3
            )
            if report.speed.disk_bytes
            else None,
            "tokens_per_s": round(report.speed.decode_tokens_per_s, 2),
        },
        "prefill": {"tokens_per_s": round(report.speed.prefill_tokens_per_s, 2)},
        "suggestion_s": round(report.speed.suggestion_s, 3),
        "jump_s": round(report.speed.jump_s, 3),
        "rates": _basis(report),
        "what_if": [
            {
                "n_ctx": row.n_ctx,
                "cache_type": row.cache_type,
                "kv_bytes": row.kv_bytes,
                "fits": row.plan is not None,
                "measured": row.plan is not None and row.plan.measured,
                "needed_bytes": sum(usage.needed_bytes for usage in row.plan.usages)
                if row.plan
                else 0,
                "expert_layers_on_gpu": row.plan.expert_layers_on_gpu if row.plan else 0,
            }
            for row in report.what_if
        ],
        "reasons": list(plan.reasons),
        "caveats": list(report.caveats),
        "load": msgspec.to_builtins(plan.to_load_spec()),
    }


def _failure_json(report: PlanReport) -> dict[str, Any]:
    failure = report.failure
    return {
        "fits": False,
        "message": failure.message if failure else "",
        "subject": failure.subject if failure else report.model.name,
        "shortfall_bytes": failure.shortfall_bytes if failure else 0,
        "alternatives": list(failure.alternatives) if failure else [],
    }


def checkpoint_json(checkpoint: Checkpoint, machine: Machine) -> dict[str, Any]:
    """A checkpoint's sizes by scheme, its device maps, and the vLLM line."""
    schemes = {}
    for scheme in schemes_for(checkpoint):
        mapped = map_devices(checkpoint, machine, scheme)
        schemes[scheme.value] = {
            "bytes": checkpoint_bytes(checkpoint, scheme),
            "fits": mapped.fits,
            "bytes_by_device": dict(mapped.bytes_by_device),
            "device_map": dict(mapped.device_map),
        }
    return {
        "name": checkpoint.name,
        "total_parameters": checkpoint.parameters,
        "active_parameters": active_parameters(checkpoint),
        "cache_bytes_per_token": token_bytes(checkpoint),
        "schemes": schemes,
        "vllm": vllm_command(checkpoint, machine),
    }


def _device(usage: DeviceUsage) -> dict[str, Any]:
    return {
        "name": usage.device.name,
        "total_bytes": usage.device.total_bytes,
        "free_bytes": usage.device.free_bytes,
        "layers": list(usage.layers),
        "expert_layers": list(usage.expert_layers),
        "dense_bytes": usage.dense_bytes,
        "expert_bytes": usage.expert_bytes,
        "embedding_bytes": usage.embedding_bytes,
        "output_bytes": usage.output_bytes,
        "kv_bytes": usage.kv_bytes,
        "compute_bytes": usage.compute_bytes,
        "checkpoint_bytes": usage.checkpoint_bytes,
        "overhead_bytes": usage.overhead_bytes,
        "other_bytes": usage.other_bytes,
        "disk_bytes": usage.disk_bytes,
        "margin_bytes": usage.margin_bytes,
        "spare_bytes": usage.spare_bytes,
    }
