"""llama.cpp's own structs: the parameters that a LoadSpec stands for, and batches of tokens."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.errors import LoadError
from assistant.llama import LoadSpec, TensorOverride, choose_threads, ggml, processors
from assistant.llama.ggml import llama_cpp

_MOST_OVERRIDES = 4096  # llama_max_tensor_buft_overrides() (src/llama.cpp)


class _Override(ctypes.Structure):
    """`struct llama_model_tensor_buft_override`."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@dataclass(frozen=True)
class ModelParams:
    """`struct` points into `keep`: hold this object until the load has returned."""

    struct: Any
    keep: tuple[object, ...]


def model_params(spec: LoadSpec, *, no_alloc: bool = False) -> ModelParams:
    """The model's parameters. `no_alloc` makes it a dry run: nothing is read or allocated.

    Raises:
        LoadError: a device of the spec is not known, or there are too many overrides.
    """
    devices = _devices(spec.devices)
    overrides = _overrides(spec.overrides)
    split = _split(spec)
    struct = llama_cpp.llama_model_default_params()
    struct.devices = ctypes.cast(devices, ctypes.c_void_p)
    struct.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    if split is not None:
        struct.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
    struct.n_gpu_layers = spec.n_gpu_layers
    struct.split_mode = llama_cpp.LLAMA_SPLIT_MODE_LAYER
    # a dry run with a mapped file aborts the process, so it always runs without
    struct.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE if no_alloc else _load_mode(spec)
    struct.use_extra_bufts = spec.use_extra_bufts and not _has_amx()
    struct.check_tensors = spec.check_tensors
    struct.no_alloc = no_alloc
    struct.load_mtp = spec.nextn
    return ModelParams(struct, (devices, overrides, split))


@functools.cache
def _has_amx() -> bool:
    """Whether this llama.cpp would store weights for AMX, where several models crash.

    Our own build leaves AMX out (`install/llama_cpp.cmake`); others may have it. llama.cpp has one
    switch for AMX and for the repacked weights, so such a build has neither.
    """
    return b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info()


def context_params(spec: LoadSpec) -> Any:
    """The context's parameters (`llama_context_params`).

    Raises:
        LoadError: a cache type that ggml does not know, or fewer outputs than sequences.
    """
    if 0 < spec.n_outputs_max < spec.n_seq_max:
        # llama.cpp reserves one output a sequence and aborts the process where they do not fit
        raise LoadError(
            f"{spec.n_outputs_max} outputs do not serve {spec.n_seq_max} sequences",
            subject=spec.path,
            advice="Give n_outputs_max at least n_seq_max, or 0",
        )
    struct = llama_cpp.llama_context_default_params()
    struct.n_ctx = spec.n_ctx
    struct.n_batch = spec.n_batch
    struct.n_ubatch = spec.n_ubatch
    struct.n_seq_max = spec.n_seq_max
    struct.n_rs_seq = spec.n_rs_seq
    # llama.cpp reserves a row a sequence in any case, and aborts the process if it may not
    struct.n_outputs_max = spec.n_outputs_max and max(spec.n_outputs_max, spec.n_seq_max)
    cpu = processors()
    struct.n_threads = choose_threads(spec.n_threads, cpu).count
    struct.n_threads_batch = choose_threads(spec.n_threads_batch, cpu).count
    struct.type_k = ggml_type(spec.cache_type_k)
    struct.type_v = ggml_type(spec.cache_type_v)
    struct.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if spec.flash_attn
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    struct.offload_kqv = spec.offload_kqv
    struct.op_offload = spec.op_offload
    struct.kv_unified = spec.kv_unified
    struct.swa_full = spec.swa_full
    struct.no_perf = True
    return struct


def ggml_type(name: str) -> int:
    """Number of the ggml type called `name` ("f16", "q8_0").

    Raises:
        LoadError: no such type.
    """
    known = _types()
    if name not in known:
        raise LoadError(
            "llama.cpp has no such cache type",
            subject=name,
            advice="Known are: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl",
        )
    return known[name]


