"""The header of a GGUF file: its metadata and its table of tensors, without a byte of weights.

A GGUF is foreign input. Every count and length is bounded before anything is allocated for it, and
every defect becomes a `GGUFError`. The checks are those of llama.cpp's own reader
(ggml/src/gguf.cpp), so that what passes here is not refused there for its form.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Tensor types:
`enum ggml_type` in ggml.h and the block structs of ggml-common.h; missing numbers belong to types
that ggml has removed.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from assistant.errors import GGUFError
from assistant.memory.gguf import (
    ByteSource,
    BytesSource,
    FileSource,
    Reader,
    StringArray,
    read_value,
)


class GgmlType(NamedTuple):
    """One tensor type: `block_bytes` for every `block_elements` consecutive elements of a row."""

    number: int
    name: str
    block_elements: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_elements

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this `shape` (ggml's order: the first dimension is contiguous).

        Raises:
            ValueError: a row is not a whole number of blocks.
        """
        if shape and shape[0] % self.block_elements:
            raise ValueError(f"{shape[0]} is no multiple of {self.name}'s {self.block_elements}")
        return prod(shape) // self.block_elements * self.block_bytes


_ALL = (
    GgmlType(0, "f32", 1, 4),
    GgmlType(1, "f16", 1, 2),
    GgmlType(2, "q4_0", 32, 18),
    GgmlType(3, "q4_1", 32, 20),
    GgmlType(6, "q5_0", 32, 22),
    GgmlType(7, "q5_1", 32, 24),
    GgmlType(8, "q8_0", 32, 34),
    GgmlType(9, "q8_1", 32, 36),
    GgmlType(10, "q2_K", 256, 84),
    GgmlType(11, "q3_K", 256, 110),
    GgmlType(12, "q4_K", 256, 144),
    GgmlType(13, "q5_K", 256, 176),
    GgmlType(14, "q6_K", 256, 210),
    GgmlType(15, "q8_K", 256, 292),
    GgmlType(16, "iq2_xxs", 256, 66),
    GgmlType(17, "iq2_xs", 256, 74),
    GgmlType(18, "iq3_xxs", 256, 98),
    GgmlType(19, "iq1_s", 256, 50),
    GgmlType(20, "iq4_nl", 32, 18),
    GgmlType(21, "iq3_s", 256, 110),
    GgmlType(22, "iq2_s", 256, 82),
    GgmlType(23, "iq4_xs", 256, 136),
    GgmlType(24, "i8", 1, 1),
    GgmlType(25, "i16", 1, 2),
    GgmlType(26, "i32", 1, 4),
    GgmlType(27, "i64", 1, 8),
    GgmlType(28, "f64", 1, 8),
    GgmlType(29, "iq1_m", 256, 56),
    GgmlType(30, "bf16", 1, 2),
    GgmlType(34, "tq1_0", 256, 54),
    GgmlType(35, "tq2_0", 256, 66),
    GgmlType(39, "mxfp4", 32, 17),
    GgmlType(40, "nvfp4", 64, 36),
    GgmlType(41, "q1_0", 128, 18),
    GgmlType(42, "q2_0", 64, 18),
)

BY_NUMBER = {kind.number: kind for kind in _ALL}
BY_NAME = {kind.name: kind for kind in _ALL}

# What llama.cpp accepts as --cache-type-k and --cache-type-v (common/arg.cpp, kv_cache_types).
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


__all__ = ["Header", "StringArray", "Tensor", "read_bytes", "read_header", "read_parts"]

MAX_TENSORS = 100_000
MAX_KEYS = 10_000
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 63  # GGML_MAX_NAME counts the closing zero
MAX_DIMENSIONS = 4
MAX_PARTS = 1_000
DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_SPLIT_NAME = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$")

