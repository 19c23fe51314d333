"""Processor time of a daemon that serves a model and gets no requests.

    python tests/benchmarks/idle.py [--model NAME] [--seconds N] [--save]

Starts a daemon of its own, waits until the last request is a minute ago, and counts processor time
of the daemon and its worker for N seconds. Prints JSON.
"""

from __future__ import annotations

import argparse
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
            started_s = time.monotonic()
            time.sleep(seconds)
            took_s = time.monotonic() - started_s
            after = [_spent_s(one) for one in (daemon, *workers)]
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
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter-moe")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    text = json.dumps({"now": measure(chosen.model, chosen.seconds)}, indent=2)
    if chosen.save:
        RESULT.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
