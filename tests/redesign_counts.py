"""Count what keeps the code simple: the path of a completion, and how the modules depend.

    python tests/redesign_counts.py [--model tiny.gguf] [--json]

A completion runs from `textDocument/inlineCompletion` through the language server, the daemon's
client, the daemon and its engine, all in this process; the worker's part is read from the stack at
the moment at which llama.cpp decodes. A module is on the path if one of its coroutines runs for
every request (or if it is on the worker's stack). Functions that these call are not counted: a
helper does not lengthen the way that a reader has to follow.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import inspect
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests/equipment")) if path not in sys.path]
PACKAGES = ("assistant", "lsp", "context")
URI = "file:///counted.py"
REQUESTS, TOKENS = 3, 12


@dataclass(frozen=True)
class Counts:
    """One row of the table for each attribute. `path` and `generators` are None without a model."""

    path: int | None
    generators: int | None
    forms: int
    sampling_declarations: int
    modules: int
    modules_with_one_importer: int
    import_cycles: int
    readme_lines: int


TARGETS = Counts(14, 5, 4, 1, 180, 30, 0, 180)
BEFORE = Counts(28, 10, 9, 4, 302, 106, 3, 445)


# What can be read from the source.


@cache
def sources() -> dict[str, ast.Module]:
    """The syntax trees of all modules, by name."""
    found = {}
    for top in PACKAGES:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules that each module imports."""
    known = sources().keys()
    graph = {}
    for name, tree in sources().items():
        found: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                full = (f"{base}.{alias.name}" for alias in node.names)
                found.update(one if one in known else base for one in full)
        graph[name] = frozenset((found & known) - {name})
    return graph


def with_one_importer() -> list[str]:
    """Modules that exactly one other imports; packages and programs do not count."""
    importers = Counter(target for targets in imports().values() for target in targets)
    packages = {name.rpartition(".")[0] for name in sources()}
    return sorted(name for name in sources() if importers[name] == 1 and name not in packages)


def import_cycles() -> list[list[str]]:
    """The groups of modules that import each other (Tarjan's strongly connected components)."""
    graph, index, low = imports(), dict[str, int](), dict[str, int]()
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(group)

    for name in graph:
        if name not in index:
            visit(name)
    return found


@dataclass(frozen=True)
class Declared:
    """A class with the names and types of its own fields."""

    module: str
    name: str
    bases: tuple[str, ...]
    fields: dict[str, str]


@cache
def classes() -> list[Declared]:
    found = []
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own = {
                    ast.unparse(one.target): ast.unparse(one.annotation)
                    for one in node.body
                    if isinstance(one, ast.AnnAssign)
                }
                bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
                found.append(Declared(module, node.name, bases, own))
    return found


def _all_fields(declared: Declared) -> set[str]:
    inherited = [_all_fields(one) for one in classes() if one.name in declared.bases]
    return set(declared.fields).union(*inherited)


def request_forms() -> list[str]:
    """The forms of a completion's request: the editor's, those with a prompt, and the worker's job.

    Requests of the HTTP API that are turned into one of these (`/infill`, `/v1/completions`) are
    not forms of a completion.
    """
    forms = [
        f"{one.module}.{one.name}"
        for one in classes()
        if {"prompt", "must_start_with"} <= _all_fields(one)
        and one.module != "assistant.daemon.http.request_schemas"
    ]
    jobs = [
        f"{one.module}.{one.name}"
        for one in classes()
        if "GenerateRequest" in one.fields.values() and one.module == "assistant.engine.worker.job"
    ]
    return ["lsprotocol.types.InlineCompletionParams", *forms, *jobs]


def sampling_declarations() -> list[str]:
    """Classes that declare the parameters of sampling themselves."""
    return [one.name for one in classes() if {"temperature", "top_k", "top_p"} <= one.fields.keys()]


# What runs.


def module_of(code: CodeType) -> str | None:
    """The module of one of our functions; the fake engine stands for the one in the daemon, which
    speaks to the worker."""
    path = Path(code.co_filename)
    if path.name == "fake_engine.py":
        return "assistant.engine.local"
    if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in PACKAGES:
        return None
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Trace:
    """How often each coroutine and asynchronous generator of ours was entered or resumed.

    In the task of the request and in tasks that start after it: those that run all the time, such
    as the one that reads free memory, do not count.
    """

    def __init__(self) -> None:
        self.entered: Counter[CodeType] = Counter()
        self._others: set[asyncio.Task[Any]] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        current = asyncio.current_task()
        self._others = {task for task in asyncio.all_tasks() if task is not current}
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        flags = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
        if (
            event == "call"
            and frame.f_code.co_flags & flags
            and asyncio.current_task() not in self._others
        ):
            self.entered[frame.f_code] += 1


