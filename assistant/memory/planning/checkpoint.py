"""Safetensors checkpoints: what their headers and config.json say, without a byte of weights.

Format: https://github.com/huggingface/safetensors: eight bytes of length, then JSON that names
each tensor's type, shape and place. A checkpoint is foreign input: lengths and counts are bounded.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from assistant.errors import GGUFError, ModelError
from assistant.memory.gguf import ByteSource, FileSource

if TYPE_CHECKING:
    import httpx

MAX_HEADER_BYTES = 100 << 20  # the format's own limit
MAX_FILES = 1_000
MAX_CONFIG_BYTES = 1 << 20
_LAYER = re.compile(r"^(?P<stem>.*?\blayers)\.(?P<index>\d{1,4})\.(?P<rest>.+)$")
_ROUTED = re.compile(r"\bexperts?\.")
_SHARED = re.compile(r"shared_experts?\.")
_DTYPE_BITS = re.compile(r"^(?:BOOL|[A-Z]+(?P<bits>\d{1,3})(?:_.*)?)$")
# What GPTQ and AWQ keep beside the packed weights: no parameters of the model.
_BESIDE = ("qzeros", "scales", "g_idx")


@dataclass(frozen=True, slots=True)
class CheckpointTensor:
    """One tensor; `shape` in PyTorch's order, `dtype` as safetensors names it ("BF16")."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes in its file; a type that is not known counts as 16 bits."""
        found = _DTYPE_BITS.match(self.dtype)
        bits = int(found["bits"] or 8) if found else 16
        return -(-self.parameters * bits // 8)

    @property
    def layer(self) -> int:
        """The decoder layer it belongs to; -1 outside."""
        found = _LAYER.match(self.name)
        return int(found["index"]) if found else -1

    @property
    def module(self) -> str:
        """Name of the decoder layer's module ("model.layers.3"); empty outside."""
        found = _LAYER.match(self.name)
        return f"{found['stem']}.{found['index']}" if found else ""

    @property
    def routed(self) -> bool:
        """Whether it belongs to the routed experts of its layer."""
        found = _LAYER.match(self.name)
        return bool(found and _ROUTED.search(found["rest"]) and not _SHARED.search(found["rest"]))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's tensors and its config."""

    name: str
    config: Mapping[str, Any]
    tensors: tuple[CheckpointTensor, ...]

    @property
    def parameters(self) -> int:
        return sum(self.weights(tensor) for tensor in self.tensors)

    @property
    def method(self) -> str:
        """How it is quantised already ("gptq"); empty where it is not."""
        return str(self._quantisation.get("quant_method") or "")

    @property
    def _quantisation(self) -> Mapping[str, Any]:
        lines = self.config.get("quantization_config")
        return lines if isinstance(lines, dict) else {}

    def weights(self, tensor: CheckpointTensor) -> int:
        """How many of the model's parameters a tensor holds: several in each packed word."""
        part = tensor.name.rpartition(".")[2]
        if part in _BESIDE:
            return 0
        bits = self._quantisation.get("bits", self._quantisation.get("w_bit", 4))
        if part == "qweight" and isinstance(bits, int) and 0 < bits <= 32:
            return tensor.parameters * 32 // bits
        return tensor.parameters

    @property
    def n_layer(self) -> int:
        return 1 + max((tensor.layer for tensor in self.tensors), default=-1)

    def number(self, *keys: str, default: int = 0) -> int:
        """The first of the config's integers that is there; looks into `text_config` too."""
        nested = self.config.get("text_config")
        for table in (self.config, nested if isinstance(nested, dict) else {}):
            for key in keys:
                value = table.get(key)
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
        return default


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a safetensors checkpoint."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a local checkpoint.

    Raises:
        ModelError: a file is missing or is not what it should be.
    """
    files = sorted(path.name for path in folder.glob("*.safetensors"))

    def opened(name: str) -> AbstractContextManager[ByteSource]:
        return FileSource(folder / name)

    return _read(str(folder), files, opened)


def read_remote_checkpoint(repository: str, client: httpx.Client | None = None) -> Checkpoint:
    """Read a Hugging Face repository's checkpoint by range requests.

    Raises:
        ModelError: it cannot be reached, holds no checkpoint, or a file is not what it should be.
    """
    # Here, not above: a start of the daemon needs no HTTP client.
    from assistant.http_client import hub_endpoint
    from assistant.memory.gguf.remote import RangeSource, http_client, list_files

    with http_client(client) as http:
        files = sorted(f for f in list_files(repository, http) if f.endswith(".safetensors"))
        files = [name for name in files if "/" not in name]

        @contextmanager
        def opened(name: str) -> Iterator[ByteSource]:
            yield RangeSource(http, f"{hub_endpoint()}/{repository}/resolve/main/{name}")

        return _read(repository, files, opened)


def parse_safetensors(source: ByteSource) -> Iterator[CheckpointTensor]:
    """The tensors that one file's header lists.

    Raises:
        ModelError: it is no safetensors file.
    """
    length = int.from_bytes(source.read(0, 8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, source.size_bytes - 8):
        raise _broken(source.name, f"its header would be {length} bytes long")
    try:
        header = msgspec.json.decode(source.read(8, length), type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(source.name, str(error)) from error
    for name, entry in entries.items():
        if any(size < 0 for size in entry.shape) or prod(entry.shape) >= 1 << 63:
            raise _broken(source.name, f"{name!r} cannot have the shape {entry.shape}")
        yield CheckpointTensor(name, entry.dtype, entry.shape)


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]


def _read(
    name: str, files: list[str], opened: Callable[[str], AbstractContextManager[ByteSource]]
) -> Checkpoint:
    if not files or len(files) > MAX_FILES:
        raise ModelError(
            f"there are {len(files)} safetensors files in it"
            if files
            else "it holds no GGUF and no safetensors",
            subject=name,
            advice="Name a model's folder or repository",
        )
    try:
        with opened("config.json") as source:
            text = source.read(0, MAX_CONFIG_BYTES).removeprefix(codecs.BOM_UTF8)
            config = msgspec.json.decode(text, type=dict[str, Any])
        tensors: list[CheckpointTensor] = []
        for file in files:
            with opened(file) as source:
                tensors += parse_safetensors(source)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(f"{name}: config.json", str(error)) from error
    except GGUFError as error:
        raise ModelError(error.message, subject=error.subject, advice=error.advice) from error
    return Checkpoint(name, config, tuple(tensors))


def _broken(name: str, why: str) -> ModelError:
    return ModelError(
        f"this is no safetensors checkpoint ({why})", subject=name, advice="Fetch it again"
    )
