"""Writes GGUF files: metadata as raw bytes, tensors as streams; and the starter mixture of experts.

What is copied from another file stays byte for byte the same. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.

A mixture of experts is made from a dense model by copying every feed-forward block into each
expert. The weights of the chosen experts sum to 1 and all experts of a layer are alike, so whatever
the router chooses, the result is the dense model's up to rounding. The target is llama.cpp's
`llama` architecture (Mixtral), whose rotary embedding pairs neighbouring elements where `qwen2`
pairs the two halves: the rows of query and key are reordered for it (the inverse of what conversion
does, llama.cpp, convert_hf_to_gguf.py: LlamaModel.permute). The result is the same bytes on every
machine: the router comes from Python's own generator, whose numbers are guaranteed to stay.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import byteorder
from typing import BinaryIO, Protocol

import numpy as np

from assistant.errors import ModelError
from assistant.memory.gguf import FileSource, Reader, read_value
from assistant.memory.gguf.header import BY_NUMBER, GgmlType, Header, Tensor, read_header
from assistant.models.catalogue import Upcycle
from assistant.models.fetch import Advance, disk_errors

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


_SOURCE_ARCHITECTURE, _TARGET_ARCHITECTURE = "qwen2", "llama"
_CHUNK_BYTES = 4 << 20
_FFN = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)\.weight")
_ROTARY = re.compile(r"blk\.\d+\.attn_([qk])\.(weight|bias)")
_NORM = re.compile(r"blk\.(\d+)\.ffn_norm\.weight")
_F32 = BY_NUMBER[0]


class _Hashed:
    """A file that remembers the SHA-256 of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes | memoryview) -> int:
        self.digest.update(content)
        return self._file.write(content)


class Upcycler:
    """One dense model about to become a mixture of `experts`, of which `used` work on a token.

    Attributes:
        size_bytes: how long the result will be.
    """

    def __init__(self, source: Path, recipe: Upcycle) -> None:
        """Read the source's header. `recipe.source` is not looked at: `source` is the file.

        Raises:
            GGUFError: the source is not a GGUF that can be trusted.
            ModelError: it is not a dense `qwen2` model.
        """
        self._source = source
        self._header = read_header(source)
        _check(self._header, recipe)
        self._recipe = recipe
        self._values = self._new_values()
        with disk_errors(source):
            file = os.open(source, os.O_RDONLY)
        try:  # only the sizes: nothing of the data is read here
            self.size_bytes = written_bytes(
                self._values, list(self._tensors(file)), self._header.alignment
            )
        finally:
            os.close(file)

    def write(self, target: Path, advance: Advance) -> str:
        """Write the model to `target`; returns its SHA-256.

        Raises:
            ModelError: the disk is full, or the source changed under our hands.
        """
        with disk_errors(target), target.open("wb") as out, self._source.open("rb") as source:
            hashed = _Hashed(out)
            tensors = list(self._tensors(source.fileno()))
            done = 0
            try:
                for written in write(hashed, self._values, tensors, self._header.alignment):
                    advance(written - done)
                    done = written
            except ValueError as error:
                raise ModelError(
                    f"the file changed while it was read ({error})", subject=str(self._source)
                ) from error
        return hashed.digest.hexdigest()

    def _new_values(self) -> dict[str, bytes]:
        header, recipe = self._header, self._recipe
        prefix = f"{_SOURCE_ARCHITECTURE}."
        values: dict[str, bytes] = {}
        for key, value in raw_values(self._source).items():
            if key.startswith(prefix):
                key = f"{_TARGET_ARCHITECTURE}.{key.removeprefix(prefix)}"  # noqa: PLW2901
            values[key] = value
        values["general.architecture"] = string(_TARGET_ARCHITECTURE)
        values["general.name"] = string(recipe.name)
        values[f"{_TARGET_ARCHITECTURE}.expert_count"] = uint32(recipe.experts)
        values[f"{_TARGET_ARCHITECTURE}.expert_used_count"] = uint32(recipe.used)
        values[f"{_TARGET_ARCHITECTURE}.rope.dimension_count"] = uint32(_head_size(header))
        values[f"{_TARGET_ARCHITECTURE}.vocab_size"] = uint32(_vocabulary_size(header))
        return values

    def _tensors(self, file: int) -> Iterator[NewTensor]:
        """The result's tensors in file order; their data is read from `file` when it is asked."""
        heads = {"q": self._header.integer("attention.head_count")}
        heads["k"] = self._header.integer("attention.head_count_kv", heads["q"])
        embedding = self._header.integer("embedding_length")
        experts = self._recipe.experts
        numbers = random.Random(self._recipe.seed)
        for tensor in self._header.tensors:
            if match := _FFN.fullmatch(tensor.name):
                yield NewTensor(
                    f"blk.{match[1]}.ffn_{match[2]}_exps.weight",
                    (*tensor.shape, experts),
                    tensor.type,
                    self._repeated(file, tensor, experts),
                )
                continue
            data = self._repeated(file, tensor, 1)
            if match := _ROTARY.fullmatch(tensor.name):
                data = self._reordered(file, tensor, heads[match[1]])
            yield NewTensor(tensor.name, tensor.shape, tensor.type, data)
            if match := _NORM.fullmatch(tensor.name):
                name = f"blk.{match[1]}.ffn_gate_inp.weight"
                router = _router(numbers, embedding * experts)
                yield NewTensor(name, (embedding, experts), _F32, [router])

    def _repeated(self, file: int, tensor: Tensor, times: int) -> Iterator[bytes]:
        start = self._header.data_offset + tensor.offset
        for _ in range(times):
            for offset in range(0, tensor.size_bytes, _CHUNK_BYTES):
                length = min(_CHUNK_BYTES, tensor.size_bytes - offset)
                yield os.pread(file, length, start + offset)

    def _reordered(self, file: int, tensor: Tensor, heads: int) -> Iterator[bytes]:
        """Rows of each head from halves to neighbours: 0, n/2, 1, n/2+1, ..."""
        content = b"".join(self._repeated(file, tensor, 1))
        rows = tensor.shape[-1]
        if len(content) != tensor.size_bytes:
            return  # cut short: `write` sees that bytes are missing
        table = np.frombuffer(content, np.uint8).reshape(heads, 2, rows // heads // 2, -1)
        yield np.ascontiguousarray(table.swapaxes(1, 2)).tobytes()


def _router(numbers: random.Random, count: int) -> bytes:
    """Weights between -1 and 1: any will do, but each token should have a favourite."""
    weights = array("f", [2.0 * numbers.random() - 1.0 for _ in range(count)])
    if byteorder == "big":
        weights.byteswap()
    return weights.tobytes()


def _check(header: Header, recipe: Upcycle) -> None:
    what = ""
    if header.architecture != _SOURCE_ARCHITECTURE:
        what = f"its architecture is {header.architecture!r}, not {_SOURCE_ARCHITECTURE!r}"
    elif len(header.parts) > 1:
        what = "it is split into several files"
    elif not any(_FFN.fullmatch(tensor.name) for tensor in header.tensors):
        what = "it has no feed-forward blocks"
    elif not 1 <= recipe.used <= recipe.experts:
        what = f"{recipe.used} of {recipe.experts} experts cannot be used"
    if what:
        raise ModelError(
            f"no mixture of experts can be made from this model: {what}",
            subject=header.path,
            advice="Take a dense Qwen2 or Qwen2.5 GGUF",
        )


def _head_size(header: Header) -> int:
    return header.integer("embedding_length") // max(header.integer("attention.head_count"), 1)


def _vocabulary_size(header: Header) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if hasattr(tokens, "__len__") else 0
