"""Many editors on one daemon: 16 real language servers with 64 documents, the real engine.

    python tests/benchmarks/load.py [--editors 16] [--documents 4] [--seconds 180] [--model NAME]
                                    [--flood N] [--save]

The model is a tiny mixture of experts that is evaluated in no time (`tests/equipment/tiny_moe.py`):
on a small machine a real one would measure the processor, and not how the daemon shares it out.

Each editor goes from document to document: types a few keys, waits for ghost text, looks at it for
a moment, types on. With `--flood` one more client asks for N things at a time, all the time.
Reported are waits, how evenly answers were shared out (Jain's index: 1 is even), the longest that
any editor went without an answer, refusals, and the memory and files of daemon and worker over
time. Prints JSON; `--save` keeps it under `results`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "equipment")]

from crowd import Editor, crowd, fairness  # noqa: E402
from head import head, publish  # noqa: E402
from real_daemon import configure, ended_afterwards, family  # noqa: E402
from tiny_moe import write_tiny_moe  # noqa: E402

from assistant import paths  # noqa: E402
from assistant.client.client import DaemonClient  # noqa: E402
from assistant.errors import OverloadedError, UnderkeelError  # noqa: E402
from assistant.wire import CompletionRequest, Status  # noqa: E402

TINY = "tiny"
THINK_S = 2.0
_LOOK_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--editors", type=int, default=16)
    parser.add_argument("--documents", type=int, default=4, help="of each editor")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--model", default=TINY, help="a name, a path, or 'tiny'")
    parser.add_argument(
        "--flood", type=int, default=0, help="requests at a time of one more client"
    )
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        home.mkdir(mode=0o700)
        os.environ.update(UNDERKEEL_MODELS=str(paths.models_dir()), UNDERKEEL_HOME=str(home))
        model = options.model
        if model == TINY:
            model = write_tiny_moe(
                Path(name) / "tiny.gguf", paths.models_dir() / "starter-moe.gguf"
            )
        configure(home, model={"name": model, "n_ctx": 8192})
        with ended_afterwards():
            result = asyncio.run(measure(options))
    folder = Path(__file__).parent / "results"
    kind = "" if options.model == TINY else f"_{Path(options.model).stem}"
    flood = "_flood" if options.flood else ""
    publish(result, folder / f"load{kind}{flood}.json", save=options.save)


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    opening = head("load")
    async with (
        DaemonClient() as client,
        crowd(options.editors, options.documents) as editors,
    ):
        await client.wait_ready()
        # Everybody has had an answer before the clock starts: imports and first prompts are done.
        started_s = time.monotonic()
        await asyncio.gather(*(editor.work(started_s + 120, most=1) for editor in editors))
        for editor in editors:
            editor.waits_s.clear()
            editor.shown = 0
        done = asyncio.Event()
        gauges = asyncio.create_task(watch(client, done))
        flood = [asyncio.create_task(ask_on(client, done)) for _ in range(options.flood)]
        started_s = time.monotonic()
        gaps = asyncio.create_task(longest_gaps(editors, started_s, done))
        until = started_s + options.seconds
        await asyncio.gather(*(editor.work(until, think_s=THINK_S) for editor in editors))
        took_s = time.monotonic() - started_s
        done.set()
        flooded = [await task for task in flood]
        found = report(options, editors, await gauges, await gaps, took_s, flooded)
        return {**opening, **found}


async def ask_on(client: DaemonClient, done: asyncio.Event) -> tuple[int, int]:
    """Ask without end; how often that was answered, and how often refused."""
    answered = refused = 0
    while not done.is_set():
        try:
            request = CompletionRequest(
                prompt=f"# flood {answered}\ndef f", temperature=0.0, max_tokens=32
            )
            async for _ in client.complete(request):
                pass
            answered += 1
        except OverloadedError:
            refused += 1
            await asyncio.sleep(0.2)
        except UnderkeelError:
            await asyncio.sleep(1)
    return answered, refused


async def longest_gaps(editors: list[Editor], started_s: float, done: asyncio.Event) -> float:
    """The longest that any editor went without an answer, in seconds, its own thinking included."""
    longest = 0.0
    while not done.is_set():
        now = time.monotonic()
        longest = max(longest, *(now - max(e.answered_at_s, started_s) for e in editors))
        await asyncio.sleep(0.1)
    return longest


async def watch(client: DaemonClient, done: asyncio.Event) -> list[dict[str, float]]:
    """Memory, files and queue of daemon and worker, every few seconds."""
    found = []
    while not done.is_set():
        status: Status = await client.status()
        processes = family()
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(
                {
                    "daemon_rss_bytes": processes[0].memory_info().rss,
                    "daemon_files": processes[0].num_fds(),
                    "worker_rss_bytes": max(
                        (one.memory_info().rss for one in processes[1:]), default=0
                    ),
                    "in_flight": status.in_flight,
                    "waiting": status.stats.waiting if status.stats else 0,
                }
            )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), _LOOK_S)
    return found


def report(
    options: argparse.Namespace,
    editors: list[Editor],
    gauges: list[dict[str, float]],
    longest_gap_s: float,
    took_s: float,
    flooded: list[tuple[int, int]],
) -> dict[str, Any]:
    waits = sorted(wait for editor in editors for wait in editor.waits_s)
    counts = [len(editor.waits_s) for editor in editors]
    means = [statistics.fmean(editor.waits_s) for editor in editors if editor.waits_s]
    quarter = max(len(gauges) // 4, 1)

    def growth(name: str) -> float:
        """Between the means of the first and the last quarter of the time."""
        values = [gauge[name] for gauge in gauges]
        return statistics.fmean(values[-quarter:]) - statistics.fmean(values[:quarter])

    return {
        "settings": {
            "editors": options.editors,
            "documents": options.editors * options.documents,
            "seconds": round(took_s, 1),
            "model": options.model,
            "think_s": THINK_S,
            "flood": options.flood,
        },
        "requests": sum(counts),
        "shown": sum(editor.shown for editor in editors),
        "requests_per_editor": {"least": min(counts), "most": max(counts)},
        "fairness_of_answers": round(fairness(counts), 4),
        "fairness_of_waits": round(fairness([round(1000 * mean) for mean in means]), 4),
        "wait_s": {
            "median": round(statistics.median(waits), 3),
            "p90": round(waits[int(len(waits) * 0.9)], 3),
            "longest": round(waits[-1], 3),
        },
        "longest_without_answer_s": round(longest_gap_s, 2),
        "flood": {
            "answered": sum(answered for answered, _ in flooded),
            "refused": sum(refused for _, refused in flooded),
        },
        "in_flight_most": max(gauge["in_flight"] for gauge in gauges),
        "daemon_rss_bytes_most": max(gauge["daemon_rss_bytes"] for gauge in gauges),
        "daemon_rss_growth_bytes": round(growth("daemon_rss_bytes")),
        "worker_rss_growth_bytes": round(growth("worker_rss_bytes")),
        "daemon_files_most": max(gauge["daemon_files"] for gauge in gauges),
    }


if __name__ == "__main__":
    main()
