"""Whole statements and blocks of real packages, filled in through the language server.

    python tests/benchmarks/blocks.py [--holes N] [--llama-server BINARY] [--notes FILE] [--save]

A hole is a statement, the body of a block, or a single line that is taken out of a module of an
installed package. Each is requested from the language server twice, with and without growing
(`completion.blocks`), and from llama-server's /infill as llama.vim requests it if its binary is
given. The prompt is evaluated before the times are taken, on every side. The sides take turns at
going first, since they share a daemon and its cache. Modules are at most 8 kB, so that a hole takes
seconds on two cores.

With `--notes`, what a side has answered is kept and not requested again: a run can be ended and
taken up later, or another side be added. `--minutes` ends it early. Only holes that every side has
answered count; the result says how many sittings it took, and how busy the machine was in each.

Prints JSON: for each side and kind of hole, how many suggestions begin with the right line, give
the same program (equal syntax trees) and leave the file's syntax whole, and the times to the first
and to the complete suggestion. `--save` also writes it to tests/benchmarks/results/.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path(__file__).resolve().with_name("results") / "blocks.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "equipment")]

from head import head, publish  # noqa: E402
from real_daemon import freed  # noqa: E402

from assistant import paths  # noqa: E402
from assistant.cli.language_client import LanguageClient, language_server  # noqa: E402
from assistant.client.client import DaemonClient  # noqa: E402

MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
PACKAGES = ("starlette", "httpx", "rich", "filelock", "pathspec", "jinja2", "uvicorn", "typer")
MODULES_OF_A_PACKAGE = 40
LARGEST_BYTES = 8_000
HOLE_LINES = range(2, 9)
CONTEXT_TOKENS = 8192
LIMIT_S = 300.0

# As llama.vim requests.
INFILL = {
    "n_predict": 128,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "cache_prompt": True,
    "stream": False,
}
PREFIX_LINES, SUFFIX_LINES = 256, 64


@dataclass(frozen=True)
class Hole:
    """Text that is taken out of a file; the cursor is at its start.

    Attributes:
        kind: `statement`, `body` or `line`.
        package: name and version.
    """

    kind: str
    package: str
    path: Path
    before: str
    text: str
    after: str

    @property
    def name(self) -> str:
        """The same in every run with these packages, and of no other hole."""
        path = "/".join(self.path.parts[self.path.parts.index("site-packages") + 1 :])
        return f"{self.package}: {path}:{self.line + 1} ({self.kind})"

    @property
    def line(self) -> int:
        return self.before.count("\n")

    @property
    def column(self) -> int:
        return len(self.before.rpartition("\n")[2])


@dataclass(frozen=True)
class Outcome:
    """One suggestion; times in milliseconds from the request."""

    text: str
    first_ms: float
    complete_ms: float


def holes_of(path: Path, package: str) -> Iterator[Hole]:
    """All holes of a module."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)

    def hole(kind: str, first: int, last: int, *, from_end_of_line_above: bool) -> Hole:
        removed = "".join(lines[first - 1 : last])
        before, after = "".join(lines[: first - 1]), "".join(lines[last:])
        if from_end_of_line_above:
            return Hole(kind, package, path, before[:-1], f"\n{removed[:-1]}", f"\n{after}")
        indent = removed[: len(removed) - len(removed.lstrip(" "))]
        text = removed[len(indent) : -1]
        return Hole(kind, package, path, before + indent, text, f"\n{after}")

    compound = (ast.If, ast.For, ast.While, ast.With, ast.Try)
    for node in ast.walk(ast.parse(source)):
        for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
            for statement in body if isinstance(body, list) else ():
                first, last = statement.lineno, statement.end_lineno or statement.lineno
                count = last - first + 1
                whole = lines[first - 1].strip().startswith(("if", "for", "while", "with", "try"))
                if isinstance(statement, compound) and count in HOLE_LINES and whole:
                    yield hole("statement", first, last, from_end_of_line_above=False)
                plain = isinstance(statement, ast.Assign | ast.Return | ast.Expr)
                if plain and count == 1 and 12 <= len(lines[first - 1].strip()) <= 80:
                    yield hole("line", first, last, from_end_of_line_above=False)
        if isinstance(node, (*compound, ast.FunctionDef)):
            first, last = node.body[0].lineno, node.body[-1].end_lineno or 0
            opens = lines[first - 2].rstrip().endswith(":") and first > node.lineno
            if last - first + 1 in range(1, max(HOLE_LINES) + 1) and opens:
                yield hole("body", first, last, from_end_of_line_above=True)