@functools.cache
def _types() -> dict[str, int]:
    name = ggml.function("ggml_type_name")
    numbers = range(llama_cpp.GGML_TYPE_COUNT)
    return {text.decode(): number for number in numbers if (text := name(number))}


def _devices(names: tuple[str, ...]) -> ctypes.Array[ctypes.c_void_p]:
    """An array ended by NULL; empty means the CPU alone (a NULL pointer would mean all)."""
    handles = [ggml.device(name) for name in names]
    return (ctypes.c_void_p * (len(handles) + 1))(*handles, None)


def _overrides(overrides: tuple[TensorOverride, ...]) -> ctypes.Array[_Override]:
    if len(overrides) >= _MOST_OVERRIDES:
        raise LoadError(
            f"the plan has {len(overrides)} tensor overrides, the limit is {_MOST_OVERRIDES - 1}",
            advice="Report this: a plan should join its patterns",
        )
    rows = [
        _Override(params.pattern.encode(), ggml.buffer_type(params.device)) for params in overrides
    ]
    return (_Override * (len(rows) + 1))(*rows, _Override(None, None))


def _split(spec: LoadSpec) -> ctypes.Array[ctypes.c_float] | None:
    if not spec.tensor_split:
        return None
    most = int(llama_cpp.llama_max_devices())
    if len(spec.tensor_split) > most:
        raise LoadError(
            f"the plan splits over {len(spec.tensor_split)} devices, llama.cpp takes {most}",
            subject=spec.path,
            advice="Plan with fewer devices",
        )
    return (ctypes.c_float * most)(*spec.tensor_split)


def _load_mode(spec: LoadSpec) -> int:
    modes = {
        (False, False): llama_cpp.LLAMA_LOAD_MODE_NONE,
        (True, False): llama_cpp.LLAMA_LOAD_MODE_MMAP,
        (False, True): llama_cpp.LLAMA_LOAD_MODE_MLOCK,
        (True, True): llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }
    return int(modes[spec.use_mmap, spec.use_mlock])


@dataclass(frozen=True)
class Span:
    """Tokens of one sequence to evaluate, the first one at `position`.

    Logits are kept for the last `outputs` of them.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int = 0


class Batch:
    """A `llama_batch` over arrays of our own, filled at C speed.

    Attributes:
        hidden: [capacity, n_embd]: the hidden state that goes with each token; empty without.

    Args:
        n_embd: width of the hidden states, for a context of multi-token prediction; else 0.
    """

    def __init__(self, capacity: int, n_embd: int = 0) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._ones = np.ones(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self.hidden = np.zeros((capacity, n_embd), np.float32)
        start, step = self._sequences.ctypes.data, self._sequences.itemsize
        self._pointers = np.arange(start, start + capacity * step, step, dtype=np.uintp)
        struct = llama_cpp.llama_batch()
        struct.token = _pointer(self._tokens, llama_cpp.llama_token)
        struct.pos = _pointer(self._positions, llama_cpp.llama_pos)
        struct.n_seq_id = _pointer(self._ones, ctypes.c_int32)
        struct.seq_id = ctypes.cast(
            self._pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(llama_cpp.llama_seq_id))
        )
        struct.logits = _pointer(self._outputs, ctypes.c_int8)
        if n_embd:
            struct.embd = _pointer(self.hidden, ctypes.c_float)
        self.struct = struct

    def fill(self, spans: Sequence[Span]) -> None:
        at = 0
        for span in spans:
            count = len(span.tokens)
            rows = slice(at, at + count)
            self._tokens[rows] = span.tokens
            self._positions[rows] = np.arange(span.position, span.position + count)
            self._sequences[rows] = span.sequence
            self._outputs[rows] = 0
            self._outputs[at + count - span.outputs : at + count] = 1
            at += count
        self.struct.n_tokens = at


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
