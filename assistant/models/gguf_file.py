"""Writing a GGUF: keys and values as raw bytes, tensors as streams.

What is copied from another file stays byte for byte what it was. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assistant.memory.gguf.reader import FileSource, Reader, read_value
from assistant.memory.gguf.tensor_types import GgmlType

_UINT32, _STRING = 4, 8  # gguf.h, enum gguf_type


class Sink(Protocol):
    """Whatever bytes can be written to: a file, or something that hashes on the way."""

    def write(self, content: bytes | memoryview, /) -> int: ...


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written; `data` yields its bytes in order, `size_bytes` in all.

    `shape` is in ggml's order, the contiguous dimension first.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    data: Iterable[bytes | memoryview]

    @property
    def size_bytes(self) -> int:
        return self.type.size_bytes(self.shape)


def uint32(value: int) -> bytes:
    """A value as the format wants it: its type, then its bytes."""
    return struct.pack("<II", _UINT32, value)


def string(text: str) -> bytes:
    """A value as the format wants it: its type, then its bytes."""
    return struct.pack("<I", _STRING) + _text(text)


def raw_values(path: Path) -> dict[str, bytes]:
    """Every key of a GGUF with its value as raw bytes, the value's type in front, in file order.

    Raises:
        GGUFError: the file is not a GGUF. Call `read_header` first: it checks the rest.
    """
    with FileSource(path) as source:
        reader = Reader(source)
        reader.take(4 + 4 + 8)  # magic, version, number of tensors
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(reader.uint64()):
            key = reader.raw_string(1 << 16, "a key").decode("utf-8", "replace")
            start = reader.position
            read_value(reader, key)
            spans[key] = (start, reader.position)
        return {key: source.read(start, stop - start) for key, (start, stop) in spans.items()}


def write(
    file: Sink, values: Mapping[str, bytes], tensors: Sequence[NewTensor], alignment: int
) -> Iterable[int]:
    """Write a whole GGUF to `file`; yields the bytes written so far after each piece.

    Raises:
        ValueError: a tensor's data is not as long as its shape and type say.
        OSError: the disk is full, or `file` cannot be written.
    """
    written = file.write(_head(values, tensors, alignment))
    for tensor in tensors:
        begin = written
        for piece in tensor.data:
            written += file.write(piece)
            yield written
        if written - begin != tensor.size_bytes:
            raise ValueError(
                f"{tensor.name}: {written - begin} bytes instead of {tensor.size_bytes}"
            )
        written += file.write(bytes(-written % alignment))
    yield written


def written_bytes(values: Mapping[str, bytes], tensors: Sequence[NewTensor], alignment: int) -> int:
    """How long the file that `write` makes will be."""
    data = sum(_padded(tensor.size_bytes, alignment) for tensor in tensors)
    return len(_head(values, tensors, alignment)) + data


def _head(values: Mapping[str, bytes], tensors: Sequence[NewTensor], alignment: int) -> bytes:
    pieces = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    pieces += [_text(key) + value for key, value in values.items()]
    offset = 0
    for tensor in tensors:
        pieces.append(_text(tensor.name))
        pieces.append(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        pieces.append(struct.pack("<IQ", tensor.type.number, offset))
        offset += _padded(tensor.size_bytes, alignment)
    head = b"".join(pieces)
    return head + bytes(-len(head) % alignment)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _padded(length: int, alignment: int) -> int:
    return length + -length % alignment
