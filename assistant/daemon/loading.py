"""From settings to an engine, and to the ways of loading its model.

The engine is this machine's, a server's, or a server's with this machine's as the fallback. What it
loads is planned: a GGUF or a safetensors checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as fields_replaced
from pathlib import Path

from msgspec.structs import replace

from assistant.engine.local import Identity, LlamaEngine, file_identity
from assistant.engine.types import ElasticEngine, ModelInfo, TensorOverride
from assistant.errors import ModelError, PlanError, UnderkeelError
from assistant.llama import BackendDevice, DeviceFree, LoadSpec
from assistant.memory.devices import RAISE_THE_LIMIT, Device, ask_backend, merge
from assistant.memory.gguf.header import read_header
from assistant.memory.ladder import Rung
from assistant.memory.planning import HOST_MEMORY, Machine, Plan, credited, machine_of
from assistant.memory.planning.checkpoint import Checkpoint, read_checkpoint
from assistant.memory.planning.checkpoint_plan import (
    Mapped,
    Scheme,
    checkpoint_bytes,
    map_devices,
)
from assistant.memory.planning.load_report import LoadReport, compare, planned_memory
from assistant.memory.planning.measured_planner import plan_with_ladder
from assistant.memory.planning.planner import reduced_context, requirements_of
from assistant.memory.rates import ASSUMED, stored_rates
from assistant.memory.sampler import Sample
from assistant.models import catalogue
from assistant.settings import ModelSettings, Settings

Credit = Mapping[str, int]
"""Bytes by device, to be added to those that are free."""

log = logging.getLogger(__name__)

_NOTHING = LoadSpec(path="", n_ctx=0)


@dataclass(frozen=True)
class Loadable:
    """How a model can be loaded: the ladder, from the whole plan down to nothing.

    Attributes:
        plan: what the ladder was made from; None for an engine that is not planned for.
        backend: the devices that ggml has.
        margins: bytes that the plan keeps free, by device.
        model: the settings that it was planned by; None where they do not matter.
        caveats: what to know of it, such as a context that was reduced.
    """

    ladder: tuple[Rung, ...]
    plan: Plan | None = None
    backend: tuple[BackendDevice, ...] = ()
    margins: Mapping[str, int] = field(default_factory=dict)
    model: ModelSettings | None = None
    caveats: tuple[str, ...] = ()

    @property
    def specs(self) -> list[LoadSpec]:
        """How each rung is loaded, the last one (nothing) left out."""
        return [rung.spec for rung in self.ladder if rung.spec is not None]

    def files(self) -> Identity:
        """Tells the files that it is loaded from from others under the same names; empty where
        there are none."""
        specs = self.specs
        return file_identity(specs[0].path) if specs else ()

    def report(self, info: ModelInfo, step: int) -> LoadReport | None:
        """What the load took against the plan; None where there is no plan or another rung."""
        if info.server or self.plan is None or self.ladder[step].holds != self.ladder[0].holds:
            return None
        return compare(planned_memory(self.plan), info.memory)

    def devices(self, sample: Sample, now: Sequence[DeviceFree] = ()) -> tuple[Device, ...]:
        """Our devices with what is free of them in `sample`.

        Args:
            now: what the engine's process sees of the GPUs that it uses; it stands for those that
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
        rates = stored_rates(machine.gpus) or ASSUMED
        plan, rungs = plan_with_ladder(header, machine, requirements_of(settings), rates)
        ladder = tuple(self._as_set(rung) for rung in rungs)
        margins = {usage.device.name: usage.margin_bytes for usage in plan.usages}
        return Loadable(ladder, plan, self._backend, margins, settings, plan.caveats)

    def identity(self) -> Identity:
        """Tells the model's files from others under the same names; empty where there are none."""
        try:
            return file_identity(str(catalogue.resolve(self.settings.name)))
        except UnderkeelError:
            return file_identity(self.settings.name)

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
            use_mlock=self.settings.mlock and not self.settings.disk,
        )
        return fields_replaced(rung, spec=spec)


