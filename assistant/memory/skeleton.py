"""A header written out as a GGUF whose tensor data is a hole: a 671 B model takes no disk.

llama.cpp's dry run wants a file, also for a model that is still far away or only a shape.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from pathlib import Path

from assistant.errors import GGUFError
from assistant.memory.gguf import DEFAULT_ALIGNMENT, Header, StringArray, Tensor
from assistant.memory.kv import padded

_CODES = {"B": 0, "b": 1, "H": 2, "h": 3, "I": 4, "i": 5, "f": 6, "Q": 10, "q": 11, "d": 12}


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(item: object) -> bytes:
    """A metadata value with its type, as GGUF writes it."""
    match item:
        case bool():
            return struct.pack("<IB", 7, item)
        case int() if 0 <= item < 1 << 32:
            return struct.pack("<II", 4, item)
        case int():
            return struct.pack("<Iq", 11, item)
        case float():
            return struct.pack("<If", 6, item)
        case str():
            return struct.pack("<I", 8) + _string(item)
        case array():
            return struct.pack("<IIQ", 9, _CODES[item.typecode], len(item)) + item.tobytes()
        case StringArray():
            return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(_string, item.raws()))
        case list() | tuple():
            return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(_string, item))
    raise TypeError(type(item))


def encode(
    metadata: Mapping[str, object], tensors: tuple[Tensor, ...], *, version: int = 3
) -> bytes:
    """The bytes of a header, padded to where the tensor data begins; offsets are made anew."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, item in metadata.items():
        out += _string(key) + _value(item)
    offset = 0
    for tensor in tensors:
        out += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        out += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        out += struct.pack("<IQ", tensor.type.number, offset)
        offset += padded(tensor.size_bytes, DEFAULT_ALIGNMENT)
    return bytes(out) + bytes(-len(out) % DEFAULT_ALIGNMENT)


def write_skeleton(path: Path, header: Header) -> Path:
    """Write `header` without its vocabulary, with tensor data that is all hole (reads as zeros).

    Raises:
        GGUFError: the file cannot be written.
    """
    raw = encode(_without_vocabulary(header), header.tensors)
    data = sum(padded(tensor.size_bytes, DEFAULT_ALIGNMENT) for tensor in header.tensors)
    try:
        with path.open("wb") as file:
            file.write(raw)
            file.truncate(len(raw) + data)
    except OSError as error:
        raise GGUFError(
            f"a file for the dry run cannot be written ({error.strerror})",
            subject=str(path),
            advice="Point TMPDIR to a file system with sparse files",
        ) from error
    return path


def _without_vocabulary(header: Header) -> dict[str, object]:
    """The metadata less the tokenizer, which takes most of the time of a dry run."""
    keys = {
        key: item
        for key, item in header.metadata.items()
        if not key.startswith(("tokenizer.", "split."))
    }
    keys["tokenizer.ggml.model"] = "no_vocab"
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, StringArray):
        keys[f"{header.architecture}.vocab_size"] = len(tokens)
    return keys
