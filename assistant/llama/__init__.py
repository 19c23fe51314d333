"""The only package that calls llama.cpp's C interface: loading, contexts, memory breakdown.

Here, without llama.cpp: how a model is loaded, and the memory that llama.cpp reports for it, as
frozen data. Sizes are bytes.

`choose_threads` sets the number of threads: all threads of a graph wait for each other at each of
its thousands of nodes, so the slowest sets the pace. On two cores, two threads decode 1.3 times as
fast as one and read 1.7 times as fast; with a third, decoding is slower than with one
(tests/benchmarks/results/threads_batches.json). Two threads on one core would share its arithmetic
units; such cores have not been measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
import psutil
from msgspec import Meta

__all__ = [
    "CHECKPOINT_BYTES",
    "GREEDY",
    "MOST_CHECKPOINTS",
    "BackendDevice",
    "DeviceFree",
    "DeviceKind",
    "DeviceMemory",
    "DeviceRates",
    "LoadSpec",
    "Processors",
    "Sampling",
    "TensorOverride",
    "Threads",
    "TypeRate",
    "breakdown",
    "choose_threads",
    "context",
    "control_groups",
    "ggml",
    "model",
    "processors",
    "structs",
]


class DeviceKind(StrEnum):
    """What sort of device ggml calls it."""

    CPU = "cpu"
    GPU = "gpu"
    IGPU = "igpu"
    ACCELERATOR = "accelerator"
    META = "meta"


class BackendDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device as ggml reports it, in the process that asked.

    `bus_id` is the PCI address ("0000:01:00.0") where the backend knows it.
    """

    name: str
    description: str
    kind: DeviceKind
    total_bytes: int
    free_bytes: int
    bus_id: str = ""


class DeviceFree(msgspec.Struct, frozen=True, kw_only=True):
    """What ggml says of a device's memory, in bytes, asked in the process that uses it."""

    name: str
    total_bytes: int
    free_bytes: int


