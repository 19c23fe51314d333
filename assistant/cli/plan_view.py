"""Plans as pictures in the terminal: a bar for each device, then the reasons."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from assistant.cli.terminal import printable
from assistant.memory.checkpoints.checkpoint import Checkpoint
from assistant.memory.checkpoints.checkpoint_plan import (
    active_parameters,
    checkpoint_bytes,
    map_devices,
    schemes_for,
)
from assistant.memory.checkpoints.vllm import vllm_command
from assistant.memory.gguf.header import Header
from assistant.memory.model.profile import Model, model_of
from assistant.memory.model.tensor_inventory import Amount
from assistant.memory.planning.plan import DeviceUsage, Machine, Plan, Wishes
from assistant.memory.planning.projections import (
    CARD_BYTES_PER_S,
    HOST_BYTES_PER_S,
    decode_bound,
    most_context,
    what_if,
)
from assistant.memory.planning.reasons import billions, gib

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
    ("overhead_bytes", "driver", "red", "█"),
    ("margin_bytes", "margin", "bright_black", "▚"),
    ("spare", "free", "bright_black", "░"),
)


def plan_picture(
    header: Header, machine: Machine, wishes: Wishes, plan: Plan | None, remarks: tuple[str, ...]
) -> RenderableType:
    """All of `underkeel plan`; without a plan, only the model."""
    model = model_of(header)
    rows: list[RenderableType] = [Padding(_about(model), (0, 0, 1, 0))]
    if plan is not None:
        rows += [_bars(plan), _promises(model, machine, wishes, plan)]
        rows += [_list("Why", plan.reasons), _changes(model, machine, wishes, plan)]
        rows += [_list("Caveats", (*plan.doubts, *remarks))]
    return Group(*rows)


def checkpoint_picture(checkpoint: Checkpoint, machine: Machine) -> RenderableType:
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
            str(mapped.expert_layers_on_cards),
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
    census = model.census
    text = Text()
    text.append(printable(model.name), style="bold")
    text.append(f"  {printable(model.architecture)}, {gib(census.total.size_bytes)}, ")
    text.append(", ".join(f"{name} {gib(x.size_bytes)}" for name, x in _types(model)))
    text.append("\n" + _parameters(census.total.parameters, census.active.parameters))
    return text


def _types(model: Model) -> list[tuple[str, Amount]]:
    most = sorted(model.census.by_type.items(), key=lambda item: -item[1].size_bytes)
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
    for usage in (*plan.gpu_usages, plan.host_usage):
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
    said = []
    if usage.layers:
        said.append(f"{len(usage.layers)} layers {gib(usage.dense_bytes)}")
    if usage.expert_layers:
        said.append(f"experts of {len(usage.expert_layers)} layers {gib(usage.expert_bytes)}")
    if usage.embedding_bytes:
        said.append(f"embeddings {gib(usage.embedding_bytes)}")
    if usage.kv_bytes:
        said.append(f"KV {gib(usage.kv_bytes)}")
    if usage.compute_bytes:
        said.append(f"compute {'' if plan.measured else '~'}{gib(usage.compute_bytes)}")
    return ", ".join(said) or "nothing of the model"


def _promises(model: Model, machine: Machine, wishes: Wishes, plan: Plan) -> Text:
    bound, most = decode_bound(plan), most_context(model, machine, wishes, plan)
    text = Text()
    text.append(f"{plan.n_ctx:,} tokens", style="bold")
    text.append(f" of context, KV cache in {plan.choice.cache.type_k}")
    if most > plan.n_ctx:
        moved = " without moving an expert" if plan.expert_layers_on_gpu else " would fit too"
        text.append(f"; up to {most:,}{moved}")
    text.append("\nA token reads ")
    text.append(gib(bound.card_bytes + bound.host_bytes), style="bold")
    text.append(" of weights: ")
    text.append(f"at most {bound.tokens_per_s:.0f} tokens/s", style="bold")
    text.append(
        f", assuming {HOST_BYTES_PER_S / 1e9:.0f} GB/s from RAM"
        + (f" and {CARD_BYTES_PER_S / 1e9:.0f} GB/s on a GPU" if plan.gpu_usages else "")
    )
    return text


def _changes(model: Model, machine: Machine, wishes: Wishes, plan: Plan) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False, title_justify="left")
    outcome = "experts on GPUs" if machine.gpus and model.census.moe else "in all"
    for name in ("context", "cache", "KV", outcome):
        table.add_column(name, justify="right")
    for item in what_if(model, machine, wishes, plan):
        groups = _outcome(item.plan, outcome) if item.plan else "does not fit"
        now = item.n_ctx == plan.n_ctx and item.cache_type == plan.choice.cache.type_k
        table.add_row(
            f"{item.n_ctx:,}",
            item.cache_type,
            gib(item.kv_bytes),
            groups,
            style="bold" if now else "",
        )
    return Padding(Group(Text("What would change", style="bold"), table), (1, 0, 0, 0))


def _outcome(plan: Plan, outcome: str) -> str:
    """The last column of the table of other plans."""
    if outcome == "in all":
        return gib(sum(usage.needed_bytes for usage in plan.usages))
    return str(plan.expert_layers_on_gpu)


def _list(title: str, lines: tuple[str, ...]) -> RenderableType:
    if not lines:
        return Group()
    points = [Padding(Text(printable(line)), (0, 0, 0, 2)) for line in lines]
    return Group(Text(f"\n{title}", style="bold"), *points)
