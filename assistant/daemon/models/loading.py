"""From settings to ways of loading the model: the seam between the daemon and the planner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as fields_replaced

from msgspec.structs import replace

from assistant.engine.types import ModelInfo
from assistant.llama.spec import BackendDevice, DeviceFree, LoadSpec
from assistant.memory.degrade.ladder import Rung
from assistant.memory.gguf.header import read_header
from assistant.memory.planning.load_report import LoadReport, compare, planned_memory
from assistant.memory.planning.machine import machine_of
from assistant.memory.planning.measured_planner import plan_with_ladder
from assistant.memory.planning.plan import Machine, Plan
from assistant.memory.planning.planner import requirements_of
from assistant.memory.probes.devices import Device, ask_backend, merge
from assistant.memory.probes.sampler import Sample
from assistant.models import catalogue
from assistant.settings import ModelSettings

Credit = Mapping[str, int]
"""Bytes by device, to be added to those that are free."""


@dataclass(frozen=True)
class Loadable:
    """How a model can be loaded: the ladder, from the whole plan down to nothing.

    Attributes:
        plan: what the ladder was made from; None for an engine that is not planned for.
        backend: the devices that ggml has.
        margins: bytes that the plan wishes to stay free, by device.
        model: the settings that it was planned by; None where they do not matter.
    """

    ladder: tuple[Rung, ...]
    plan: Plan | None = None
    backend: tuple[BackendDevice, ...] = ()
    margins: Mapping[str, int] = field(default_factory=dict)
    model: ModelSettings | None = None

    @property
    def specs(self) -> list[LoadSpec]:
        """How each rung is loaded, the last one (nothing) left out."""
        return [rung.spec for rung in self.ladder if rung.spec is not None]

    def report(self, info: ModelInfo, step: int) -> LoadReport | None:
        """What the load took against the plan; None where there is no plan or another rung."""
        if info.server or self.plan is None or self.ladder[step].holds != self.ladder[0].holds:
            return None
        return compare(planned_memory(self.plan), info.memory)

    def devices(self, sample: Sample, now: Sequence[DeviceFree] = ()) -> tuple[Device, ...]:
        """Our devices with what is free of them in `sample`.

        Args:
            now: what the engine's process sees of the cards that it uses; it stands for those that
                no driver of ours knows.
        """
        seen = {device.name: device for device in now}
        backend = [
            replace(
                device,
                total_bytes=seen[device.name].total_bytes,
                free_bytes=seen[device.name].free_bytes,
            )
            if device.name in seen
            else device
            for device in self.backend
        ]
        return merge(backend, sample.gpus, sample.host_memory, sample.lost)


def credited(machine: Machine, credit: Credit) -> Machine:
    """The machine with so much more free, or less."""

    def changed(device: Device) -> Device:
        free = device.free_bytes + credit.get(device.name, 0)
        return fields_replaced(device, free_bytes=min(max(free, 0), device.total_bytes))

    return Machine(changed(machine.host_memory), tuple(map(changed, machine.gpus)))


@dataclass
class Planning:
    """Makes plans for one model on this machine. Blocks: call it in a thread.

    Attributes:
        look: what is free now.
        credit: bytes by device that will be free besides, or (negative) are promised to others.
    """

    settings: ModelSettings
    look: Callable[[], Sample]
    credit: Callable[[], Credit] = dict
    _backend: tuple[BackendDevice, ...] = field(default=(), init=False)
    _listed_for: frozenset[str] = field(default=frozenset(), init=False)

    def __call__(self) -> Loadable:
        """The best plan for the memory that is free now, and the ladder under it.

        Raises:
            UnknownModelError: there is no such model here; says how to get it.
            GGUFError: the file is not one that can be trusted.
            PlanError: nothing fits; says what is missing and what would fit.
            LoadError: llama.cpp cannot list its devices.
        """
        settings = self.settings  # they may be others before this ends
        header = read_header(catalogue.resolve(settings.name))
        sample = self.look()
        # ggml's devices change only with the GPUs of the machine; listing them starts a process.
        gpus = frozenset(gpu.bus_id for gpu in sample.gpus)
        if not self._backend or gpus != self._listed_for:
            self._backend, self._listed_for = ask_backend(), gpus
        devices = merge(self._backend, sample.gpus, sample.host_memory, sample.lost)
        machine = credited(machine_of(devices), self.credit())
        plan, rungs = plan_with_ladder(header, machine, requirements_of(settings))
        ladder = tuple(self._as_set(rung) for rung in rungs)
        margins = {usage.device.name: usage.margin_bytes for usage in plan.usages}
        return Loadable(ladder, plan, self._backend, margins, settings)

    def like(self, settings: ModelSettings, credit: Callable[[], Credit]) -> Planning:
        """The same for another model."""
        return Planning(settings, self.look, credit)

    def _as_set(self, rung: Rung) -> Rung:
        """The rung with what the settings decide and no plan does."""
        if rung.spec is None:
            return rung
        spec = replace(
            rung.spec,
            n_threads=self.settings.n_threads,
            n_threads_batch=self.settings.n_threads,
            use_mlock=self.settings.mlock,
        )
        return Rung(rung.name, rung.says, spec, rung.holds, rung.pause_s, rung.reload)
