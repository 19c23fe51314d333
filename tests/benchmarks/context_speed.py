"""What a keystroke costs in a file of 5,000 lines, and what indexing 2,000 files takes.

    python tests/benchmarks/context_speed.py            # prints JSON, writes results/

Both on real, installed Python, with the starter model's own vocabulary. A keystroke is the edit and
the prompt; most keep the head, the others parse what changed and build a new one, and the
percentiles are over all of them, on the clock and on the processor: the second is the figure where
others use the machine too. What an incremental parse would cost at each key stands beside it: the
worst are those in an open string, which reaches to the end of the file. Indexing runs in a process
of its own for its peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

import context
from assistant import paths
from assistant.models import families, vocabulary

SITE = Path(httpx.__file__).resolve().parents[1]
LARGE = "huggingface_hub/hf_api.py"
LINES = 5000
FILES = 2000
MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
RESULT = Path(__file__).with_name("results") / "context_speed.json"


def keystrokes(budget: int, count: int, scratch: str) -> dict[str, Any]:
    """Type real lines again at random places of a real file, a character at a time."""
    text = "".join((SITE / LARGE).read_text(encoding="utf-8").splitlines(keepends=True)[:LINES])
    words = vocabulary.load(paths.models_dir() / MODEL)
    layout = families.layout_for(words)
    assert layout is not None
    # A copy: what is installed may be in a folder that git ignores, and is not read there.
    site = Path(scratch)
    shutil.copytree(SITE / "huggingface_hub", site / "huggingface_hub", dirs_exist_ok=True)
    workspace = context.Workspace([site / "huggingface_hub"], words, layout, words.special)
    workspace.index.refresh()
    document = workspace.open(site / LARGE, text)
    started = time.perf_counter()
    assert document.source is not None and document.source.tree.root is not None
    parse_ms = (time.perf_counter() - started) * 1000
    rng = random.Random(4)
    took: dict[str, list[float]] = {}
    everything: list[float] = []
    processors: list[float] = []
    parses: list[float] = []
    starts = [at + 1 for at in range(len(text) - 1) if text[at] == "\n"]
    while len(everything) < count:
        at = rng.choice(starts[50:-50])
        spell = text[at : at + 240]  # typed once more where it stands
        at = len(document.text[:at].encode("utf-8"))
        for char in spell:
            started, cpu = time.perf_counter(), time.thread_time()
            document.edit(at, at, char)
            at += len(char.encode("utf-8"))
            workspace.prompt(document, at, budget)
            processor = (time.thread_time() - cpu) * 1000
            everything.append((time.perf_counter() - started) * 1000)
            processors.append(processor)
            took.setdefault(workspace.head_reason(document).name, []).append(processor)
            cpu = time.thread_time()
            assert document.source.tree.root is not None
            parses.append((time.thread_time() - cpu) * 1000)
        document.replace(text)
    return {
        "file": LARGE, "lines": LINES, "bytes": len(text.encode("utf-8")), "budget": budget,
        "keystrokes": len(everything), "first_parse_ms": round(parse_ms, 2),
        "ms": percentiles(everything), "processor_ms": percentiles(processors),
        "parse_processor_ms": percentiles(parses),
        "processor_ms_by_head": {name: percentiles(ones) for name, ones in sorted(took.items())},
    }  # fmt: skip


def percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    at = {name: ordered[int(len(ordered) * share)] for name, share in
          (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}  # fmt: skip
    at |= {"max": ordered[-1], "mean": statistics.fmean(ordered)}
    return {"count": len(ordered)} | {name: round(value, 3) for name, value in at.items()}


def indexing(folder: Path) -> dict[str, Any]:
    """Index a folder, in this process: time on the clock and on the processor, peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = context.Index([folder], folder.with_suffix(".db"))
    started, cpu = time.perf_counter(), time.process_time()
    report = index.refresh()
    first_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    started = time.perf_counter()
    again = index.refresh()
    again_s = time.perf_counter() - started
    _, definitions, chunks = index.store.count()
    return {
        "files": report.files, "definitions": definitions, "chunks": chunks,
        "source_bytes": sum(path.stat().st_size for path in folder.rglob("*.py")),
        "store_bytes": folder.with_suffix(".db").stat().st_size, "read": report.read,
        "seconds": round(first_s, 2), "processor_seconds": round(cpu_s, 2),
        "refresh_again_seconds": round(again_s, 3), "read_again": again.read,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rss_before_mib": before // 1024,
    }  # fmt: skip


def copy_sources(folder: Path, count: int) -> None:
    """`count` real Python files that the index would not leave out for their size."""
    limit = context.Limits().max_file_bytes
    found = [p for p in sorted(SITE.rglob("*.py")) if 0 < p.stat().st_size <= limit]
    for path in random.Random(1).sample(found, count):
        target = folder / path.relative_to(SITE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, help="only index this folder (used by itself)")
    parser.add_argument("--count", type=int, default=6000, help="keystrokes")
    options = parser.parse_args()
    if options.index:
        print(json.dumps(indexing(options.index)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sources"
        copy_sources(folder, FILES)
        done = subprocess.run(
            [sys.executable, __file__, "--index", str(folder)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        typed = [keystrokes(budget, options.count, scratch) for budget in (1024, 2048)]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "keystrokes": typed,
        "indexing": json.loads(done.stdout),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
