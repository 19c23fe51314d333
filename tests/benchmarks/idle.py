"""Processor time of a daemon that serves a model and gets no requests.

    python tests/benchmarks/idle.py MODEL [SECONDS]

Starts a daemon of its own, waits until the last request is a minute ago, and counts processor time
of the daemon and its worker for SECONDS (60). Prints JSON.
"""

from __future__ import annotations

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

from assistant.memory.probes.sampler import QUIET_AFTER_S


def _spent_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main(model: str, seconds: float = 60.0) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.toml").write_text(f'[model]\nname = "{model}"\nn_ctx = 1024\n')
        underkeel = [sys.executable, "-m", "assistant"]
        environment = os.environ | {"UNDERKEEL_HOME": folder}
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
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        "seconds": round(took_s, 1),
        "daemon_percent_of_a_core": round(100 * spent_s[0] / took_s, 3),
        "worker_percent_of_a_core": round(100 * sum(spent_s[1:]) / took_s, 3),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:3]))