Opener = Callable[[str], AbstractContextManager[ByteSource]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the tensor table.

    Attributes:
        shape: in ggml's order, the contiguous dimension first: a matrix of `n_in` inputs and
            `n_out` outputs is `(n_in, n_out)`; a stack of experts is `(n_in, n_out, n_expert)`.
        offset: bytes from the start of the data section of its part.
        part: index of the file it lies in; 0 unless the model is split.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    part: int = 0

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes without padding."""
        return self.type.size_bytes(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF says about itself.

    Attributes:
        path: the first file, as a path or a URL.
        version: of the format, 2 or 3.
        architecture: `general.architecture`; empty where the file does not say.
        metadata: every key; numbers, bools and strings as themselves, arrays of numbers as
            `array.array`, arrays of strings as `StringArray`.
        tensors: the tables of all parts, in file order.
        alignment: bytes to which each tensor's data is padded in the file.
        data_offset: where the first part's tensor data begins.
        file_bytes: all parts together.
        parts: the files of a split model, or just the one.
    """

    path: str
    version: int
    architecture: str
    metadata: Mapping[str, object]
    tensors: tuple[Tensor, ...]
    alignment: int
    data_offset: int
    file_bytes: int
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """`general.name`, or the file's stem."""
        name = self.metadata.get("general.name")
        return name if isinstance(name, str) and name else Path(self.path).stem

    def get(self, key: str) -> object | None:
        """The architecture's own `key`: `get("block_count")` reads `qwen2.block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str, default: int = 0) -> int:
        """The architecture's own integer `key`; `default` where it is absent or no integer."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    def integers(self, key: str, count: int, default: int = 0) -> tuple[int, ...]:
        """A key that may be one integer for all layers, or an array with one for each.

        A shorter array is continued with `default`.
        """
        value = self.get(key)
        if isinstance(value, int):
            return (int(value),) * count
        if not isinstance(value, array) or value.typecode in "fd":
            return (default,) * count
        found = [int(item) for item in value[:count]]
        return tuple(found + [default] * (count - len(found)))


def read_header(path: str | Path) -> Header:
    """Read the header of a local GGUF; of a split model, those of all its parts.

    Any part of a split model may be named; `Header.path` is always the first.

    Raises:
        GGUFError: the file is not a GGUF that can be trusted, is cut short, or a part is missing.
    """
    return read_parts(str(path), lambda name: FileSource(Path(name)))


def read_bytes(data: bytes, name: str = "<bytes>") -> Header:
    """Read a header from memory, with the errors of `read_header`."""
    return read_parts(name, lambda _: nullcontext(BytesSource(data, name)))


def read_parts(name: str, open_source: Opener) -> Header:
    """Read the header of a model whose parts `open_source` opens by name: paths or URLs."""
    with open_source(name) as source:
        header = _parse(source)
    count = _split_count(header)
    if count <= 1:
        return header
    names = _part_names(name, count)
    if names[0] != name:
        with open_source(names[0]) as source:
            header = _parse(source)
    return _join(header, names, open_source)


def _split_count(header: Header) -> int:
    count = header.metadata.get("split.count", 1)
    if not isinstance(count, int) or not 0 <= count <= MAX_PARTS:
        raise GGUFError(f"split.count is {count!r}", subject=header.path)
    return count


def _part_names(name: str, count: int) -> tuple[str, ...]:
    match = _SPLIT_NAME.match(name)
    if match is None or int(match["count"]) != count:
        raise GGUFError(
            f"the model has {count} parts, but the name does not end in -00001-of-{count:05}.gguf",
            subject=name,
            advice="Give the parts back the names they were published under",
        )
    return tuple(f"{match['stem']}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1))


def _join(first: Header, names: tuple[str, ...], open_source: Opener) -> Header:
    """The header of all parts: the metadata of the first, the tensors and bytes of each."""
    tensors: dict[str, Tensor] = {}
    file_bytes = 0
    for index, name in enumerate(names):
        part = first
        if index:
            with open_source(name) as source:
                part = _parse(source)
        if part.metadata.get("split.no") != index or _split_count(part) != len(names):
            raise GGUFError(f"this is not part {index + 1} of {len(names)}", subject=name)
        for tensor in part.tensors:
            if tensor.name in tensors:
                raise GGUFError(f"the tensor {tensor.name!r} is in two parts", subject=name)
            tensors[tensor.name] = replace(tensor, part=index)
        file_bytes += part.file_bytes
    promised = first.metadata.get("split.tensors.count", len(tensors))
    if promised != len(tensors):
        raise GGUFError(
            f"the parts hold {len(tensors)} tensors, {promised} were promised", subject=first.path
        )
    return replace(first, tensors=tuple(tensors.values()), file_bytes=file_bytes, parts=names)


def _parse(source: ByteSource) -> Header:
    reader = Reader(source)
    version = _read_version(reader)
    n_tensors = reader.uint64()
    n_keys = reader.uint64()
    if n_tensors > MAX_TENSORS:
        reader.fail(f"the header claims {n_tensors} tensors, more than {MAX_TENSORS}")
    if n_keys > MAX_KEYS:
        reader.fail(f"the header claims {n_keys} keys, more than {MAX_KEYS}")
    metadata = _read_metadata(reader, n_keys)
    alignment = _alignment(reader, metadata)
    tensors = _read_tensors(reader, n_tensors)
    data_offset = _padded(reader.position, alignment)
    _check_layout(reader, tensors, alignment, source.size_bytes - data_offset)
    architecture = metadata.get("general.architecture")
    return Header(
        path=source.name,
        version=version,
        architecture=architecture if isinstance(architecture, str) else "",
        metadata=MappingProxyType(metadata),
        tensors=tensors,
        alignment=alignment,
        data_offset=data_offset,
        file_bytes=source.size_bytes,
        parts=(source.name,),
    )


def _read_version(reader: Reader) -> int:
    if reader.room() < 24 or reader.take(4) != b"GGUF":
        reader.fail("this is not a GGUF file", "Name a model in the GGUF format")
    version = reader.uint32()
    if version & 0xFFFF == 0:
        reader.fail("this GGUF is big-endian", "Convert it with gguf_convert_endian.py")
    if version not in (2, 3):
        reader.fail(f"GGUF version {version} is not supported, only 2 and 3")
    return version


def _read_metadata(reader: Reader, count: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(count):
        key = reader.raw_string(MAX_KEY_BYTES, "a key").decode("utf-8", "replace")
        if not key or key in metadata:
            reader.fail(f"the key {key!r} is empty or occurs twice")
        metadata[key] = read_value(reader, key)
    return metadata


def _alignment(reader: Reader, metadata: Mapping[str, object]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if (
        not isinstance(alignment, int)
        or not 0 < alignment <= _MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        reader.fail(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _read_tensors(reader: Reader, count: int) -> tuple[Tensor, ...]:
    tensors: dict[str, Tensor] = {}
    for _ in range(count):
        name = reader.raw_string(MAX_NAME_BYTES, "a tensor's name").decode("utf-8", "replace")
        if name in tensors:
            reader.fail(f"the tensor {name!r} occurs twice")
        n_dimensions = reader.uint32()
        if n_dimensions > MAX_DIMENSIONS:
            reader.fail(f"the tensor {name!r} claims {n_dimensions} dimensions")
        shape = tuple(reader.uint64() for _ in range(n_dimensions))
        number = reader.uint32()
        kind = BY_NUMBER.get(number)
        if kind is None:
            reader.fail(
                f"the tensor {name!r} has the type {number}, which this version does not know",
                "Use a file quantised for a current llama.cpp",
            )
        if prod(shape) >= 1 << 63 or (shape[0] if shape else 1) % kind.block_elements:
            reader.fail(f"the tensor {name!r} cannot have the shape {shape} in {kind.name}")
        tensors[name] = Tensor(name, shape, kind, reader.uint64())
    return tuple(tensors.values())


def _check_layout(
    reader: Reader, tensors: tuple[Tensor, ...], alignment: int, data_bytes: int
) -> None:
    """Tensors stand one after the other, padded, and within the file."""
    expected = 0
    for tensor in tensors:
        if tensor.offset != expected:
            reader.fail(f"the tensor {tensor.name!r} is at {tensor.offset}, expected at {expected}")
        if tensor.offset + tensor.size_bytes > data_bytes:
            reader.fail(
                f"the file is cut short: {tensor.name!r} ends {tensor.offset + tensor.size_bytes} "
                f"bytes into the data, the file has {max(data_bytes, 0)}",
                "Fetch it again; the download is not complete",
            )
        expected += _padded(tensor.size_bytes, alignment)


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment
