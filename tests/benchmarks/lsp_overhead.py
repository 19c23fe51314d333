"""What the language server and the daemon add to a completion, apart from the engine.

    python tests/benchmarks/lsp_overhead.py [--requests N] [--save]

The real language server over stdio and the real daemon over its socket, in processes of their own;
only the engine is a fake that answers at once. So what a request takes is what they add: reading
the change, building the prompt (its tokens counted and encoded), the way to the daemon and back,
ending the answer and filtering it. The wait for the user's next key (debounce) is switched off.

Prints JSON; `--save` also writes it to tests/benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path(__file__).resolve().with_name("results") / "lsp_overhead.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "equipment")]

from head import head, publish  # noqa: E402

from assistant import paths  # noqa: E402
from assistant.cli.language_client import LanguageClient, language_server  # noqa: E402
from assistant.client.client import DaemonClient  # noqa: E402
from assistant.wire import CompletionRequest  # noqa: E402

MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
ANSWER = " = ab + cde\n"  # twelve chunks: the length of a line in tokens
WARM_UP = 12
WORD_LETTERS = 12
URI = "file:///bench.py"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    with tempfile.TemporaryDirectory() as home:
        models = str(paths.models_dir())
        os.environ.update(UNDERKEEL_HOME=home, UNDERKEEL_MODELS=models, PYTHONPATH=str(ROOT))
        daemon = subprocess.Popen([sys.executable, __file__, "--serve"])
        try:
            result = asyncio.run(measure(arguments.requests))
        finally:
            daemon.kill()  # it takes a termination for the end of serving, not of itself
            daemon.wait()
    publish(result, RESULT, save=arguments.save)


async def serve() -> None:
    """The daemon, with an engine that answers at once."""
    from daemons import fake_model, serving
    from fake_engine import FakeEngine

    path = str(paths.models_dir() / MODEL)
    engine = FakeEngine(reply=lambda _: ANSWER, n_vocab=1 << 20)
    async with serving(engine, planner=lambda: fake_model(path), ready=False):
        await asyncio.Event().wait()


async def measure(requests: int) -> dict[str, Any]:
    options = {"underkeel": {"completion": {"debounce_ms": 0, "ahead": False}}}
    source = (ROOT / "lsp" / "completion" / "session.py").read_text() * 2
    heading = head("lsp_overhead")
    async with language_server() as client:
        await client.initialise(options=options, progress=False)
        client.open(URI, source, "python")
        through_both = await edits(client, source, requests)
    async with DaemonClient(autostart=False) as daemon:
        through_daemon = await direct(daemon, requests)
    return {
        **heading,
        "settings": {
            "requests": requests,
            "document_lines": source.count("\n"),
            "budget_tokens": 1024,
            "answer_chunks": len(ANSWER),
            "engine": "fake, 0 ms",
        },
        "language_server_and_daemon_ms": summary(through_both["typing"]),
        "the_first_letter_at_another_place_ms": summary(through_both["jump"]),
        "daemon_alone_ms": summary(through_daemon),
    }


async def edits(client: LanguageClient, source: str, requests: int) -> dict[str, list[float]]:
    """Type words in lines of their own, all over the document, and ask after each letter."""
    lines = source.count("\n")
    took: dict[str, list[float]] = {"jump": [], "typing": []}
    line = column = 0
    for number in range(WARM_UP + requests):
        word, letter = divmod(number, WORD_LETTERS)
        if not letter:
            line, column = (word * 37) % lines, 0
        here = {"line": line, "character": column}
        text = "v\n" if not letter else "abcdefghijk"[letter % 11]
        document = {"uri": URI, "version": number + 2}
        column += 1
        started = time.perf_counter()
        client.notify(
            "textDocument/didChange",
            {
                "textDocument": document,
                "contentChanges": [{"range": {"start": here, "end": here}, "text": text}],
            },
        )
        items = await client.complete(URI, line, column)
        spent_ms = (time.perf_counter() - started) * 1000
        assert items, "no suggestion: the measurement would be worth nothing"
        if number >= WARM_UP:
            took["typing" if letter else "jump"].append(spent_ms)
    return took


async def direct(daemon: DaemonClient, requests: int) -> list[float]:
    """The same answer from the daemon, without a language server."""
    took = []
    for number in range(WARM_UP + requests):
        request = CompletionRequest(
            prompt=tuple(range(1000)), temperature=0.0, max_tokens=64, seed=number
        )
        started = time.perf_counter()
        async for _ in daemon.complete(request):
            pass
        took.append((time.perf_counter() - started) * 1000)
    return took[WARM_UP:]


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 2),
        "p90": round(ordered[int(len(ordered) * 0.9)], 2),
        "max": round(ordered[-1], 2),
    }


if __name__ == "__main__":
    main()
