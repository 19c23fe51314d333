"""GPUs that are not there: a ggml backend library and an NVML library driven by one folder.

    machine = Machine(tmp_path / "gpus", [Gpu("SIM0", total_bytes=8 * GIB)])
    subprocess.run(..., env=machine.environment())
    machine.change("SIM0", others_bytes=6 * GIB)     # a game starts
    machine.usage()                                  # what our processes hold of it

Both libraries are built once with the C compiler and read the folder again at every question, so a
change is seen at once by every process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from pathlib import Path

import filelock
import llama_cpp

HERE = Path(__file__).parent
MIB = 1 << 20
GIB = 1 << 30

_FLAGS = "-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden"
_MAX_GPUS = 8  # as in gpus.h
_STAGES = ("weights", "kv", "compute", "driver")
_ROW = struct.Struct(f"<q{_MAX_GPUS * len(_STAGES)}q{3 * _MAX_GPUS}q")


class Stage(IntFlag):
    """What an allocation is for; a GPU can refuse each."""

    NONE = 0
    WEIGHTS = 1
    KV = 2
    COMPUTE = 4
    DRIVER = 8


class Compute(IntEnum):
    """How a graph ends on a GPU. CUDA's own errors are ABORT."""

    OK = 0
    FAIL = 1
    ALLOC_FAILED = 2
    ABORT = 3
    HANG = 4


@dataclass(frozen=True)
class Slice:
    """One MIG instance of a GPU."""

    total_bytes: int
    others_bytes: int = 0


@dataclass(frozen=True)
class Gpu:
    """A GPU as it is now.

    Attributes:
        others_bytes: what other programs hold.
        overstate_bytes: by how much the free memory that it reports is too high.
        context_bytes: taken by a process's first stream, until the process ends.
        pool_bytes: taken by its first graph; if they are refused, the process aborts.
        row_padding: quantised rows are padded to so many elements; 512 on CUDA.
        refuse: stages whose allocations are refused.
        refuse_after: refuse every allocation of a process from this one on; 0 never.
        compute, compute_after: how graphs end, once a process has run so many.
        slices: MIG instances; shown by NVML alone.
    """

    name: str
    total_bytes: int
    others_bytes: int = 0
    overstate_bytes: int = 0
    context_bytes: int = 0
    pool_bytes: int = 0
    row_padding: int = 0
    refuse: Stage = Stage.NONE
    refuse_after: int = 0
    compute: Compute = Compute.OK
    compute_after: int = 0
    lost: bool = False
    slices: tuple[Slice, ...] = ()

    def lines(self) -> list[str]:
        pairs = {
            item.name.removesuffix("_bytes"): int(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if item.name not in {"name", "slices"}
        }
        text = " ".join(f"{key}={value}" for key, value in pairs.items())
        slices = [
            f"slice {self.name} total={part.total_bytes} others={part.others_bytes}"
            for part in self.slices
        ]
        return [f"gpu {self.name} {text}", *slices]


@dataclass(frozen=True)
class Foreign:
    """A process of somebody else, as NVML lists it; -1 bytes where the driver does not tell.

    It is only listed: a GPU's `others_bytes` says how much all of them take.
    """

    gpu: str
    pid: int
    used_bytes: int


@dataclass(frozen=True)
class Usage:
    """What one process holds of one GPU, in bytes by stage, and what it did there."""

    pid: int
    gpu: str
    bytes_by_stage: dict[str, int]
    allocations: int
    refused: int
    graphs: int

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_by_stage.values())


