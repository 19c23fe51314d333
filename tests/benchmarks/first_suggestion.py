"""How long it takes from `git clone` to the first suggestion, with nothing cached.

    python tests/benchmarks/first_suggestion.py [--commit main] [--folder DIR] [--save]

Clones this repository and runs `make demo` there with an empty home and an empty package cache, so
that llama.cpp is compiled and the starter model is downloaded and built. Takes ten minutes or more,
and the network. The times include whatever else the machine did then; the CPU seconds are this
run's own, so the compiler's part can be compared between a calm and a busy machine.

Prints JSON; `--save` also writes it to tests/benchmarks/results/first_suggestion.json.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from head import head, publish

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests" / "benchmarks" / "results" / "first_suggestion.json"
_COST = re.compile(r"^  \S+:\d+ .* tokens +([\d,]+) ms")
_ENDED = re.compile(r"^([A-Za-z][\w. -]{2,40}): done \(")


def measure(commit: str, folder: Path) -> dict[str, Any]:
    """Seconds since the start at which each part had ended, and what the whole cost."""
    result = head("first_suggestion", nice=os.nice(0))
    clone, home = folder / "clone", folder / "home"
    home.mkdir(parents=True)
    started = time.monotonic()
    subprocess.run(["git", "clone", "-q", f"file://{ROOT}", str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "-q", commit], check=True)
    ends = {"git clone": round(time.monotonic() - started, 1)}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("UNDERKEEL")},
        "HOME": str(home),
        "PIP_CACHE_DIR": str(folder / "cache"),
    }
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "XDG_CACHE_HOME", "XDG_DATA_HOME", "MAKEFLAGS"):
        environment.pop(name, None)
    lines: list[tuple[float, str]] = []
    loads: list[float] = []
    with subprocess.Popen(
        ["make", "demo", f"PYTHON={sys.executable}"],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = round(time.monotonic() - started, 1)
            lines.append((now, line.rstrip()))
            loads.append(os.getloadavg()[0])
            print(f"{now:7.1f}  {line}", end="", file=sys.stderr)
            if found := _ENDED.match(line):
                ends[found[1]] = now
            elif "loaded in" in line:
                ends["model loaded"] = now
            elif (found := _COST.match(line)) and "first suggestion" not in ends:
                waited_s = int(found[1].replace(",", "")) / 1000
                ends["first suggestion"] = round(ends.get("model loaded", now) + waited_s, 1)
    ends["make demo"] = round(time.monotonic() - started, 1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = (clone / ".venv" / "setup.log").read_text(encoding="utf-8", errors="replace")
    return {
        **result,
        "commit": commit,
        "exit_status": process.returncode,
        "ended_after_s": ends,
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "compiled_files": max(map(int, re.findall(r"(?m)^ *\[\d+/(\d+)\]", log)), default=0),
        "load_average": {"least": round(min(loads), 1), "most": round(max(loads), 1)},
        "output": [f"{now:.1f} {text}" for now, text in lines if text],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--folder", type=Path, help="keep the clone there (must not exist)")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", options.commit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="underkeel-first-"))
    try:
        result = measure(commit, folder.absolute())
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    publish(result, RESULT, save=options.save)
    sys.exit(result["exit_status"])


if __name__ == "__main__":
    main()