def choose(count: int, seed: int) -> list[Hole]:
    """Holes of each kind in equal numbers, spread over packages and modules."""
    random_ = random.Random(seed)
    by_kind: dict[str, list[Hole]] = {"statement": [], "body": [], "line": []}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, name
        package = f"{name} {importlib.metadata.version(name)}"
        modules = sorted(Path(spec.origin).parent.rglob("*.py"))
        modules = [path for path in modules if 2000 < path.stat().st_size < LARGEST_BYTES]
        for path in random_.sample(modules, min(MODULES_OF_A_PACKAGE, len(modules))):
            for hole in holes_of(path, package):
                by_kind[hole.kind].append(hole)
    each = -(-count // len(by_kind))
    chosen = [random_.sample(found, min(each, len(found))) for found in by_kind.values()]
    mixed = [hole for group in zip(*chosen, strict=True) for hole in group]
    return mixed[:count]


def judged(hole: Hole, outcome: Outcome) -> dict[str, Any]:
    """What is right about a suggestion."""
    given, wanted = _lines(outcome.text), _lines(hole.text)
    filled = _tree(hole.before + outcome.text + hole.after)
    return {
        "shown": bool(given),
        "first_line_right": given[:1] == wanted[:1],
        "same_lines": given == wanted,
        "same_program": bool(filled) and filled == _tree(hole.before + hole.text + hole.after),
        "syntax_whole": bool(given) and bool(filled),
        "lines": len(given),
    }


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _tree(source: str) -> str:
    try:
        return ast.dump(ast.parse(source))
    except (SyntaxError, ValueError):
        return ""


class Ours:
    """The language server; `grows` as our plugins use it, otherwise suggestions end at once."""

    def __init__(self, client: LanguageClient, daemon: DaemonClient, *, grows: bool) -> None:
        self._client = client
        self._daemon = daemon
        self._grows = grows
        self._count = 0

    async def fill(self, hole: Hole) -> Outcome:
        self._count += 1
        uri = hole.path.with_name(f"{hole.path.stem}_{self._count}.py").as_uri()
        self._client.open(uri, hole.before[:-1] + hole.after, "python")
        await self._type(uri, hole)
        await freed(self._daemon, LIMIT_S)
        del self._client.told[:]
        started = time.perf_counter()
        items = await self._client.complete(uri, hole.line, hole.column)
        first_ms = complete_ms = (time.perf_counter() - started) * 1000
        text = items[0]["insertText"] if items else ""
        if self._grows:
            await freed(self._daemon, LIMIT_S)
            await asyncio.sleep(0.2)  # until the last update
        for method, params in self._client.told:
            if method == "underkeel/completionUpdate":
                text = params["item"]["insertText"]
                complete_ms = (time.perf_counter() - started) * 1000
        self._client.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        return Outcome(text, first_ms, complete_ms)

    async def _type(self, uri: str, hole: Hole) -> None:
        """Type the character before the cursor: the language server warms the place."""
        line, column = hole.line, hole.column - 1
        if column < 0:
            line, column = line - 1, len(hole.before[:-1].rpartition("\n")[2])
        here = {"line": line, "character": column}
        change = {"range": {"start": here, "end": here}, "text": hole.before[-1]}
        document = {"uri": uri, "version": 2}
        await asyncio.sleep(0.2)
        self._client.notify(
            "textDocument/didChange", {"textDocument": document, "contentChanges": [change]}
        )
        await asyncio.sleep(0.3)


class Infill:
    """llama-server, with the request that llama.vim sends."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def fill(self, hole: Hole) -> Outcome:
        prefix, _, middle = hole.before.rpartition("\n")
        rest, _, suffix = hole.after.partition("\n")
        body = INFILL | {
            "input_prefix": "\n".join(prefix.split("\n")[-PREFIX_LINES:]) + "\n",
            "prompt": middle,
            "input_suffix": rest + "\n" + "\n".join(suffix.split("\n")[:SUFFIX_LINES]),
            "n_indent": len(middle) - len(middle.lstrip()),
        }
        await self._http.post("/infill", json={**body, "n_predict": 0, "t_max_prompt_ms": 0})
        started = time.perf_counter()
        answer = (await self._http.post("/infill", json=body)).json()
        took_ms = (time.perf_counter() - started) * 1000
        return Outcome(answer.get("content", "").rstrip(), took_ms, took_ms)


@contextlib.asynccontextmanager
async def our_sides(threads: int) -> AsyncIterator[dict[str, Any]]:
    """A daemon with the model, and a language server for each way."""
    with tempfile.TemporaryDirectory(prefix="uk-blocks-") as home:
        model = paths.models_dir() / MODEL
        settings = f'[model]\nname = "{model}"\nn_ctx = {CONTEXT_TOKENS}\nn_threads = {threads}\n'
        (Path(home) / "config.toml").write_text(settings, encoding="utf-8")
        models = str(paths.models_dir())
        os.environ.update(UNDERKEEL_MODELS=models, UNDERKEEL_HOME=home, PYTHONPATH=str(ROOT))
        with (Path(home) / "serve.log").open("wb") as log:
            command = [sys.executable, "-m", "assistant", "serve"]
            server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220
        try:
            async with (
                DaemonClient(autostart=False) as daemon,
                language_server() as one,
                language_server() as other,
            ):
                await _ready(daemon)
                offered = {"underkeel": {"completionUpdate": True}}
                common = {"debounce_ms": 0}
                for client, more, experimental in (
                    (one, {"blocks": True}, offered),
                    (other, {"blocks": False}, None),
                ):
                    options = {"underkeel": {"completion": {**common, **more}}}
                    await client.initialise(
                        options=options, progress=False, experimental=experimental
                    )
                yield {
                    "growing": Ours(one, daemon, grows=True),
                    "not_growing": Ours(other, daemon, grows=False),
                }
        finally:
            server.terminate()
            server.wait(20)


async def _ready(daemon: DaemonClient) -> None:
    for _ in range(600):
        with contextlib.suppress(Exception):
            await daemon.wait_ready()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the daemon did not become ready")


@contextlib.asynccontextmanager
async def peer_side(binary: Path, threads: int) -> AsyncIterator[dict[str, Any]]:
    import llama_server

    model = paths.models_dir() / MODEL
    with llama_server.serve(binary, model, CONTEXT_TOKENS, threads) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=LIMIT_S) as http:
            yield {"infill": Infill(http)}


class Notes:
    """What was answered so far, by hole and side; kept in a file of JSON lines if one is given.

    Attributes:
        sittings: the heads of the runs that it is from.
    """

    def __init__(self, path: Path | None, heading: dict[str, Any]) -> None:
        self._path = path
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self.sittings: list[dict[str, Any]] = []
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(json.loads(line))
        self._add({"sitting": heading})

    def __contains__(self, key: tuple[Hole, str]) -> bool:
        hole, side = key
        return (hole.name, side) in self._outcomes

    def of(self, hole: Hole, side: str) -> Outcome:
        return self._outcomes[hole.name, side]

    def add(self, hole: Hole, side: str, outcome: Outcome) -> None:
        self._add({"hole": hole.name, "side": side, "outcome": asdict(outcome)})

    def _add(self, row: dict[str, Any]) -> None:
        self._take(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def _take(self, row: dict[str, Any]) -> None:
        if "sitting" in row:
            self.sittings.append(row["sitting"])
        else:
            self._outcomes[row["hole"], row["side"]] = Outcome(**row["outcome"])


async def ask(
    holes: list[Hole], notes: Notes, threads: int, binary: Path | None, minutes: float
) -> list[str]:
    """Have every side fill the holes that it has not filled yet; the names of the sides."""
    end = time.monotonic() + minutes * 60
    async with contextlib.AsyncExitStack() as stack:
        sides = dict(await stack.enter_async_context(our_sides(threads)))
        if binary is not None:
            sides |= await stack.enter_async_context(peer_side(binary, threads))
        names = list(sides)
        for number, hole in enumerate(holes):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                if (hole, name) not in notes:
                    notes.add(hole, name, await sides[name].fill(hole))
            print(f"\r{number + 1} of {len(holes)}", end="", file=sys.stderr)
            if time.monotonic() > end:
                break
        print(file=sys.stderr)
    return names


async def run(given: argparse.Namespace) -> dict[str, Any]:
    notes, wanted = Notes(given.notes, head("blocks")), choose(given.holes, given.seed)
    names = await ask(wanted, notes, given.threads, given.llama_server, given.minutes)
    holes = [hole for hole in wanted if all((hole, name) in notes for name in names)]
    rows = [(hole, name, notes.of(hole, name)) for hole in holes for name in names]
    return {
        **notes.sittings[-1],
        "settings": {
            "model": MODEL,
            "holes": len(holes),
            "seed": given.seed,
            "packages": sorted({hole.package for hole in holes}),
            "largest_module_bytes": LARGEST_BYTES,
            "context_tokens": CONTEXT_TOKENS,
            "threads": given.threads,
            "completion": "defaults without debounce; the place is warm, as after typing",
            **(
                {"infill": {**INFILL, "lines": [PREFIX_LINES, SUFFIX_LINES]}}
                if "infill" in names
                else {}
            ),
        },
        "load_average_of_sittings": [
            one["machine"]["load_average_before"] for one in notes.sittings
        ],
        "load_average_after": round(os.getloadavg()[0], 1),
        "sides": {name: summary(rows, name) for name in names},
        "outcomes": [
            {
                "hole": hole.name,
                "kind": hole.kind,
                "side": name,
                **judged(hole, outcome),
                **{key: round(value) for key, value in asdict(outcome).items() if key != "text"},
            }
            for hole, name, outcome in rows
        ],
    }


def summary(rows: list[tuple[Hole, str, Outcome]], side: str) -> dict[str, Any]:
    """Counts and medians of a side, by kind of hole."""
    found: dict[str, Any] = {}
    for kind in ("statement", "body", "line"):
        mine = [
            (hole, outcome) for hole, name, outcome in rows if (hole.kind, name) == (kind, side)
        ]
        if not mine:
            continue
        verdicts = [judged(hole, outcome) for hole, outcome in mine]
        several = [len(_lines(hole.text)) > 1 for hole, _ in mine]
        found[kind] = {
            "holes": len(mine),
            **{
                name: sum(verdict[name] for verdict in verdicts)
                for name in (
                    "shown",
                    "first_line_right",
                    "same_lines",
                    "same_program",
                    "syntax_whole",
                )
            },
            "of_several_lines": sum(several),
            "of_several_lines_same_program": sum(
                verdict["same_program"]
                for verdict, is_long in zip(verdicts, several, strict=True)
                if is_long
            ),
            "median_lines": statistics.median(verdict["lines"] for verdict in verdicts),
            "first_ms": _times(mine, lambda outcome: outcome.first_ms),
            "complete_ms": _times(mine, lambda outcome: outcome.complete_ms),
        }
    return found


def _times(mine: list[tuple[Hole, Outcome]], value: Callable[[Outcome], float]) -> dict[str, float]:
    ordered = sorted(value(outcome) for _, outcome in mine)
    return {
        "median": round(statistics.median(ordered)),
        "p90": round(ordered[int(len(ordered) * 0.9)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--holes", type=int, default=120)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--llama-server", type=Path, help="binary of llama-server to compare with")
    parser.add_argument("--notes", type=Path, help="keep the answers here, to go on later")
    parser.add_argument("--minutes", type=float, default=180, help="ends after so long")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    publish(asyncio.run(run(given)), RESULT, save=given.save)


if __name__ == "__main__":
    main()
