"""What llama.cpp itself reports that a load would take, measured by a dry run in a child process.

llama.cpp ends its process over some impossible parameters, and a CUDA context costs some hundred
MiB of the GPU, so a dry run never happens in the caller's process. The child reads one `LoadSpec` a
line from stdin and writes one line of result: `python -m assistant.memory.planning.dry_run`.

A dry run needs a file, also for a model that is remote or only a shape: a skeleton is a GGUF whose
tensor data is a hole, so a model of 671 B parameters takes no disk.
"""

from __future__ import annotations

import os
import selectors
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from assistant import oom_score
from assistant.errors import EngineError, GGUFError, LoadError, UnderkeelError, from_wire
from assistant.llama import DeviceMemory, LoadSpec
from assistant.memory.gguf.header import DEFAULT_ALIGNMENT, Header, StringArray, Tensor
from assistant.memory.model.architecture import padded

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
    """The bytes of a header, padded to where the tensor data begins; offsets are recreated."""
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


_LOG_TAIL_BYTES = 1 << 16
_QUIET = {"GGML_NO_BACKTRACE": "1"}  # it would start a debugger to print one
_ADVICE = "Check that the file is a model that llama.cpp supports"

# A child that has not been used yet, with its log.
_spare: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []


def start_ahead() -> None:
    """Start the child of the next `DryRun` now: it imports llama.cpp while the caller imports."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the DryRun that takes it)
    try:
        _spare.append((_start_child(log), log))
    except OSError:  # the dry run itself reports what is wrong
        log.close()


def _start_child(log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "assistant.memory.planning.dry_run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=Path(__file__).parents[3],
        env={**os.environ, **_QUIET},
    )


class DryRunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the child found: memory, or an error as it goes over a wire."""

    memory: tuple[DeviceMemory, ...] = ()
    code: str = ""
    message: str = ""
    subject: str = ""
    advice: str = ""


class DryRun:
    """A child process for dry runs, started with the first of them.

    A context manager; closed for good when it ends.

    One dry run takes 20 to 40 ms, the child's start a second. Not for use by several threads.
    """

    def __init__(self, *, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._files: dict[int, tuple[Header, Path]] = {}
        self._results: dict[LoadSpec, tuple[DeviceMemory, ...]] = {}

    def run(self, spec: LoadSpec, header: Header | None = None) -> tuple[DeviceMemory, ...]:
        """What loading `spec` would take, by buffer type.

        Args:
            header: of a model that is not on this machine, or to spare reading a vocabulary: a
                file of the same shape without data stands in for `spec.path`.

        Raises:
            LoadError: llama.cpp refuses the model or died over it.
            EngineError: llama.cpp is not available here.
        """
        subject = spec.path
        path = self._skeleton(header) if header is not None else Path(spec.path).absolute()
        spec = msgspec.structs.replace(spec, path=str(path))
        if spec not in self._results:
            answer = self._exchange(spec, subject)
            if answer.code:
                raise from_wire(answer.code, answer.message, subject, answer.advice)
            self._results[spec] = answer.memory
        return self._results[spec]

    def close(self) -> None:
        """End the child and remove its files."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None
        self._log.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
            self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _skeleton(self, header: Header) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="underkeel-oracle-")
        if id(header) not in self._files:
            path = Path(self._folder.name) / f"{len(self._files)}.gguf"
            self._files[id(header)] = (header, write_skeleton(path, header))
        return self._files[id(header)][1]

    def _exchange(self, spec: LoadSpec, subject: str) -> DryRunResult:
        child = self._child or self._start()
        self._child = child
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(spec) + b"\n")
            child.stdin.flush()
            line = _read_line(child.stdout.fileno(), self._timeout_s)
        except (BrokenPipeError, TimeoutError):
            line = b""
        if line:
            return msgspec.json.decode(line, type=DryRunResult)
        child.kill()
        child.communicate()
        self._child = None
        raise LoadError(
            f"llama.cpp ended during the dry run of this load{self._last_words()}",
            subject=subject,
            advice=_ADVICE,
        )

    def _last_words(self) -> str:
        """The assertion that ended llama.cpp, if it left one."""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(end - _LOG_TAIL_BYTES, 0))
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        words = [line.strip() for line in lines if "ASSERT" in line or "error" in line.lower()]
        return f" ({words[-1]})" if words else ""

    def _start(self) -> subprocess.Popen[bytes]:
        while _spare:
            child, log = _spare.pop()
            if child.poll() is None:
                self._log.close()
                self._log = log
                return child
            log.close()
        try:
            return _start_child(self._log)
        except OSError as error:
            raise EngineError(
                f"a process for the dry run cannot be started ({error.strerror})",
                subject=sys.executable,
                advice="Free memory or processes, then try again",
            ) from error


def _read_line(descriptor: int, timeout_s: float) -> bytes:
    """One line; empty where the pipe was closed before it was whole.

    Raises:
        TimeoutError: nothing whole came in time.
    """
    line = bytearray()
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise TimeoutError
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                return b""
            line += piece
    return bytes(line)


def _serve() -> None:
    """The child's loop: answer each line until stdin ends."""
    oom_score.raise_to(oom_score.WORKER)
    # llama.cpp and its backends may print; only answers may reach the pipe.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    from assistant.llama import breakdown

    for line in sys.stdin.buffer:
        try:
            memory = breakdown.dry_run(msgspec.json.decode(line, type=LoadSpec))
            answer = DryRunResult(memory=memory)
        except UnderkeelError as error:
            answer = DryRunResult(
                code=error.code, message=error.message, subject=error.subject, advice=error.advice
            )
        answers.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    _serve()
