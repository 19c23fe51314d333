"""Processor time of a daemon that serves a model and gets no requests.

    python tests/benchmarks/idle.py [--model NAME] [--seconds N] [--runs N] [--save]

Starts a daemon of its own, waits until the last request is a minute ago, and counts processor time
and wake-ups of the daemon and its worker for N seconds. Prints JSON.

Where the machine itself rests, one wake-up costs up to 2 ms here, whatever is done in it: the share
of a core depends on the machine, the number of wake-ups does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from assistant import paths
from assistant.memory.sampler import QUIET_AFTER_S

RESULT = Path(__file__).with_name("results") / "idle.json"


def _spent_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _wake_ups(process: psutil.Process) -> int:
    """How often one of its threads slept and was run again. Linux."""
    count = 0
    for task in Path(f"/proc/{process.pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):  # it has ended
            lines = dict(line.partition(":")[::2] for line in task.read_text().splitlines())
            count += int(lines["voluntary_ctxt_switches"])
    return count


def measure(model: str, seconds: float) -> dict[str, object]:
    models = str(paths.models_dir())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.toml").write_text(f'[model]\nname = "{model}"\nn_ctx = 1024\n')
        underkeel = [sys.executable, "-m", "assistant"]
        environment = os.environ | {"UNDERKEEL_HOME": folder, "UNDERKEEL_MODELS": models}
        server = subprocess.Popen([*underkeel, "serve"], env=environment)
        try:
            limit_s = time.monotonic() + 120
            while not psutil.Process(server.pid).children(recursive=True):
                if time.monotonic() > limit_s:
                    raise TimeoutError("the worker did not start")
                time.sleep(0.5)
            time.sleep(QUIET_AFTER_S + 15)
            workers = psutil.Process(server.pid).children(recursive=True)
            daemon = psutil.Process(server.pid)
            before = [_spent_s(one) for one in (daemon, *workers)]
            woken = _wake_ups(daemon)
            started_s = time.monotonic()
            time.sleep(seconds)
            took_s = time.monotonic() - started_s
            after = [_spent_s(one) for one in (daemon, *workers)]
            woken = _wake_ups(daemon) - woken
        finally:
            server.terminate()
            server.wait(30)
    spent_s = [new - old for old, new in zip(before, after, strict=True)]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        "model": model,
        "seconds": round(took_s, 1),
        "daemon_percent_of_a_core": round(100 * spent_s[0] / took_s, 3),
        "worker_percent_of_a_core": round(100 * sum(spent_s[1:]) / took_s, 3),
        "daemon_wake_ups_a_second": round(woken / took_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter-moe")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    runs = [measure(chosen.model, chosen.seconds) for _ in range(chosen.runs)]
    text = json.dumps({"now": runs}, indent=2)
    if chosen.save:
        RESULT.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
