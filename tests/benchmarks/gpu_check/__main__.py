"""Runs the parts of the check one after another and keeps what they find.

    python3 -m gpu_check [--simulated] [--bundle FOLDER] [--parts build memory headroom speed]

Standard library only. The exit status is 0 where every part ran and every goal that was measured
holds; a simulated run does not fail over goals that depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from gpu_check import build, page
from gpu_check.results import PARTS, Config, Results, Row

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
RESULTS = HERE.parent / "results" / "gpu"

LIMITS_S = {"build": 300.0, "memory": 170.0, "headroom": 170.0, "speed": 130.0}
"""Of each part: 13 minutes together, and any two neighbours less than 10."""

_MODELS_BYTES = 48 << 30  # the largest model, and one more while its plans are measured
_GRACE_S = 5.0
_TAIL_LINES = 20


def main() -> int:
    wanted = _arguments()
    results = Results(wanted.results / f"{wanted.name}.json")
    results.data |= _facts(wanted)
    scratch: Path = wanted.scratch.resolve()
    models: Path = wanted.models or _models_folder(scratch, simulated=wanted.simulated)
    for folder in (scratch, models):
        folder.mkdir(parents=True, exist_ok=True)
    ends_s = time.monotonic() + wanted.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gpu-check: ended from outside"))
    for name in wanted.parts:
        seconds = min(LIMITS_S[name], ends_s - time.monotonic())
        entry = results.start(name, round(seconds, 1))
        if seconds < _GRACE_S:
            entry["state"] = "not run: the time was used up"
            continue
        config = Config(
            simulated=wanted.simulated,
            scratch=str(scratch),
            models=str(models),
            seconds=seconds,
            bundle=str(wanted.bundle.resolve()) if wanted.bundle else "",
        )
        print(f"{name}: at most {seconds:.0f} s", flush=True)
        started = time.monotonic()
        try:
            entry["state"] = _run(name, config, entry, results)
        except BaseException:
            entry["state"] = "interrupted"
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - started, 1)
            results.data["llama_cpp_python"] = _library(config)
            results.save()
        print(f"{name}: {entry['state']} ({entry['seconds']:.0f} s)", flush=True)
        if name == "build" and entry["state"] != "done":
            break
    if PARTS[-1] in wanted.parts:
        for path in models.glob("*.gguf"):
            path.unlink()
    results.save()
    return _verdict(results, wanted)


def _models_folder(scratch: Path, *, simulated: bool) -> Path:
    """Where models are written: in memory where that has room for two of them, else on the disk."""
    try:
        roomy = shutil.disk_usage("/dev/shm").free >= _MODELS_BYTES
    except OSError:
        roomy = False
    return Path("/dev/shm/underkeel-gpu-check") if roomy and not simulated else scratch


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--simulated", action="store_true", help="run on a simulated GPU")
    parser.add_argument("--bundle", type=Path, help="made by `make gpu-bundle`")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=780.0, help="for all parts together")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "gpu-check")
    parser.add_argument("--models", type=Path, help="for 45 GB of models; default: in memory")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="", help="of the result files; default: the GPU's")
    wanted = parser.parse_args()
    wanted.name = wanted.name or _name(simulated=wanted.simulated)
    return wanted


def _name(*, simulated: bool) -> str:
    if simulated:
        return "simulated"
    gpus = build.gpu_facts()
    if not gpus:
        sys.exit("gpu-check: nvidia-smi shows no GPU. Try: make gpu-check SIMULATED=1")
    return "-".join("".join(c if c.isalnum() else " " for c in gpus[0]["name"].lower()).split())


def _facts(wanted: argparse.Namespace) -> Row:
    given = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    return {
        "simulated": wanted.simulated,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "make gpu-check SIMULATED=1"
        if wanted.simulated
        else shlex.join(["make", "gpu-check", *given]),
        "machine": {
            "gpus": [] if wanted.simulated else build.gpu_facts(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "load_average_before": round(os.getloadavg()[0], 1),
        },
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _python(config: Config) -> str:
    """The Python with the packages: the one that was installed from a bundle, or this one."""
    own = build.python_of(config)
    return str(own) if config.bundle and own.exists() else sys.executable


def _library(config: Config) -> str:
    code = "from importlib.metadata import version; print(version('llama-cpp-python'))"
    answer = subprocess.run(
        [_python(config), "-c", code], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def _run(name: str, config: Config, entry: Row, results: Results) -> str:
    """Run one part in a process group of its own; returns its state."""
    python = sys.executable if name == "build" else _python(config)
    paths = [str(ROOT), str(HERE.parent), str(HERE.parents[1] / "equipment")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's order, so that the first GPU is the same one
        "OMP_WAIT_POLICY": "passive",  # as the product's own worker has it
    }
    log = config.folder / f"{name}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [python, "-m", f"gpu_check.{name}", config.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=environment,
        )
        try:
            in_time = _collect(process, config, entry, results)
        finally:
            _end(process)
    if not in_time:
        state = "out of time"
    elif process.returncode == 0:
        return "done"
    else:
        state = f"failed with exit status {process.returncode}"
    entry["log_tail"] = log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    return state


def _collect(
    process: subprocess.Popen[bytes], config: Config, entry: Row, results: Results
) -> bool:
    """Keep each row as it comes; False where the part did not end in time."""
    assert process.stdout is not None
    ends_s = time.monotonic() + config.seconds + _GRACE_S
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(ends_s - time.monotonic(), 0)):
                return False
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                entry["rows"].append(json.loads(line))
            if lines:
                results.save()
    try:
        process.wait(max(ends_s - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the part and what it started; the workers end with their input."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _verdict(results: Results, wanted: argparse.Namespace) -> int:
    parts = results.data["parts"]
    failed = [name for name in wanted.parts if parts.get(name, {}).get("state") != "done"]
    for goal in page.goals(results.data):
        mark = {True: "ok  ", False: "FAIL", None: "-   "}[goal.holds]
        print(f"{mark} {goal.name}: {goal.seen}")
        if goal.holds is False and not (goal.timed and wanted.simulated):
            failed.append(goal.name)
    print(f"results: {results.path.with_suffix('.md')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