class TensorOverride(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors whose name matches `pattern` (ECMAScript regex, searched) stand on `device`.

    `device` is a ggml device name ("CUDA0") or "CPU".
    """

    pattern: str
    device: str


_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. The only declaration of these fields; the defaults are
    llama-server's (llama.cpp, common/common.h).

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 or -1 switches it off; so do `top_p` 1 and `min_p` 0.
        repeat_penalty: 1 is none; it counts the last `repeat_last_n` tokens, -1 for all.
        frequency_penalty, presence_penalty: OpenAI's, 0 is none; over the same tokens.
        logit_bias: added to the logits of these token ids; as OpenAI's object, or as pairs.
        seed: -1 and 2**32 - 1 are a random one.
    """

    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.8
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = 40
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.95
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.05
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    repeat_last_n: Annotated[int, Meta(ge=-1, le=2**20)] = 64
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    logit_bias: (
        Annotated[dict[_TokenId, _Bias], Meta(max_length=1024)]
        | Annotated[tuple[tuple[_TokenId, _Bias], ...], Meta(max_length=1024)]
    ) = ()
    seed: Annotated[int, Meta(ge=-1, le=2**32 - 1)] = -1

    @property
    def penalises(self) -> bool:
        """Whether tokens that occurred before are less or more likely."""
        return bool(self.repeat_penalty != 1.0 or self.frequency_penalty or self.presence_penalty)


GREEDY = Sampling(temperature=0.0)


MOST_CHECKPOINTS = 16
CHECKPOINT_BYTES = 64 << 20
"""What checkpoints take where no plan says how much."""


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What llama.cpp receives when a model is loaded. The planner fills it; nothing guesses later.

    Attributes:
        path: first file of the GGUF.
        n_ctx: cells in all, shared by all sequences.
        n_seq_max: sequences (slots).
        devices: ggml device names to use, in order; empty means CPU only.
        n_gpu_layers: layers (and the output) on `devices`; 0 on a CPU.
        tensor_split: share of the layers for each device; empty lets llama.cpp decide.
        overrides: where expert groups are placed; first match wins.
        cache_type_k, cache_type_v: ggml type names ("f16", "q8_0").
        n_threads, n_threads_batch: 0 leaves them to `choose_threads`.
        n_outputs_max: 0 leaves llama.cpp's default (n_batch); otherwise at least n_seq_max.
        swa_full: full-length cache for sliding-window layers. Without it a prefix can be reused
            where its window is still in the cache, or at a checkpoint.
        checkpoint_bytes: what the worker may keep of checkpoints, where sequences cannot be cut
            anywhere.
        n_rs_seq: earlier states that recurrent layers keep of each sequence, to draft and to go
            back so many tokens; llama.cpp keeps none for some architectures.
        nextn: load the layers for multi-token prediction, and draft with them.
        scheme: of a checkpoint's weights: "nf4", or empty for as they are. Of a checkpoint the
            overrides are exact names of modules, and devices "0", "1", ... or "cpu".
    """

    path: str
    n_ctx: int = 8192
    n_batch: int = 512
    n_ubatch: int = 512
    n_seq_max: int = 4
    devices: tuple[str, ...] = ()
    n_gpu_layers: int = 0
    tensor_split: tuple[float, ...] = ()
    overrides: tuple[TensorOverride, ...] = ()
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: bool = True
    offload_kqv: bool = True
    op_offload: bool = True
    kv_unified: bool = True
    swa_full: bool = True
    checkpoint_bytes: int = CHECKPOINT_BYTES
    n_outputs_max: int = 0
    use_mmap: bool = True
    use_mlock: bool = False
    use_extra_bufts: bool = True
    check_tensors: bool = False
    n_threads: int = 0
    n_threads_batch: int = 0
    n_rs_seq: int = 0
    nextn: bool = False
    scheme: str = ""


class TypeRate(msgspec.Struct, frozen=True, kw_only=True):
    """How fast weights of one type are used.

    Attributes:
        bytes_per_s: read and multiplied by one token, while decoding.
        weights_per_s: multiplied by one token each, in a prompt of many tokens.
        expert_weights_per_s: the same for experts chosen by a router, of which each gets only some
            of the tokens.
    """

    bytes_per_s: float
    weights_per_s: float
    expert_weights_per_s: float


class DeviceRates(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one device computes, as `assistant.llama.probe` finds it.

    Attributes:
        layer_s: fixed cost of a layer in a decode, in seconds.
        types: by the name of a ggml type.
    """

    layer_s: float
    types: dict[str, TypeRate]


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """llama.cpp's own breakdown for one buffer type, in bytes.

    `device` is the ggml device whose memory it takes: "CPU" for everything in host memory, also
    for pinned and repacked buffers (`is_host` then, too).
    """

    buffer_type: str
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    is_host: bool
    device: str = ""


@dataclass(frozen=True)
class Processors:
    """What a process may compute on; 0 where that is not known.

    Attributes:
        cores, logical: of the machine; a core may show as several logical processors.
        allowed: logical processors that this process may run on.
        quota: the most that its control group lets it use at a time; 0.0 for no limit.
    """

    cores: int = 0
    logical: int = 0
    allowed: int = 0
    quota: float = 0.0


@dataclass(frozen=True)
class Threads:
    """A number of threads, and the reason in a few words."""

    count: int
    reason: str


def choose_threads(wanted: int, processors: Processors) -> Threads:
    """The threads for prefill and decode alike. Pure.

    Args:
        wanted: what the settings say; 0 leaves it to this.
    """
    if wanted > 0:
        return Threads(wanted, "as set in model.n_threads")
    limits = [Threads(processors.cores or processors.logical or 1, "one for each core")]
    if processors.allowed:
        share = processors.cores / processors.logical if processors.logical else 0.0
        cores = math.ceil(processors.allowed * (share or 1.0))
        limits.append(Threads(cores, "one for each core that this process may run on"))
    if processors.quota:
        whole = max(int(processors.quota), 1)
        limits.append(Threads(whole, "as many as the control group lets run at a time"))
    return min(limits, key=lambda limit: limit.count)


def processors(root: Path = Path("/")) -> Processors:
    """Those of this machine, for this process.

    Args:
        root: where `/proc` and `/sys` are looked for.
    """
    quotas = [quota for folder in control_groups("cpu", root) if (quota := _quota(folder))]
    return Processors(
        cores=psutil.cpu_count(logical=False) or 0,
        logical=psutil.cpu_count() or 0,
        allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        quota=min(quotas, default=0.0),
    )


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of this process's control groups, from its own up to the topmost, as far as they
    may be mounted here: of version 2, and of version 1 for `controller`.

    Inside a container its path may be the host's, which is not mounted; its own group is then the
    mount itself.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    mount = root / "sys/fs/cgroup"
    for line in lines or ["0::/"]:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            top = mount
        elif controller in controllers.split(","):
            top = mount / controller
            top = top if top.is_dir() else mount / controllers
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        inner = PurePosixPath() if ".." in inner.parts else inner
        yield from (top / part for part in (inner, *inner.parents))


def _quota(folder: Path) -> float:
    """Of a control group: the processors that it may use at a time; 0.0 for no limit."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            words = " ".join((folder / name).read_text("ascii", "replace") for name in files)
            most, period = words.split()
            return max(int(most) / int(period), 0.0)
        except (OSError, ValueError, OverflowError, ZeroDivisionError):  # "max" is no number either
            continue
    return 0.0
