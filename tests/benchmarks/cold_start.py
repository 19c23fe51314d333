"""Time from the start of `underkeel lsp` to its first answer, with no daemon running.

    python tests/benchmarks/cold_start.py [--model NAME] [--runs N] [--typed]
        [--before TREE ...] [--save]

Each run has a home of its own: the language server starts the daemon, which plans and loads the
model. Then a second language server opens another file, with the daemon running. The suggestion is
asked for by key, which brings several; with `--typed` it is one, as while the user types.
`--before` names other checkouts, which are measured in turns with this one. Processor time is the
language server's own, at the answer to `initialize` and at the suggestion. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assistant import paths

HERE = Path(__file__).resolve().parents[2]
RESULT = Path(__file__).with_name("results") / "cold_start.json"
LIMIT_S = 120.0
_INVOKED, _AUTOMATIC = 1, 2  # InlineCompletionTriggerKind
Message = dict[str, Any]


def _text(noun: str) -> str:
    """3 kB, so that the full prompt is longer than the short one that comes first."""
    functions = (
        f"def {noun}_{n}(width: float, height: float) -> float:\n"
        f'    """The {noun} of rectangle {n}, in square metres."""\n'
        f"    return width * height * {n}\n\n\n"
        for n in range(1, 25)
    )
    return "".join(functions) + "def perimeter(width: float, height: float) -> float:\n    return "


class _Editor:
    """Speaks LSP to one server; notes when each message came."""

    def __init__(self, tree: Path, home: Path) -> None:
        self.started_s = time.monotonic()
        self._ids = 0
        self._messages: queue.Queue[tuple[float, Message]] = queue.Queue()
        self.stages: dict[str, float] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "assistant", "lsp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env=_environment(tree, home),
        )
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, method: str, params: Any, *, request: bool = False) -> int:
        message: Message = {"jsonrpc": "2.0", "method": method, "params": params}
        if request:
            self._ids += 1
            message["id"] = self._ids
        body = json.dumps(message).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()
        return self._ids

    def result(self, number: int) -> Any:
        """The result of a request; messages before it are noted."""
        while True:
            at_s, message = self._messages.get(timeout=LIMIT_S)
            if message.get("id") == number and "method" not in message:
                return message.get("result")
            if message.get("method") == "window/showMessage":
                raise RuntimeError(message["params"]["message"])
            if message.get("method") == "underkeel/status":
                stage = message["params"].get("message") or message["params"]["state"]
                self.stages.setdefault(stage, round(1000 * (at_s - self.started_s)))

    def since_ms(self) -> int:
        return round(1000 * (time.monotonic() - self.started_s))

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        length = 0
        while line := stream.readline():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif not line.strip():
                self._messages.put((time.monotonic(), json.loads(stream.read(length))))


def _environment(tree: Path, home: Path) -> dict[str, str]:
    models = str(paths.models_dir())
    ours = {"UNDERKEEL_HOME": str(home), "UNDERKEEL_MODELS": models, "PYTHONPATH": str(tree)}
    return os.environ | ours


def _cpu_ms(pid: int) -> float:
    """Processor time of a process so far, from the kernel's scheduler."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def _run(tree: Path, model: str, *, invoked: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "config.toml").write_text(f'[model]\nname = "{model}"\nn_ctx = 4096\n')
        try:
            found = _first_answer(tree, home, "area", invoked=invoked)
            again = _first_answer(tree, home, "volume", invoked=invoked)
            return {**found, "running_daemon_ms": again["answer_ms"]}
        finally:
            subprocess.run(
                [sys.executable, "-m", "assistant", "stop"],
                env=_environment(tree, home),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )


def _first_answer(tree: Path, home: Path, noun: str, *, invoked: bool) -> dict[str, Any]:
    """Start an editor, open a file and ask for a suggestion at its end."""
    file, text = home / f"{noun}.py", _text(noun)
    file.write_text(text)
    editor = _Editor(tree, home)
    try:
        capabilities = {
            "textDocument": {"inlineCompletion": {}},
            "experimental": {"underkeel": {"status": True}},
        }
        place = {"processId": None, "rootUri": home.as_uri(), "capabilities": capabilities}
        editor.result(editor.send("initialize", place, request=True))
        initialised_ms = editor.since_ms()
        initialise_cpu_ms = _cpu_ms(editor.process.pid)
        editor.send("initialized", {})
        document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": text}
        editor.send("textDocument/didOpen", {"textDocument": document})
        lines = text.split("\n")
        request = {
            "textDocument": {"uri": file.as_uri()},
            "position": {"line": len(lines) - 1, "character": len(lines[-1])},
            "context": {"triggerKind": _INVOKED if invoked else _AUTOMATIC},
        }
        number = editor.send("textDocument/inlineCompletion", request, request=True)
        answer = editor.result(number)
        items = answer["items"] if isinstance(answer, dict) else answer
        return {
            "initialised_ms": initialised_ms,
            "initialise_cpu_ms": round(initialise_cpu_ms),
            "answer_ms": editor.since_ms(),
            "items": len(items or ()),
            "server_cpu_ms": round(_cpu_ms(editor.process.pid)),
            "stages_ms": editor.stages,
        }
    finally:
        editor.process.kill()
        editor.process.wait()


def _commit(tree: Path) -> str:
    asked = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--typed", action="store_true", help="ask as an editor does by itself")
    parser.add_argument(
        "--before", type=Path, nargs="+", default=[], help="other checkouts to compare with"
    )
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    trees = {"now": HERE} | {f"before, {_commit(tree)}": tree.resolve() for tree in chosen.before}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    load = os.getloadavg()[0]
    for _ in range(chosen.runs):
        for name, tree in trees.items():
            runs[name].append(_run(tree, chosen.model, invoked=not chosen.typed))
    figures = ["initialised_ms", "initialise_cpu_ms", "answer_ms", "server_cpu_ms"]
    figures.append("running_daemon_ms")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "model": chosen.model,
        "asked": "while typing" if chosen.typed else "by key",
        "median": {
            name: {figure: statistics.median(one[figure] for one in found) for figure in figures}
            for name, found in runs.items()
        },
        "runs": runs,
    }
    text = json.dumps(result, indent=2)
    if chosen.save:
        RESULT.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
