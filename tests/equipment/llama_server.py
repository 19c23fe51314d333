"""A real llama-server to measure against, built from the sources inside llama-cpp-python's sdist.

Built once into a cache folder outside the tree (about five minutes on two cores); needs cmake
and a C++ compiler. The sdist comes from the package index, the same version as the one
installed here.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import platformdirs

# As llama.vim's documentation recommends for a small machine.
FLAGS = ("-ub", "1024", "-b", "1024", "--cache-reuse", "256", "-np", "1", "--metrics")
_CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
)
# As in our own build: weights in ggml's AMX buffer crash (ggml-org/llama.cpp#20824).
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
START_S = 120.0


@dataclass(frozen=True)
class Server:
    """A running llama-server."""

    url: str
    pid: int


def cache() -> Path:
    version = importlib.metadata.version("llama-cpp-python")
    return platformdirs.user_cache_path("underkeel-test") / f"llama-server-{version}"


def build() -> Path:
    """The llama-server binary, built if it is not there yet."""
    binary = cache() / "build" / "bin" / "llama-server"
    if binary.exists():
        return binary
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(*command: str) -> None:
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        version = importlib.metadata.version("llama-cpp-python")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--no-build-isolation", "--no-binary", ":all:", "--dest", folder]
        run(*pip, f"llama-cpp-python=={version}")
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(Path(folder).glob("*/vendor/llama.cpp"))
        target = cache() / "build"
        flags = [f"-DCMAKE_{language}_FLAGS={_NO_AMX}" for language in ("C", "CXX")]
        options = flags if "amx_int8" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else []
        run("cmake", "-B", str(target), "-S", str(source), *_CMAKE, *options)
        run("cmake", "--build", str(target), "--target", "llama-server", "-j", str(os.cpu_count()))
    return binary


@contextlib.contextmanager
def serve(
    binary: Path, model: Path, n_ctx: int, threads: int, flags: tuple[str, ...] = FLAGS
) -> Iterator[Server]:
    """Run it on a free loopback port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-c", str(n_ctx), "-t", str(threads), *flags]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process)
            yield Server(url, process.pid)
        finally:
            process.terminate()
            process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with {process.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    raise RuntimeError("llama-server did not answer in time")
