"""Several models on one machine, planned together: who stays loaded, who is loaded on demand. Pure.

They are planned in the order of their importance. Each gets what those before it leave, as in the
daemon, where memory that was promised to a model is kept for it also while it is not loaded. Where
they do not fit together, the error names the nearest set that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from assistant.errors import PlanError
from assistant.memory.devices import RAISE_THE_LIMIT
from assistant.memory.gguf.header import Header
from assistant.memory.model.known_models import QUANTISATIONS, file_of, requantised
from assistant.memory.planning import Machine, Plan, Requirements, credited
from assistant.memory.planning.plan_report import gib
from assistant.memory.planning.planner import requirements_of
from assistant.settings import ModelSettings, Settings

_LEAST_CONTEXT = 2048
_TALK = ("explanations", "chats")

Planner = Callable[[Header, Machine, Requirements], Plan]
"""The best plan of a model on what is free of a machine; raises PlanError where nothing fits."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that is requested.

    Attributes:
        purposes: what it answers: "completions", "next edits", "explanations", "chats".
        loaded: when it is loaded and freed, for a person.
        on_demand: it is loaded by the first request for it, not at the start.
    """

    header: Header
    requirements: Requirements
    purposes: tuple[str, ...]
    loaded: str
    on_demand: bool = False


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model with its plan beside the others."""

    wanted: Wanted
    plan: Plan

    @property
    def taken(self) -> dict[str, int]:
        """Bytes of each device that holds some of it."""
        return {
            usage.device.name: usage.needed_bytes
            for usage in self.plan.usages
            if usage.needed_bytes
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.plan.model.name,
            "purposes": list(self.wanted.purposes),
            "loaded": self.wanted.loaded,
            "on_demand": self.wanted.on_demand,
            "n_ctx": self.plan.n_ctx,
            "cache_type": self.plan.choice.cache.type_k,
            "bytes": self.taken,
        }


def explain_settings(settings: Settings) -> ModelSettings:
    """Those of the second model in the form of the first one's."""
    explain = settings.explain
    return structs.replace(
        settings.model,
        name=explain.name,
        n_ctx=explain.n_ctx,
        n_seq_max=explain.n_seq_max,
        n_threads=explain.n_threads,
        cache_type=explain.cache_type,
        mlock=explain.mlock,
    )


def roles(settings: Settings) -> dict[str, tuple[tuple[str, ...], str]]:
    """What each model answers, and when it is loaded and freed; by its key in the daemon."""
    purposes = ["completions"]
    if settings.next_edits.enabled and settings.next_edits.model != "off":
        purposes.append("next edits")
    if not settings.explain.name:
        purposes += _TALK
    found = {
        "complete": (
            tuple(purposes),
            f"at the start, {_freed(settings.daemon.release_after_s)}",
        )
    }
    if settings.explain.name:
        freed = _freed(settings.explain.release_after_s)
        found["explain"] = (_TALK, f"by the first request, {freed}")
    return found


def wanted_by(
    settings: Settings,
    completions: Header,
    explanations: Header | None,
    requirements: Requirements | None = None,
) -> tuple[Wanted, ...]:
    """What the settings request, in the order of importance.

    Args:
        requirements: of the model for completions; None for those of the settings.
    """
    second = explanations.name if explanations is not None else ""
    named = structs.replace(settings, explain=structs.replace(settings.explain, name=second))
    each = roles(named)
    first = Wanted(completions, requirements or requirements_of(settings.model), *each["complete"])
    if explanations is None:
        return (first,)
    needs = requirements_of(explain_settings(settings))
    return (first, Wanted(explanations, needs, *each["explain"], on_demand=True))


def _listed(purposes: Sequence[str]) -> str:
    """Purposes in a sentence: "completions, next edits and chats"."""
    *most, last = purposes
    return f"{', '.join(most)} and {last}" if most else last


def _freed(idle_s: float) -> str:
    return f"freed after {idle_s / 60:g} min without a request" if idle_s else "never freed"


