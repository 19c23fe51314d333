"""Fuzzes the daemon at length: every operation of its OpenAPI description over the real wire, the
frames between daemon and worker, the remote engine with servers that answer wrongly, and the tests
of properties.

The same tests as in `make test`, with more and other examples each time. Prints JSON; `--save`
keeps it in tests/benchmarks/results/fuzz.json. `--only` leaves the other parts of that file as they
are. Schemas, grammars, messages and chat templates that are made up may raise only our own errors.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from head import head, publish

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests/benchmarks/results/fuzz.json"
PARTS = ("servers", "http", "frames", "requests", "templates", "properties")
HTTP, FRAMES = "tests/unit/daemon/test_openapi.py", "tests/unit/engine/test_frames_fuzz.py"
TIMES = 10
"""How many times as many examples as in `make test` the tests of properties try."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="of each operation")
    parser.add_argument("--streams", type=int, default=10_000, help="of mutated servers")
    parser.add_argument("--requests", type=int, default=10_000, help="schemas, grammars, messages")
    parser.add_argument("--templates", type=int, default=5000, help="chat templates")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", choices=PARTS, nargs="*", default=PARTS)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    old = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    result = old | head("fuzz") | {"examples_of_each_operation": options.examples}
    if "servers" in options.only:
        result["servers"] = _servers(options.seed, options.streams)
    if "http" in options.only:
        result["http"] = _http(options.examples)
    if "frames" in options.only:
        sys.path[:0] = [str(ROOT), str(ROOT / FRAMES.rpartition("/")[0])]
        frames: Any = importlib.import_module("test_frames_fuzz")
        result["frames"] = _run([FRAMES], {}) | {"mutated_frames": frames.CASES}
    if "requests" in options.only:
        result["requests"] = _made("fuzz", options.seed, options.requests)
    if "templates" in options.only:
        result["templates"] = _made("fuzz_templates", options.seed, options.templates)
    if "properties" in options.only:
        result["properties"] = _properties() | {"times_the_examples": TIMES}
    publish(result, RESULT, save=options.save)
    sys.exit(0 if all(result[part]["passed"] for part in options.only) else 1)


def _servers(seed: int, count: int) -> dict[str, Any]:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/equipment")]
    servers: Any = importlib.import_module("mutated_servers")
    started = time.monotonic()
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        found: dict[str, Any] = asyncio.run(servers.fuzz(seed, count))
    most_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {
        "passed": not found["wrong"],
        "seconds": round(time.monotonic() - started),
        "most_memory_mib": most_kib >> 10,
    }


def _made(what: str, seed: int, count: int) -> dict[str, Any]:
    """Made-up requests or templates, in this process."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/equipment")]
    requests: Any = importlib.import_module("made_requests")
    started = time.monotonic()
    found: dict[str, Any] = getattr(requests, what)(seed, count)
    seconds = round(time.monotonic() - started)
    return found | {"passed": not found["wrong"], "seconds": seconds}


def _http(examples: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        environment = {
            "UNDERKEEL_FUZZ_EXAMPLES": str(examples),
            "UNDERKEEL_FUZZ_REPORT": str(report),
        }
        http = _run([HTTP], environment)
        lines = report.read_text("utf-8").splitlines() if report.exists() else []
    modes = [_mode(json.loads(line)) for line in lines]
    return http | {"modes": modes, "requests": sum(mode["requests"] for mode in modes)}


def _properties() -> dict[str, Any]:
    """Every test file that imports `examples`."""
    tests = ROOT / "tests/unit"
    found = [str(path) for path in sorted(tests.rglob("test_*.py")) if _has_examples(path)]
    return _run(found, {"UNDERKEEL_EXAMPLES": str(TIMES)}) | {"files": len(found)}


def _has_examples(path: Path) -> bool:
    return "from examples import" in path.read_text("utf-8")


def _run(tests: list[str], environment: dict[str, str]) -> dict[str, Any]:
    started_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *tests, "--timeout", "3600"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=sys.stderr, check=False
    )
    return {"passed": done.returncode == 0, "seconds": round(time.monotonic() - started_s)}


def _mode(line: dict[str, Any]) -> dict[str, Any]:
    """One kind of requests: how many there were, and how they were answered."""
    statuses: Counter[str] = Counter()
    for answers in line["answers"].values():
        statuses.update(answers)
    return {
        "kind": line["requests"],
        "operations": len(line["answers"]),
        "requests": sum(statuses.values()),
        "answers_by_status": dict(sorted(statuses.items())),
    }


if __name__ == "__main__":
    main()
