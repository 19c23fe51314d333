"""Small GGUFs that are sound, whole or split, for tests that need files and no model."""

from __future__ import annotations

import io
import struct

from assistant.memory.gguf.header import BY_NUMBER
from assistant.models.gguf_file import NewTensor, string, uint32, write


def tiny_gguf(seed: int = 0, tensors: int = 3, size: int = 4096) -> bytes:
    """A GGUF of `tensors` tensors of `size` F32 elements each."""
    return _gguf({}, range(tensors), seed, size)


def split_gguf(parts: int, seed: int = 0, size: int = 4096) -> list[bytes]:
    """One model in several files, one tensor each."""
    return [
        _gguf(
            {
                "split.no": struct.pack("<IH", 2, part),  # uint16, as gguf-split writes it
                "split.count": struct.pack("<IH", 2, parts),
                "split.tensors.count": struct.pack("<Ii", 5, parts),
            },
            range(part, part + 1),
            seed,
            size,
        )
        for part in range(parts)
    ]


def _gguf(extra: dict[str, bytes], numbers: range, seed: int, size: int) -> bytes:
    values = {
        "general.architecture": string("llama"),
        "general.name": string("Tiny"),
        "llama.block_count": uint32(1),
        **extra,
    }
    content = struct.pack("<f", float(seed)) * size
    tensors = [
        NewTensor(f"blk.{number}.attn_q.weight", (size,), BY_NUMBER[0], [content])
        for number in numbers
    ]
    file = io.BytesIO()
    for _ in write(file, values, tensors, 32):
        pass
    return file.getvalue()