_MARGIN_BYTES = 512 << 20


@dataclass
class CheckpointPlanning:
    """Makes plans for one checkpoint on this machine. Blocks: call it in a thread.

    Attributes:
        look, credit: as of `assistant.daemon.loading.Planning`.
    """

    settings: ModelSettings
    look: Callable[[], Sample]
    credit: Callable[[], Credit] = dict

    def __call__(self) -> Loadable:
        """The best plan for the memory that is free now.

        Raises:
            ModelError: the folder is no checkpoint.
            PlanError: not even its 4-bit form fits.
        """
        checkpoint = read_checkpoint(Path(self.settings.name).expanduser())
        sample = self.look()
        devices = merge(ask_backend(), sample.gpus, sample.host_memory, sample.lost)
        machine = credited(machine_of(devices), self.credit())
        settings = self.settings
        caveats: tuple[str, ...] = ()
        trained = checkpoint.number("max_position_embeddings", "n_positions", "max_seq_len")
        if 0 < trained < settings.n_ctx:
            caveats = (reduced_context(trained, settings.n_ctx),)
            settings = replace(settings, n_ctx=trained)
        scheme, mapped = choose(checkpoint, machine, settings)
        spec = load_spec(checkpoint, scheme, mapped, settings)
        held = {_ggml_name(name): size for name, size in mapped.bytes_by_device.items()}
        ladder = (
            Rung("plan", "the whole plan", spec, {HOST_MEMORY: 0} | held),
            Rung(
                "unload", "the model, until the next request", None, {HOST_MEMORY: 0}, reload=True
            ),
        )
        margins = dict.fromkeys(({HOST_MEMORY: 0} | held), _MARGIN_BYTES)
        return Loadable(ladder, margins=margins, model=self.settings, caveats=caveats)


_SMALLER = "Free memory, or serve a GGUF of a smaller quantisation"


def choose(
    checkpoint: Checkpoint, machine: Machine, settings: ModelSettings
) -> tuple[Scheme, Mapped]:
    """The scheme that puts most on the GPUs, and where it puts what.

    A checkpoint that is quantised already is taken as it is.

    Raises:
        PlanError: none fits.
    """
    tried: list[tuple[Scheme, Mapped]] = []
    for scheme in _schemes(checkpoint, settings):
        mapped = map_devices(checkpoint, machine, scheme, settings.n_ctx)
        tried.append((scheme, mapped))
        whole = not machine.gpus or mapped.bytes_by_device.get("cpu", 0) == 0
        if mapped.fits and whole:
            return scheme, mapped
    fitting = [entry for entry in tried if entry[1].fits]
    if fitting:
        return max(fitting, key=lambda entry: entry[1].expert_layers_on_gpus)
    scheme, mapped = tried[-1]
    size = checkpoint_bytes(checkpoint, scheme)
    free = machine.host_memory.free_bytes + sum(gpu.free_bytes for gpu in machine.gpus)
    limit, advice = machine.host_memory.limit_in_words, _SMALLER
    raise PlanError(
        f"it takes {size / 1e9:.1f} GB as {scheme.value}, {free / 1e9:.1f} GB are free"
        + (f"; {limit}" if limit else ""),
        subject=checkpoint.name,
        advice=f"{advice}. {RAISE_THE_LIMIT}" if limit else advice,
        shortfall_bytes=max(size - free, 0),
    )


def load_spec(
    checkpoint: Checkpoint, scheme: Scheme, mapped: Mapped, settings: ModelSettings
) -> LoadSpec:
    """How the worker loads it; the plan's device map goes along as it is."""
    on_gpus = any(isinstance(place, int) for place in mapped.device_map.values())
    overrides = tuple(
        TensorOverride(pattern=module, device=str(place))
        for module, place in mapped.device_map.items()
    )
    return LoadSpec(
        path=checkpoint.name,
        n_ctx=settings.n_ctx,
        n_seq_max=settings.n_seq_max,
        n_threads=settings.n_threads,
        overrides=overrides if on_gpus else (),
        scheme="nf4" if scheme is Scheme.NF4_DOUBLE else "",
    )


