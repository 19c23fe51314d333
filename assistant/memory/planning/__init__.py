"""Plans how a GGUF or a safetensors checkpoint is loaded: placement, footprint, projections.

Here: the plan itself (which part of a model is on which device, how it is loaded, and why), and the
machine to plan for: this one as it is now, or an imagined one. A plan is plain frozen data. The
unit of expert placement is the group: all routed tensors of one layer, together on one device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from assistant.errors import SettingsError
from assistant.llama import DeviceKind, DeviceMemory, LoadSpec, TensorOverride
from assistant.memory.devices import Device, ask_backend, merge
from assistant.memory.model.architecture import CacheParams
from assistant.memory.model.profile import EXPERT_PATTERN, Model
from assistant.memory.sampler import Probes

__all__ = [
    "HOST_MEMORY",
    "Choice",
    "DeviceUsage",
    "Machine",
    "Plan",
    "Requirements",
    "checkpoint",
    "checkpoint_plan",
    "credited",
    "dry_run",
    "expert_pattern",
    "footprint",
    "imagined",
    "load_report",
    "machine_of",
    "measured_planner",
    "parse_size",
    "placement",
    "plan_report",
    "planner",
    "shared",
    "this_machine",
    "together",
]

HOST_MEMORY = "CPU"


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices to plan for: host memory, and GPUs in llama.cpp's order."""

    host_memory: Device
    gpus: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a plan must satisfy. Zeros and empty texts leave it to the planner.

    Attributes:
        n_ctx: cells of context, all sequences together.
        cache_type: of K and V, a ggml type name.
        swa_full: None for the window alone, where that takes less.
        experts_on_gpu: a plan that leaves an expert group in host memory is no plan.
        disk: experts of host memory may exceed it; the rest is read from the mapped file.
        nextn: the layers for multi-token prediction may draft, where memory is left for them.
        n_outputs_max: logits rows a batch; more cost memory in the compute buffer.
        margin_bytes: left free on each GPU; `host_memory_margin_bytes`: left free of host memory.
        overhead_bytes: what a process takes of a GPU besides (CUDA context, cuBLAS, pool);
            -1 for what is usual for the kind of GPU.
    """

    n_ctx: int = 0
    cache_type: str = ""
    n_seq_max: int = 4
    n_batch: int = 512
    n_ubatch: int = 512
    n_outputs_max: int = 32
    swa_full: bool | None = None
    unified: bool = True
    flash_attn: bool = True
    experts_on_gpu: bool = False
    disk: bool = False
    nextn: bool = True
    margin_bytes: int = 256 << 20
    host_memory_margin_bytes: int = 512 << 20
    overhead_bytes: int = -1


@dataclass(frozen=True, slots=True)
class Choice:
    """Everything the planner decides, in llama.cpp's terms.

    Attributes:
        layers: the device of each block's cache and of all of it that is not routed.
        output: the device of the output matrix.
        experts: the device of each block's expert group; empty where it has none.
        op_offload: batches are computed on a GPU even where the weights are in host memory.
        repack: weights in host memory are stored in the order its CPU likes best.
        nextn: the layers for multi-token prediction are loaded, and draft.
        offload_kqv: each block's cache is with it; otherwise all of it in host memory.
    """

    cache: CacheParams
    layers: tuple[str, ...]
    output: str
    experts: tuple[str, ...]
    n_batch: int = 512
    n_outputs_max: int = 32
    op_offload: bool = True
    repack: bool = True
    offload_kqv: bool = True
    nextn: bool = False


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """What one device holds, by class, in bytes.

    Attributes:
        dense_bytes: attention, shared experts, norms, routers: all of its layers not routed.
        expert_layers: blocks whose whole expert group is here, `expert_bytes` together.
        embedding_bytes: the token embedding, and where tied its copy as an output.
        other_bytes: what llama.cpp takes for weights and cache beyond our count; 0 if it is exact.
        checkpoint_bytes: states of sequences to go back to, where they cannot be cut anywhere.
        overhead_bytes: the process itself, and the driver's share.
        margin_bytes: to stay free.
        shared_bytes: of host memory, what integrated GPUs take of the same memory.
        disk_bytes: of `expert_bytes`, what has no space in host memory: it is read from the file
            when a token needs it, and the page cache keeps the rest.
    """

    device: Device
    layers: tuple[int, ...] = ()
    expert_layers: tuple[int, ...] = ()
    dense_bytes: int = 0
    expert_bytes: int = 0
    embedding_bytes: int = 0
    output_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    checkpoint_bytes: int = 0
    overhead_bytes: int = 0
    margin_bytes: int = 0
    other_bytes: int = 0
    shared_bytes: int = 0
    disk_bytes: int = 0

    @property
    def weights_bytes(self) -> int:
        return self.dense_bytes + self.expert_bytes + self.embedding_bytes + self.output_bytes

    @property
    def needed_bytes(self) -> int:
        """All that will be taken, the margin not counted."""
        buffers = self.kv_bytes + self.compute_bytes + self.checkpoint_bytes
        beside = self.overhead_bytes + self.other_bytes + self.shared_bytes
        return self.weights_bytes + buffers + beside - self.disk_bytes

    @property
    def spare_bytes(self) -> int:
        """What stays free beyond the margin; negative where it does not fit."""
        return self.device.free_bytes - self.needed_bytes - self.margin_bytes

    def with_experts_on_disk(self) -> DeviceUsage:
        """The same, with as many bytes of experts on disk as have no space in memory."""
        whole = replace(self, disk_bytes=0)
        return replace(self, disk_bytes=min(max(-whole.spare_bytes, 0), self.expert_bytes))


@dataclass(frozen=True, slots=True)
class Plan:
    """A model on a machine.

    Attributes:
        usages: host memory first, then every GPU of the machine.
        reasons: why it is so, one sentence each.
        caveats: what could not be known; empty for a plan to rely on.
        measured: whether the compute buffers are llama.cpp's own figures, not an estimate.
    """

    model: Model
    choice: Choice
    usages: tuple[DeviceUsage, ...]
    reasons: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    measured: bool = False

    @property
    def n_ctx(self) -> int:
        return self.choice.cache.n_ctx

    @property
    def gpu_usages(self) -> tuple[DeviceUsage, ...]:
        return self.usages[1:]

    @property
    def host_memory_usage(self) -> DeviceUsage:
        return self.usages[0]

    @property
    def fits(self) -> bool:
        return all(usage.spare_bytes >= 0 for usage in self.usages)

    @property
    def expert_layers_on_gpu(self) -> int:
        return sum(1 for device in self.choice.experts if device not in {"", HOST_MEMORY})

    def to_load_spec(self) -> LoadSpec:
        """The parameters by which llama.cpp loads exactly this plan."""
        choice, cache = self.choice, self.choice.cache
        used = [gpu.device.name for gpu in self.gpu_usages if _items(choice, gpu.device.name)]
        return LoadSpec(
            path=self.model.path,
            n_ctx=cache.n_ctx,
            n_batch=choice.n_batch,
            n_ubatch=cache.n_ubatch,
            n_seq_max=cache.n_seq_max,
            devices=tuple(used),
            n_gpu_layers=sum(_items(choice, name) for name in used),
            tensor_split=tuple(float(_items(choice, name)) for name in used)
            if len(used) > 1
            else (),
            overrides=_overrides(choice),
            cache_type_k=cache.type_k,
            cache_type_v=cache.type_v,
            flash_attn=cache.flash_attn,
            op_offload=choice.op_offload,
            offload_kqv=choice.offload_kqv,
            kv_unified=cache.unified,
            swa_full=cache.swa_full,
            n_rs_seq=cache.n_rs_seq,
            checkpoint_bytes=cache.checkpoint_bytes,
            n_outputs_max=choice.n_outputs_max,
            use_extra_bufts=choice.repack,
            nextn=choice.nextn,
        )

    def with_measured(self, memory: Iterable[DeviceMemory]) -> Plan:
        """This plan with llama.cpp's own figures for it, from a dry run or after the load."""
        taken: dict[str, tuple[int, int]] = {}
        for entry in memory:
            fixed, compute = taken.get(entry.device, (0, 0))
            fixed += entry.weights_bytes + entry.kv_bytes
            taken[entry.device] = fixed, compute + entry.compute_bytes
        usages = []
        for usage in self.usages:
            fixed, compute = taken.get(usage.device.name, (0, 0))
            other = fixed - usage.weights_bytes - usage.kv_bytes
            usages.append(replace(usage, compute_bytes=compute, other_bytes=other))
        host_memory, *gpus = shared(usages)
        if self.host_memory_usage.disk_bytes:
            host_memory = host_memory.with_experts_on_disk()
        return replace(self, usages=(host_memory, *gpus), measured=True)


