"""GGUF files of true shape with random weights: as large and as costly to run as the real model.

Quantised blocks hold random values under scales that give each matrix a standard deviation of
1/sqrt(inputs), so that activations keep their size from block to block and the logits stay finite.
What each block adds is a twentieth of that: the next token then follows almost from the last one
alone, and a greedy answer stays the same on another device or under another cache type, as that of
a trained model mostly does. The bytes of each type come from one pool of random blocks, repeated
from another offset for each tensor: writing is then as fast as the disk, and takes less than 1 GiB
of memory at any model size.
"""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from assistant.memory.gguf.header import DEFAULT_ALIGNMENT, Header, Tensor, read_header
from assistant.memory.planning.dry_run import encode

Blocks = npt.NDArray[np.uint8]

_POOL_BYTES = 24 << 20
_PIECE_BYTES = 8 << 20
_WRITERS = 4
_ADDED = re.compile(r"\.(attn_output|ffn_down(_exps|_shexp)?|ssm_out)\.weight$")
_ADDED_SHARE = 0.05
_FIM_TOKENS = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_NORMAL, _CONTROL = 1, 3  # llama.h, enum llama_token_type

# By type: the bytes of a block that hold float16 scales, and the standard deviation of a value
# under a scale of 1 where all other bytes of the block are random (ggml-common.h has the layouts,
# ggml-quants.c the formulas). `minimum`: a second scale, of the offsets, and the ratio to the first
# that makes the mean 0.
_SCALES: dict[str, tuple[int, float]] = {
    "q8_0": (0, 73.9),
    "q4_0": (0, 4.64),
    "q5_0": (0, 9.25),
    "iq4_nl": (0, 68.0),
    "q6_K": (208, 1365.0),
    "q3_K": (108, 44.4),
}
_SCALES_WITH_MINIMUM: dict[str, tuple[int, int, float, float]] = {
    "q4_K": (0, 2, 260.0, 7.5),
    "q5_K": (0, 2, 537.0, 15.5),
    "q2_K": (80, 82, 13.9, 1.5),
    "q5_1": (0, 2, 9.23, -15.5),
}
_MXFP4_DEVIATION = 5.85  # of the sixteen values of kvalues_mxfp4, whose block scale is 2^(e-128)


def write_random(path: Path, header: Header, *, seed: int = 1) -> Header:
    """Write a model of this header's shape, with a byte-level vocabulary of its size.

    Returns:
        The header of the file that was written.

    Raises:
        ValueError: a tensor has a type that is not written here.
        OSError: the disk is full.
    """
    pools = _Pools(seed)
    raw = encode(_metadata(header), header.tensors)
    places = []
    at = len(raw)
    for tensor in header.tensors:
        places.append((at, tensor))
        at += tensor.size_bytes + -tensor.size_bytes % DEFAULT_ALIGNMENT
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(at)
        with ThreadPoolExecutor(_WRITERS) as pool:
            for done in [pool.submit(_put, file.fileno(), *place, pools) for place in places]:
                done.result()
    return read_header(path)


def _put(file: int, at: int, tensor: Tensor, pools: _Pools) -> None:
    for piece in pools.pieces(tensor):
        view = memoryview(piece)
        while view:
            written = os.pwrite(file, view, at)
            view, at = view[written:], at + written