def _schemes(checkpoint: Checkpoint, settings: ModelSettings) -> list[Scheme]:
    if checkpoint.method:
        return [Scheme.STORED]
    requested = {"as they are": [Scheme.BITS_16], "nf4": [Scheme.NF4_DOUBLE]}
    return requested.get(settings.weights, [Scheme.BITS_16, Scheme.NF4_DOUBLE])


def _ggml_name(name: str) -> str:
    return HOST_MEMORY if name == "cpu" else f"CUDA{name}"


def engine_for(settings: Settings) -> ElasticEngine:
    """The engine that the settings ask for; nothing is loaded or connected yet."""
    if not settings.remote.url:
        return local_engine(settings, settings.model.name)
    from assistant.engine.remote import FallbackEngine, RemoteEngine

    remote = RemoteEngine(settings.remote)
    if not settings.remote.fallback:
        return remote
    return FallbackEngine(remote, local_engine(settings, settings.model.name))


def local_engine(settings: Settings, name: str) -> ElasticEngine:
    """The engine for a model of this machine, by what the model is."""
    if is_checkpoint_folder(name):
        from assistant.engine.transformers import TransformersEngine

        return TransformersEngine(settings.engine.hang_s)
    return LlamaEngine(settings.engine.hang_s)


@dataclass
class LocalPlanning(Planning):
    """Plans whatever the settings name: a GGUF, or a folder of safetensors."""

    def __call__(self) -> Loadable:
        if is_checkpoint_folder(self.settings.name):
            return CheckpointPlanning(self.settings, self.look, self.credit)()
        return super().__call__()

    def like(self, settings: ModelSettings, credit: Callable[[], Credit]) -> LocalPlanning:
        if is_checkpoint_folder(settings.name) != is_checkpoint_folder(self.settings.name):
            raise ModelError(
                "a checkpoint and a GGUF need different engines",
                subject=settings.name,
                advice="Write it into the settings, and restart the daemon: underkeel restart",
            )
        return LocalPlanning(settings, self.look, credit)


def tell_changes(engine: ElasticEngine, to: Callable[[ModelInfo], None]) -> None:
    """Have `to` called each time that the engine goes over to another model by itself."""
    from assistant.engine.remote import FallbackEngine

    if isinstance(engine, FallbackEngine):
        engine.on_change = to


@dataclass
class ServerPlanning:
    """A planner where a server answers: there is nothing to plan, but for the fallback.

    Attributes:
        local: plans the model of this machine; None where it never answers.
    """

    local: Callable[[], Loadable] | None

    def __call__(self) -> Loadable:
        if self.local is not None:
            try:
                return self.local()
            except UnderkeelError as error:
                log.warning("no model of this machine is ready as the fallback: %s", error)
        rung = Rung(
            "server",
            "a server answers: nothing of it is in this machine",
            _NOTHING,
            {HOST_MEMORY: 0},
        )
        return Loadable((rung,))


def planner_for(settings: Settings, local: Callable[[], Loadable]) -> Callable[[], Loadable]:
    """`local` itself, or what stands before it where a server answers."""
    if not settings.remote.url:
        return local
    return ServerPlanning(local if settings.remote.fallback else None)


def check_model(settings: Settings) -> None:
    """Whether there is a model of the name in the settings.

    Raises:
        UnknownModelError: there is none; names the near ones, and how to get it.
        GGUFError: the file is not one that can be trusted.
    """
    needed = settings.remote.fallback or not settings.remote.url
    if needed and not is_checkpoint_folder(settings.model.name):
        read_header(catalogue.resolve(settings.model.name))


def is_checkpoint_folder(name: str) -> bool:
    """Whether a model's name is a folder of safetensors."""
    try:
        folder = Path(name).expanduser()
        return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, ~ of nobody
        return False
