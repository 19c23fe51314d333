"""Plans for a safetensors checkpoint: where its modules stand, and in how many bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from assistant.daemon.models.loading import Credit, Loadable, credited
from assistant.engine.types import LoadSpec, TensorOverride
from assistant.errors import PlanError
from assistant.memory.checkpoints.checkpoint import Checkpoint, read_checkpoint
from assistant.memory.checkpoints.checkpoint_plan import (
    Mapped,
    Scheme,
    checkpoint_bytes,
    map_devices,
)
from assistant.memory.degrade.ladder import Rung
from assistant.memory.planning.machine import machine_of
from assistant.memory.planning.plan import HOST_MEMORY, Machine
from assistant.memory.probes.devices import ask_backend, merge
from assistant.memory.probes.sampler import Sample
from assistant.settings import ModelSettings

_MARGIN_BYTES = 512 << 20


@dataclass
class CheckpointPlanning:
    """Makes plans for one checkpoint on this machine. Blocks: call it in a thread.

    Attributes:
        look, credit: as of `assistant.daemon.models.loading.Planning`.
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
        scheme, mapped = choose(checkpoint, machine, self.settings)
        spec = load_spec(checkpoint, scheme, mapped, self.settings)
        held = {_ggml_name(name): size for name, size in mapped.bytes_by_device.items()}
        ladder = (
            Rung("plan", "the whole plan", spec, {HOST_MEMORY: 0} | held),
            Rung(
                "unload", "the model, until the next request", None, {HOST_MEMORY: 0}, reload=True
            ),
        )
        margins = dict.fromkeys(({HOST_MEMORY: 0} | held), _MARGIN_BYTES)
        return Loadable(ladder, margins=margins, model=self.settings)


def choose(
    checkpoint: Checkpoint, machine: Machine, settings: ModelSettings
) -> tuple[Scheme, Mapped]:
    """The scheme that brings most onto the cards, and where it puts what.

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
    raise PlanError(
        f"it takes {size / 1e9:.1f} GB as {scheme.value}, {free / 1e9:.1f} GB are free",
        subject=checkpoint.name,
        advice="Free memory, or serve a GGUF of a smaller quantisation",
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