class _Pools:
    """Random blocks by type and scale, made at the first tensor that needs them."""

    def __init__(self, seed: int) -> None:
        self._noise = np.random.default_rng(seed)
        self._lock = Lock()
        self._made: dict[tuple[str, float], bytes] = {}

    def pieces(self, tensor: Tensor) -> Iterator[bytes | memoryview]:
        """The tensor's bytes, in order."""
        if len(tensor.shape) < 2 or tensor.type.name == "f32":
            with self._lock:
                values = _small_values(tensor, self._noise)
            yield values
            return
        with self._lock:
            pool = memoryview(self._pool(tensor))
        block = tensor.type.block_bytes
        # each tensor starts elsewhere in the pool, so that no two experts are alike
        start = crc32(tensor.name.encode()) % (len(pool) // block) * block
        left = tensor.size_bytes
        while left:
            piece = pool[start : start + min(left, _PIECE_BYTES)]
            yield piece
            left -= len(piece)
            start = (start + len(piece)) % len(pool)

    def _pool(self, tensor: Tensor) -> bytes:
        deviation = (_ADDED_SHARE if _ADDED.search(tensor.name) else 1) / math.sqrt(tensor.shape[0])
        key = (tensor.type.name, deviation)
        if key not in self._made:
            count = max(_POOL_BYTES // tensor.type.block_bytes, 1)
            self._made[key] = _blocks(tensor, count, deviation, self._noise)
        return self._made[key]


def _blocks(tensor: Tensor, count: int, deviation: float, noise: np.random.Generator) -> bytes:
    """`count` random blocks of the tensor's type, whose values have this standard deviation."""
    kind = tensor.type.name
    if kind in {"f16", "bf16"}:
        values = noise.standard_normal(count, np.float32) * np.float32(deviation)
        if kind == "f16":
            return values.astype(np.float16).tobytes()
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    blocks = noise.integers(0, 256, (count, tensor.type.block_bytes), np.uint8)
    if kind == "mxfp4":
        blocks[:, 0] = round(math.log2(deviation / _MXFP4_DEVIATION)) + 128
    elif kind in _SCALES:
        at, unit = _SCALES[kind]
        _set_half(blocks, at, deviation / unit)
    elif kind in _SCALES_WITH_MINIMUM:
        at, minimum_at, unit, ratio = _SCALES_WITH_MINIMUM[kind]
        _set_half(blocks, at, deviation / unit)
        _set_half(blocks, minimum_at, ratio * deviation / unit)
    else:
        raise ValueError(f"{tensor.name}: random blocks of {kind} are not written here")
    return blocks.tobytes()


def _set_half(blocks: Blocks, at: int, value: float) -> None:
    blocks[:, at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _small_values(tensor: Tensor, noise: np.random.Generator) -> bytes:
    """Norms, biases, routers and the parameters of recurrent blocks: few, and kept as float32.

    `ssm_a` is negative and `ssm_dt.bias` small, as a trained state-space model has them: its state
    decays.
    """
    name, count = tensor.name, math.prod(tensor.shape)
    if tensor.type.name != "f32":
        raise ValueError(f"{name}: a vector of type {tensor.type.name} is not written here")
    if name.endswith("ssm_a"):
        values: Any = -noise.uniform(0.5, 4.0, count)
    elif name.endswith("ssm_dt.bias"):
        values = np.full(count, -2.0)
    elif name.endswith(("ssm_d", "rope_freqs.weight")) or "norm" in name:
        values = np.ones(count)
    elif len(tensor.shape) > 1 and not name.endswith("bias"):
        values = noise.standard_normal(count) / math.sqrt(tensor.shape[0])
    else:
        values = np.zeros(count)
    return np.asarray(values, np.float32).tobytes()


def _metadata(header: Header) -> dict[str, object]:
    """The header's own keys, with a vocabulary of single bytes and fillers up to its size.

    Nothing merges, so a text takes a token a byte; fillers have a text too, and decode to it.
    """
    size = int(str(header.metadata[f"{header.architecture}.vocab_size"]))
    fillers = (f" w{number}" for number in range(size - 256 - len(_FIM_TOKENS)))
    tokens = [*_byte_tokens(), *(text.replace(" ", "\u0120") for text in fillers), *_FIM_TOKENS]
    kinds = [_NORMAL] * (size - len(_FIM_TOKENS)) + [_CONTROL] * len(_FIM_TOKENS)
    keys = {
        key: value
        for key, value in header.metadata.items()
        if not key.startswith("tokenizer.") and not key.endswith(".vocab_size")
    }
    first = size - len(_FIM_TOKENS)
    return keys | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": array("i", kinds),
        "tokenizer.ggml.merges": ["\u0120 w"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.eos_token_id": first,
    }


def _byte_tokens() -> list[str]:
    """The 256 byte tokens in GPT-2's printable alphabet (bytes_to_unicode of its encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable}
    shown |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [shown[byte] for byte in range(256)]