def shared(usages: Sequence[DeviceUsage]) -> tuple[DeviceUsage, ...]:
    """The same usages, with what integrated GPUs take of host memory added to it."""
    host_memory, *gpus = usages
    taken = sum(gpu.needed_bytes for gpu in gpus if gpu.device.kind is DeviceKind.IGPU)
    return (replace(host_memory, shared_bytes=taken), *gpus)


def _items(choice: Choice, device: str) -> int:
    """Blocks and the output that stand on a device, as llama.cpp counts GPU layers."""
    return choice.layers.count(device) + (choice.output == device)


def _overrides(choice: Choice) -> tuple[TensorOverride, ...]:
    """One pattern for each device that holds expert groups of blocks standing elsewhere."""
    moved: dict[str, list[int]] = {}
    for index, device in enumerate(choice.experts):
        if device and device != choice.layers[index]:
            moved.setdefault(device, []).append(index)
    return tuple(
        TensorOverride(pattern=expert_pattern(layers), device=device)
        for device, layers in moved.items()
    )


def expert_pattern(layers: Iterable[int]) -> str:
    """The pattern of the routed tensors of these blocks, whole groups of them."""
    return rf"^blk\.({'|'.join(map(str, layers))})\.{EXPERT_PATTERN}"


_UNITS = {"": 1 << 30, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"^(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT]?)(?:i?B)?$", re.IGNORECASE)
_MOST_BYTES = 1 << 50