async def completions(model: Path) -> list[Trace]:
    """Complete in a file REQUESTS times, each traced; the engine says TOKENS tokens."""
    from daemons import fake_model, serving
    from fake_engine import FakeEngine
    from lsprotocol import types

    from assistant.models import vocabulary
    from assistant.settings import CompletionSettings
    from lsp import server as language_server

    n_vocab = vocabulary.load(model).size
    engine = FakeEngine(reply=lambda _: " = ab + cde(f, 17)\n", n_vocab=n_vocab)
    async with serving(engine, planner=lambda: fake_model(str(model))):
        server = language_server.create()
        settings = CompletionSettings(debounce_ms=0, ahead=False, time_limit_ms=60_000)
        server.session.configure(settings, [])
        server.protocol.client_capabilities = types.ClientCapabilities()
        handlers = server.protocol.fm.features
        server.session.open(URI, "def f(a):\n    total\n", 1, "python")
        traces = []
        for number in range(REQUESTS + 1):
            server.session.close(URI)
            server.session.open(URI, f"def f(a):\n    total_{number}\n", 1, "python")
            params = types.InlineCompletionParams(
                context=types.InlineCompletionContext(
                    trigger_kind=types.InlineCompletionTriggerKind.Invoked
                ),
                text_document=types.TextDocumentIdentifier(URI),
                position=types.Position(1, len(f"    total_{number}")),
            )
            trace = Trace()
            with trace.recording():
                found = await handlers[types.TEXT_DOCUMENT_INLINE_COMPLETION](params)
            if not found.items:
                raise RuntimeError("the completion that is counted has no suggestion")
            traces.append(trace)
        await server.session.aclose()
        return traces[1:]  # the first one connects


def worker_stack(model: Path) -> set[str]:
    """The worker's modules between its loop and llama.cpp, from the stack where it decodes."""
    from running import running

    found = {"assistant.engine.worker.worker_loop"}
    with running(model, n_ctx=256) as bench:
        decode = bench.context.decode

        def seen(spans: Any) -> Any:
            frame = sys._getframe(1)
            up: FrameType | None = frame
            while up is not None:
                if module := module_of(up.f_code):
                    found.add(module)
                up = up.f_back
            return decode(spans)

        bench.context.decode = seen  # type: ignore[method-assign]
        bench.answer("def f", 2)
    return found


def path_and_generators(model: Path) -> tuple[list[str], list[str]]:
    """The modules on a completion's path, and the asynchronous generators that pass tokens on."""
    with tempfile.TemporaryDirectory() as home:
        before = os.environ.get("UNDERKEEL_HOME")
        os.environ["UNDERKEEL_HOME"] = home
        try:
            traces = asyncio.run(completions(model))
        finally:
            if before is None:
                del os.environ["UNDERKEEL_HOME"]
            else:
                os.environ["UNDERKEEL_HOME"] = before
    runs = [trace.entered for trace in traces]
    always = set.intersection(*(set(run) for run in runs))
    modules = {module for code in always if (module := module_of(code))}
    managers = context_managers()
    generators = sorted(
        f"{module}:{code.co_qualname}"
        for code in always
        if code.co_flags & inspect.CO_ASYNC_GENERATOR
        and (module := module_of(code))
        and (module, code.co_firstlineno) not in managers
        and min(run[code] for run in runs) >= TOKENS // 2
        and code.co_qualname != "FakeEngine._answer"
    )
    return sorted(modules | worker_stack(model)), generators


def context_managers() -> set[tuple[str, int]]:
    """Modules and first lines of the asynchronous generators that are context managers."""
    return {
        (module, node.decorator_list[0].lineno)
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef)
        and any("contextmanager" in ast.unparse(one) for one in node.decorator_list)
    }


def count(model: Path | None) -> Counts:
    path, generators = path_and_generators(model) if model else (None, None)
    return Counts(
        path=len(path) if path is not None else None,
        generators=len(generators) if generators is not None else None,
        forms=len(request_forms()),
        sampling_declarations=len(sampling_declarations()),
        modules=len(sources()),
        modules_with_one_importer=len(with_one_importer()),
        import_cycles=len(import_cycles()),
        readme_lines=len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF with a FIM vocabulary")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true", help="name what was counted")
    options = parser.parse_args()
    counts = count(options.model)
    if options.json:
        print(json.dumps(asdict(counts), indent=1))
        return
    print(f"{'':28}{'before':>8}{'now':>8}{'target':>8}")
    for name, value in asdict(counts).items():
        before, target = getattr(BEFORE, name), getattr(TARGETS, name)
        shown = "-" if value is None else value
        print(f"{name.replace('_', ' '):28}{before:>8}{shown:>8}{target:>8}")
    if options.list:
        named = {"forms": request_forms(), "sampling declarations": sampling_declarations()}
        named["one importer"] = with_one_importer()
        if options.model:
            named["path"], named["generators"] = path_and_generators(options.model)
        for name, found in named.items():
            print(f"\n{name}:", *found, sep="\n  ")


if __name__ == "__main__":
    main()