def plan_together(
    wanted: Sequence[Wanted], machine: Machine, planner: Planner, *, search: bool = True
) -> tuple[PlannedModel, ...]:
    """Every model's plan, in the order of `wanted`.

    Args:
        search: name the nearest set that fits where these do not.

    Raises:
        PlanError: they do not fit together: how much is missing for which, and what would fit.
    """
    planned: list[PlannedModel] = []
    left = machine
    for one in wanted:
        try:
            plan = planner(one.header, left, one.requirements)
        except PlanError as error:
            if len(wanted) == 1:
                raise
            raise _no_fit(wanted, machine, planner, planned, one, error, search) from error
        planned.append(PlannedModel(one, plan))
        left = credited(left, {name: -size for name, size in planned[-1].taken.items()})
    return tuple(planned)


def _no_fit(  # noqa: PLR0917 (all of them go into the message)
    wanted: Sequence[Wanted],
    machine: Machine,
    planner: Planner,
    planned: Sequence[PlannedModel],
    one: Wanted,
    error: PlanError,
    search: bool,
) -> PlanError:
    before = "; ".join(
        f"{one.plan.model.name} for {_listed(one.wanted.purposes)} takes "
        + ", ".join(f"{gib(size)} of {device}" for device, size in one.taken.items())
        for one in planned
    )
    missing = gib(error.shortfall_bytes) if error.shortfall_bytes else "some memory"
    limit = machine.host_memory.limit_in_words
    if limit not in error.message:
        limit = ""  # it is another device that is full
    advice = _nearest(wanted, machine, planner) if search else error.advice
    if limit and search:
        advice += f". {RAISE_THE_LIMIT}"
    return PlanError(
        f"the models do not fit together: {missing} are missing for {one.header.name}"
        + (f" ({before})" if before else "")
        + (f"; {limit}" if limit else ""),
        subject=one.header.name,
        advice=advice,
        shortfall_bytes=error.shortfall_bytes,
    )


def _nearest(wanted: Sequence[Wanted], machine: Machine, planner: Planner) -> str:
    for text, smaller in _smaller(wanted):
        try:
            planned = plan_together(smaller, machine, planner, search=False)
        except PlanError:
            continue
        total = sum(size for one in planned for size in one.taken.values())
        return f"What fits: {text} ({gib(total)} in all)"
    return "None of these models fits alone. Free memory, or choose smaller models"


def _size(header: Header) -> int:
    return sum(tensor.size_bytes for tensor in header.tensors)


def _smaller(wanted: Sequence[Wanted]) -> Iterator[tuple[str, tuple[Wanted, ...]]]:
    """Sets that ask for less, the least change first: the last model gives way before others."""
    last = wanted[-1]
    for cache_type, suffix in (("", ""), ("q8_0", " and a q8_0 cache")):
        n_ctx = last.requirements.n_ctx
        while n_ctx // 2 >= _LEAST_CONTEXT:
            n_ctx //= 2
            eased = replace(last.requirements, n_ctx=n_ctx)
            if cache_type:
                eased = replace(eased, cache_type=cache_type)
            text = f"{last.header.name} with {n_ctx:,} tokens of context{suffix}"
            yield text, (*wanted[:-1], replace(last, requirements=eased))
    size = _size(last.header)
    for name in QUANTISATIONS:
        other = requantised(last.header, name)
        if (smaller := _size(other)) < size:
            size = smaller
            text = f"{file_of(name)} of {last.header.name}, of about {gib(size)}"
            yield text, (*wanted[:-1], replace(last, header=other))
    everywhere = tuple(
        replace(
            one,
            requirements=replace(
                one.requirements,
                n_ctx=min(one.requirements.n_ctx or _LEAST_CONTEXT, _LEAST_CONTEXT),
                cache_type="q8_0",
            ),
        )
        for one in wanted
    )
    yield f"all with {_LEAST_CONTEXT:,} tokens of context and a q8_0 cache", everywhere
    for dropped in range(1, len(wanted)):
        kept = wanted[:-dropped]
        purposes = tuple(purpose for one in wanted[-dropped:] for purpose in one.purposes)
        first = replace(kept[0], purposes=(*kept[0].purposes, *purposes))
        text = f"{first.header.name} for {_listed(first.purposes)}"
        yield text, (first, *kept[1:])