@dataclass
class Machine:
    """A folder of simulated GPUs, written by the test and read by the libraries."""

    folder: Path
    gpus: Sequence[Gpu]
    driver_loaded: bool = True
    processes: Sequence[Foreign] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def environment(self) -> dict[str, str]:
        """This process's environment, and in it what makes a child see the GPUs."""
        libraries = build()
        paths = [str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        return {
            **os.environ,
            "UNDERKEEL_SIMCARDS": str(self.folder),
            "UNDERKEEL_GGML_BACKENDS": str(libraries / "libggml-simulated.so"),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths)),
            "GGML_NO_BACKTRACE": "1",  # or an abort waits for a debugger
        }

    def gpu(self, name: str) -> Gpu:
        return next(gpu for gpu in self.gpus if gpu.name == name)

    def change(self, name: str, **changes: object) -> None:
        """Set fields of a GPU; every process sees it at its next question."""
        self.gpu(name)
        self.gpus = [
            dataclasses.replace(gpu, **changes) if gpu.name == name else gpu  # type: ignore[arg-type]
            for gpu in self.gpus
        ]
        self._write()

    def driver(self, *, loaded: bool) -> None:
        self.driver_loaded = loaded
        self._write()

    def run(self, *processes: Foreign) -> None:
        """Set whose processes NVML lists beside our own."""
        self.processes = processes
        self._write()

    def usage(self) -> list[Usage]:
        """What each of our processes holds of each GPU."""
        return read_usage(self.folder)

    def used_bytes(self, name: str) -> int:
        """What all our processes hold of a GPU."""
        return sum(usage.total_bytes for usage in self.usage() if usage.gpu == name)

    def _write(self) -> None:
        lines = [f"driver loaded={int(self.driver_loaded)}"]
        for gpu in self.gpus:
            lines += gpu.lines()
        lines += [
            f"process {item.gpu} pid={item.pid} bytes={item.used_bytes}" for item in self.processes
        ]
        new = self.folder / "gpus.new"
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")
        new.replace(self.folder / "gpus")


def read_usage(folder: Path) -> list[Usage]:
    """The shared table. A process that has ended stays in it until a living one asks for memory."""
    table = folder / "usage"
    if not table.exists():
        return []
    lines = (folder / "gpus").read_text(encoding="utf-8").splitlines()
    names = [line.split()[1] for line in lines if line.startswith("gpu ")]
    return [
        usage
        for row in _ROW.iter_unpack(table.read_bytes())
        if row[0] > 0
        for usage in _row_usage(row, names)
    ]


def _row_usage(row: tuple[int, ...], names: Sequence[str]) -> list[Usage]:
    per_gpu = len(_STAGES)
    counters = row[1 + _MAX_GPUS * per_gpu :]
    return [
        Usage(
            pid=row[0],
            gpu=name,
            bytes_by_stage=dict(zip(_STAGES, row[1 + index * per_gpu :][:per_gpu], strict=True)),
            allocations=counters[index],
            refused=counters[_MAX_GPUS + index],
            graphs=counters[2 * _MAX_GPUS + index],
        )
        for index, name in enumerate(names)
    ]


def build() -> Path:
    """The folder with both libraries, built for the installed llama-cpp-python on first use."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError("the simulated GPUs need a C compiler (cc)")
    ggml = Path(llama_cpp.__file__).parent / "lib"
    sources = sorted([*HERE.glob("simgpu/*.[ch]"), *HERE.glob("nvml/*.[ch]")])
    digest = hashlib.sha256(f"{llama_cpp.__version__} {ggml}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"underkeel-equipment-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    done = folder / digest.hexdigest()[:16]
    with filelock.FileLock(folder / "lock"):
        if not done.exists():
            work = Path(tempfile.mkdtemp(dir=folder))
            shared = HERE / "simgpu" / "gpus.c"
            # linked by soname: the copies that llama_cpp has loaded already are used
            needed = [f"-L{ggml}", "-l:libggml-base.so.0", "-l:libggml.so.0"]
            _compile(compiler, work / "libggml-simulated.so", "simgpu/device.c", shared, needed)
            name = ["-Wl,-soname,libnvidia-ml.so.1"]
            _compile(compiler, work / "libnvidia-ml.so.1", "nvml/nvml.c", shared, name)
            work.rename(done)
    return done


def _compile(compiler: str, target: Path, source: str, shared: Path, extra: list[str]) -> None:
    command = [compiler, *_FLAGS.split(), f"-I{shared.parent}", "-o", str(target)]
    command += [str(HERE / source), str(shared), *extra]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"the simulated GPUs do not compile:\n{answer.stderr}")
