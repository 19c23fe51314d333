"""Another program on the GPU: it takes memory through ggml's own allocator, and gives it back.

    python3 -m gpu_check.second_process DEVICE

Reads one JSON command a line, `{"bytes": N, "chunk": N, "within_s": S}`, and answers with one line
once it holds that many bytes, or could not get them in time. `SecondProcess` is the other end.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

from gpu_check.results import Row

_RETRY_S = 0.01


class SecondProcess:
    """Holds memory of a GPU in a process of its own, like a game or another model server."""

    def __init__(self, device: str, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._lock = threading.Lock()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "gpu_check.second_process", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    def hold(self, held_bytes: int, within_s: float = 10.0) -> Row:
        """Take or free memory until it holds so much.

        Returns:
            `held_bytes`, `seconds` it took, and how often an allocation was `refused`.
        """
        command = {"bytes": held_bytes, "chunk": self._chunk_bytes, "within_s": within_s}
        with self._lock:
            assert self._child.stdin is not None and self._child.stdout is not None
            self._child.stdin.write(json.dumps(command).encode() + b"\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the second process ended with {self._child.wait()}")
        return dict(json.loads(line))

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


class _Memory:
    def __init__(self, device: str) -> None:
        from llama_cpp import llama_cpp

        from assistant.llama import ggml

        ggml.initialise()
        library = llama_cpp._lib
        self._allocate = library.ggml_backend_buft_alloc_buffer
        self._allocate.restype = ctypes.c_void_p
        self._allocate.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._free = library.ggml_backend_buffer_free
        self._free.restype, self._free.argtypes = None, [ctypes.c_void_p]
        self._type = ggml.buffer_type(device)
        self._blocks: list[tuple[Any, int]] = []
        self.hold(1, 1, 1.0)  # the first allocation takes the driver's context as well
        self.hold(0, 1, 1.0)

    @property
    def held_bytes(self) -> int:
        return sum(size for _, size in self._blocks)

    def hold(self, wanted: int, chunk: int, within_s: float) -> Row:
        started, refused = time.monotonic(), 0
        while self.held_bytes > wanted:
            block, _ = self._blocks.pop()
            self._free(block)
        while self.held_bytes < wanted and time.monotonic() - started < within_s:
            size = min(chunk, wanted - self.held_bytes)
            block = self._allocate(self._type, size)
            if block:
                self._blocks.append((block, size))
            else:
                refused += 1
                time.sleep(_RETRY_S)
        seconds = round(time.monotonic() - started, 3)
        return {"held_bytes": self.held_bytes, "seconds": seconds, "refused": refused}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    memory = _Memory(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        answer = memory.hold(command["bytes"], command["chunk"], command["within_s"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
