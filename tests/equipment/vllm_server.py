"""A real vLLM on the CPU, serving a tiny checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from llama_server import Server

START_S = 300.0
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}


@contextlib.contextmanager
def serve(
    python: Path, model: Path, *flags: str, n_ctx: int = 2048, key: str = ""
) -> Iterator[Server]:
    """Run `vllm serve` on a free loopback port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python.parent / "vllm"), "serve", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max-model-len", str(n_ctx), "--enforce-eager", *flags]
    command += ["--served-model-name", "qwen2.5-coder-tiny"]
    if key:
        command += ["--api-key", key]
    path = f"{python.parent}:{os.environ['PATH']}"
    environment = {**os.environ, **_ENVIRONMENT, "PATH": path}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield Server(url, process.pid)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its engine's own processes
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: object) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)  # type: ignore[attr-defined]
            said = log.read().decode("utf-8", "replace")[-2000:]  # type: ignore[attr-defined]
            raise RuntimeError(f"vLLM ended with {process.returncode}: {said}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").status_code == httpx.codes.OK:
                return
        time.sleep(0.5)
    raise RuntimeError("vLLM did not answer in time")
