"""Typing benchmark: the same keys, interleaved, through Underkeel and through llama.vim's
requests.

Both run the same model with the same threads and context on this machine, in one run. Prints
JSON (and writes it where --out says): for each side prompt tokens evaluated and tokens decoded
a keystroke, the time from the last key to the final ghost text, places with a suggestion, exact
first lines, stale suggestions, characters saved if every right suggestion is taken, and CPU
seconds a typed character.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from key_typist import Buffer, Place, keys, places
from ours import Ours
from peer import Peer
from report import GIVE_UP_S, Outcome, keep, summary

from assistant import paths
from assistant.client import DaemonClient

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "equipment"))
import llama_server

FILES = ("starlette.routing", "rich.table", "httpx._client", "filelock._api")
MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
CONTEXT_TOKENS = 8192
SETTLED_S = 1.5


@dataclass
class Counters:
    """Totals of one side since its start; `ahead` are those of `evaluated` that warmed a prompt."""

    evaluated: int
    ahead: int
    decoded: int
    cpu_s: float


def cpu_seconds(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    total += times.user + times.system
    return total


class OursSide:
    def __init__(self, editor: Ours, daemon: DaemonClient, daemon_pid: int) -> None:
        self.editor, self._daemon, self._pid = editor, daemon, daemon_pid

    async def counters(self) -> Counters:
        stats = (await self._daemon.status()).stats
        assert stats is not None
        cpu = cpu_seconds([self._pid, self.editor.pid])
        return Counters(stats.evaluated_tokens, stats.ahead_tokens, stats.generated_tokens, cpu)


class PeerSide:
    def __init__(self, editor: Peer, url: str, pid: int) -> None:
        self.editor, self._url, self._pid = editor, url, pid

    async def counters(self) -> Counters:
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"{self._url}/metrics")).text
        values = {
            line.split()[0]: float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("llamacpp:")
        }
        return Counters(
            int(values["llamacpp:prompt_tokens_total"]),
            0,
            int(values["llamacpp:tokens_predicted_total"]),
            cpu_seconds([self._pid]),
        )


async def at_place(side: Any, buffer: Buffer, place: Place, seed: int) -> Outcome:
    """Type one place and watch what is shown."""
    editor, rng = side.editor, random.Random(seed)
    before = await side.counters()
    editor.begin(buffer)
    buffer.set_line(place.line, place.indent)
    await editor.edited(buffer)
    pressed, stale = 0, 0
    for key in keys(place, rng):
        deadline = time.monotonic() + key.delay_ms / 1000
        while time.monotonic() < deadline:
            await asyncio.sleep(min(0.01, max(0.0, deadline - time.monotonic())))
            stale += editor.shown is not None and editor.shown.stale(buffer)
        buffer.press(key)
        await editor.pressed(buffer)
        pressed += 1
    last = time.monotonic()
    settled = last
    while time.monotonic() - last < GIVE_UP_S and time.monotonic() - settled < SETTLED_S:
        await asyncio.sleep(0.005)
        stale += editor.shown is not None and editor.shown.stale(buffer)
        if editor.shown is None or not editor.idle:
            settled = time.monotonic()
        if editor.shown is None and editor.idle and time.monotonic() - last > GIVE_UP_S / 2:
            break
    shown = editor.shown
    first = shown.text.split("\n")[0] if shown else ""
    exact = bool(shown) and first.rstrip() == place.rest.rstrip()
    await editor.rest()
    buffer.set_line(place.line, place.indent + place.text)
    await editor.edited(buffer)
    after = await side.counters()
    return Outcome(
        place=f"{place.path.name}:{place.line + 1}",
        keystrokes=pressed,
        evaluated_tokens=after.evaluated - before.evaluated,
        ahead_tokens=after.ahead - before.ahead,
        decoded_tokens=after.decoded - before.decoded,
        last_key_to_ghost_s=round(max(0.0, shown.at_s - last), 4) if shown else None,
        shown=bool(shown),
        exact_first_line=exact,
        saved_characters=len(place.rest) if exact else 0,
        stale=stale,
        cpu_s=round(after.cpu_s - before.cpu_s, 3),
    )


@contextlib.asynccontextmanager
async def our_side(model: Path, root: Path, threads: int) -> AsyncIterator[OursSide]:
    home = Path(tempfile.mkdtemp(prefix="uk-bench-"))
    (home / "config.toml").write_text(
        f'[model]\nname = "{model}"\nn_ctx = {CONTEXT_TOKENS}\nn_threads = {threads}\n',
        encoding="utf-8",
    )
    os.environ["UNDERKEEL_MODELS"] = str(paths.models_dir())
    os.environ["UNDERKEEL_HOME"] = str(home)
    log = (home / "serve.log").open("wb")
    command = [sys.executable, "-m", "assistant", "serve"]
    server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220
    daemon = DaemonClient(autostart=False)
    try:
        for _ in range(600):
            with contextlib.suppress(Exception):
                await daemon.wait_ready()
                break
            await asyncio.sleep(0.1)
        editor = Ours()
        await editor.start(root)
        yield OursSide(editor, daemon, server.pid)
        await editor.close()
    finally:
        await daemon.aclose()
        server.terminate()
        server.wait(20)


@contextlib.asynccontextmanager
async def peer_side(model: Path, threads: int, seed: int) -> AsyncIterator[PeerSide]:
    binary = llama_server.build()
    with llama_server.serve(binary, model, CONTEXT_TOKENS, threads) as server:
        editor = Peer(server.url, seed)
        yield PeerSide(editor, server.url, server.pid)
        await editor.close()


async def run(count: int, threads: int, seed: int, *, alone: bool) -> dict[str, Any]:
    """Type at all places, by turns on both sides, or on our side alone."""
    load_before = os.getloadavg()[0]
    model = paths.models_dir() / MODEL
    rng = random.Random(seed)
    sources = []
    for name in FILES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        sources.append(Path(spec.origin))
    root = sources[0].parent
    results: dict[str, list[Outcome]] = {}
    async with contextlib.AsyncExitStack() as stack:
        editors: list[Any] = [await stack.enter_async_context(our_side(model, root, threads))]
        if not alone:
            peer = peer_side(model, threads, seed)
            editors.append(await stack.enter_async_context(peer))
        for path in sources:
            lines = path.read_text(encoding="utf-8").split("\n")
            sides = [(side, Buffer(path, list(lines))) for side in editors]
            for side, buffer in sides:
                await side.editor.open(buffer)
            for number, place in enumerate(places(path, count // len(FILES), rng)):
                for side, buffer in sides if number % 2 else reversed(sides):
                    outcome = await at_place(side, buffer, place, seed + number)
                    results.setdefault(side.editor.name, []).append(outcome)
                    print(side.editor.name, json.dumps(asdict(outcome)), file=sys.stderr)
    return {
        "benchmark": "typing",
        "settings": {
            "model": MODEL,
            "files": FILES,
            "places": count,
            "threads": threads,
            "n_ctx": CONTEXT_TOKENS,
            "seed": seed,
            "peer_flags": llama_server.FLAGS,
            "give_up_s": GIVE_UP_S,
        },
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "runs": {
            name: {
                "date": datetime.now(UTC).isoformat(timespec="minutes"),
                "load_average_before": round(load_before, 1),
                "in_turns": not alone,
            }
            for name in results
        },
        "summary": {name: summary(outcomes) for name, outcomes in results.items()},
        "places": {name: [asdict(o) for o in outcomes] for name, outcomes in results.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=24)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--alone", action="store_true", help="our side only")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep the result in results/; of a side that did not run, what is there stays",
    )
    options = parser.parse_args()
    report = asyncio.run(run(options.places, options.threads, options.seed, alone=options.alone))
    text = json.dumps(report, indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.save:
        keep(report)
    print(json.dumps({key: report[key] for key in ("settings", "summary")}, indent=1))


if __name__ == "__main__":
    main()