def this_machine() -> tuple[Machine, tuple[str, ...]]:
    """This machine's devices with what is free of them now, and what is odd about them.

    Raises:
        LoadError: llama.cpp cannot list its devices.
    """
    probes = Probes()
    try:
        sample = probes()
        devices = merge(ask_backend(), sample.gpus, sample.host_memory, sample.lost)
    finally:
        probes.close()
    machine = machine_of(devices)
    remarks = []
    if sample.gpus and not machine.gpus:
        names = ", ".join(gpu.name for gpu in sample.gpus)
        remarks.append(f"this build of llama.cpp cannot use the GPU that is there ({names})")
    if sample.host_memory.limited_by:
        remarks.append(
            f"host memory is limited by the control group {sample.host_memory.limited_by}"
        )
    return machine, tuple(remarks)


def credited(machine: Machine, credit: Mapping[str, int]) -> Machine:
    """The machine with so much more free of each device, or less."""

    def changed(device: Device) -> Device:
        free = device.free_bytes + credit.get(device.name, 0)
        return replace(device, free_bytes=min(max(free, 0), device.total_bytes))

    return Machine(changed(machine.host_memory), tuple(map(changed, machine.gpus)))


def machine_of(devices: Sequence[Device]) -> Machine:
    """Devices as the probes list them, sorted into GPUs and host."""
    host_memory = next(device for device in devices if device.name == HOST_MEMORY)
    return Machine(host_memory, tuple(device for device in devices if device.name != HOST_MEMORY))


def imagined(machine: Machine, vram: Sequence[int], ram: int, gpus: int) -> Machine:
    """A machine that one doesn't have: empty GPUs of these sizes, this much free host memory.

    Args:
        machine: what is not said is taken from it.
        vram: bytes of each GPU, or of all of them alike; empty leaves the machine's own.
        ram: bytes; 0 leaves the machine's own.
        gpus: how many GPUs; -1 means one for each size given, or the machine's own.
    """
    host_memory = Device(HOST_MEMORY, DeviceKind.CPU, ram, ram) if ram else machine.host_memory
    devices = machine.gpus
    if vram:
        sizes = list(vram)
        if gpus > 0:
            sizes = (sizes * gpus)[:gpus] if len(sizes) == 1 else sizes[:gpus]
        devices = tuple(
            Device(f"CUDA{index}", DeviceKind.GPU, size, size) for index, size in enumerate(sizes)
        )
    return Machine(host_memory, devices if gpus < 0 else devices[:gpus])


def parse_size(text: str) -> int:
    """Bytes of a size such as "24", "24G", "512M", "1.5GiB"; without a unit it is GiB.

    Raises:
        SettingsError: it is no size.
    """
    found = _SIZE.match(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else -1
    if not 0 <= size <= _MOST_BYTES:
        raise SettingsError("this is not a size", subject=text, advice="Write it as 24G or 800M")
    return size
