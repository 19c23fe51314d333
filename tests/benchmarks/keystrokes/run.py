"""Typing benchmark: the same keys in two real Neovims, by turns, through Underkeel and llama.vim.

Both run the same model with the same threads and context on this machine, in one run; the folder
of the peer's plugin is an argument, and without it our side runs alone. Prints JSON (and keeps it
with --save): for each side prompt tokens evaluated and tokens decoded a keystroke, the time from
the last key to the first and to the final ghost text, places with a suggestion, exact first lines,
stale suggestions, characters saved if every right suggestion is taken, and CPU seconds a typed
character.
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
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from key_typist import places
from neovim_sides import Side, at_place
from report import GIVE_UP_S, Outcome, keep, summary

from assistant import paths
from assistant.client.client import DaemonClient

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "equipment"))
import llama_server
from neovim import neovim

FILES = ("starlette.routing", "rich.table", "httpx._client", "filelock._api")
MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
CONTEXT_TOKENS = 8192
ROOT = Path(__file__).resolve().parents[3]


@contextlib.asynccontextmanager
async def our_side(model: Path, home: Path, threads: int) -> AsyncIterator[Side]:
    """Our plugin in Neovim; its language server uses a daemon with default limits."""
    settings = f'[model]\nname = "{model}"\nn_ctx = {CONTEXT_TOKENS}\nn_threads = {threads}\n'
    (home / "config.toml").write_text(settings, encoding="utf-8")
    os.environ["UNDERKEEL_MODELS"] = str(paths.models_dir())
    os.environ["UNDERKEEL_HOME"] = str(home)
    log = (home / "serve.log").open("wb")
    command = [sys.executable, "-m", "assistant", "serve"]
    server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220
    daemon = DaemonClient(autostart=False)

    async def totals() -> tuple[int, int, int]:
        stats = (await daemon.status()).stats
        assert stats is not None
        return stats.evaluated_tokens, stats.ahead_tokens, stats.generated_tokens

    try:
        for _ in range(600):
            with contextlib.suppress(Exception):
                await daemon.wait_ready()
                break
            await asyncio.sleep(0.1)
        environment = {"PYTHONPATH": str(ROOT)}
        with neovim(home, environment=environment) as editor:
            editor.lua(
                "require('underkeel').setup({ cmd = { ..., '-m', 'assistant', 'lsp' } })",
                sys.executable,
            )
            side = Side("underkeel", editor, totals, [server.pid, editor.pid])
            side.watch("underkeel.ghost")
            yield side
    finally:
        await daemon.aclose()
        server.terminate()
        server.wait(20)


@contextlib.asynccontextmanager
async def peer_side(model: Path, home: Path, threads: int, plugin: Path) -> AsyncIterator[Side]:
    """llama.vim in Neovim, on a llama-server with the flags that its documentation recommends."""
    with llama_server.serve(llama_server.build(), model, CONTEXT_TOKENS, threads) as server:

        async def totals() -> tuple[int, int, int]:
            async with httpx.AsyncClient() as http:
                text = (await http.get(f"{server.url}/metrics")).text
            values = dict(
                line.rsplit(None, 1) for line in text.splitlines() if line.startswith("llamacpp:")
            )
            evaluated = int(float(values["llamacpp:prompt_tokens_total"]))
            return evaluated, 0, int(float(values["llamacpp:tokens_predicted_total"]))

        # Its own figures beside the ghost text (`show_info`) would count as ghost text.
        config = {"endpoint_fim": f"{server.url}/infill", "show_info": 0}
        with neovim(home) as editor:
            editor.lua(
                "local config, plugin = ...; vim.g.llama_config = config;"
                " vim.opt.runtimepath:prepend(plugin); vim.cmd('runtime plugin/llama.vim')",
                config,
                str(plugin),
            )
            side = Side("llama.vim", editor, totals, [server.pid, editor.pid])
            side.watch("vt_fim")
            yield side


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Type at all places, by turns in both editors, or in ours alone."""
    load_before = os.getloadavg()[0]
    model = paths.models_dir() / MODEL
    rng = random.Random(options.seed)
    results: dict[str, list[Outcome]] = {}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uk-typing-")))
        sources = copies(folder / "project")
        homes = [folder / "ours", folder / "peer"]
        for home in homes:
            home.mkdir()
        ours = our_side(model, homes[0], options.threads)
        sides = [await stack.enter_async_context(ours)]
        if options.plugin:
            peer = peer_side(model, homes[1], options.threads, options.plugin)
            sides.append(await stack.enter_async_context(peer))
        for path in sources:
            for side in sides:
                side.open(path)
            chosen = places(path, options.places // len(FILES), rng)
            for number, place in enumerate(chosen):
                for side in sides if number % 2 else reversed(sides):
                    others = [other for other in sides if other is not side]
                    outcome = await at_place(side, others, place, options.seed + number)
                    results.setdefault(side.name, []).append(outcome)
                    print(side.name, json.dumps(asdict(outcome)), file=sys.stderr)
    return {
        "benchmark": "typing",
        "settings": {
            "model": MODEL,
            "files": FILES,
            "places": options.places,
            "threads": options.threads,
            "n_ctx": CONTEXT_TOKENS,
            "seed": options.seed,
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
                "in_turns": options.plugin is not None,
            }
            for name in results
        },
        "summary": {name: summary(outcomes) for name, outcomes in results.items()},
        "places": {name: [asdict(o) for o in outcomes] for name, outcomes in results.items()},
    }


def copies(project: Path) -> list[Path]:
    """The packages of FILES in a project of their own, so that both editors see the same files."""
    found = []
    for name in FILES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin)
        target = project / source.parent.name
        shutil.copytree(source.parent, target, ignore=shutil.ignore_patterns("__pycache__"))
        found.append(target / source.name)
    (project / "pyproject.toml").touch()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=24)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plugin", type=Path, help="folder of llama.vim, to compare with")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep the result in results/; of a side that did not run, what is there stays",
    )
    options = parser.parse_args()
    options.plugin = options.plugin and options.plugin.resolve()
    report = asyncio.run(run(options))
    text = json.dumps(report, indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.save:
        keep(report)
    print(json.dumps({key: report[key] for key in ("settings", "summary")}, indent=1))


if __name__ == "__main__":
    main()
