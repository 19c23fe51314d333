"""`underkeel demo`: real ghost text through the real language server, daemon and model."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from assistant import paths
from assistant.cli.language_client import LanguageClient, language_server
from assistant.cli.terminal import console as safe_console
from assistant.cli.terminal import print_json
from assistant.client.client import DaemonClient
from assistant.engine.types import EngineStats, ModelInfo
from assistant.errors import DaemonError
from assistant.memory.gguf.header import read_header
from assistant.memory.model.profile import take_inventory
from assistant.models.catalogue import resolve

MARK = "‸"
_LANGUAGES = {".py": "python", ".ts": "typescript", ".go": "go"}
_STOP_LIMIT_S = 20.0
_GHOST = "italic bright_black"
_PATIENT = {"underkeel": {"completion": {"first_line_ms": 60_000, "debounce_ms": 0}}}
"""The demo waits for whole blocks. An editor shows the first complete line sooner."""
_SETTINGS = "[completion]\ntime_limit_ms = 60_000\n"
"""Nobody types in the demo, so that a slow machine may take its time. Editors only lower this."""
_TAB = 4


@dataclass(frozen=True)
class Ghost:
    """One suggestion in a finished file.

    Attributes:
        text: the suggestion; empty where there was none.
        start: its offset in the finished text, in characters.
        line: line of the cursor, from 1.
        evaluated, cached, generated: tokens of this request.
        wait_ms: from the request to the answer.
    """

    text: str
    start: int
    line: int
    evaluated: int
    cached: int
    generated: int
    wait_ms: float


@dataclass(frozen=True)
class Finished:
    """A sample file with every suggestion accepted."""

    name: str
    text: str
    ghosts: list[Ghost]


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    model: Annotated[
        str, typer.Option(help="Name of a model on this machine, or path.")
    ] = "starter-moe",
    as_json: Annotated[bool, typer.Option("--json", help="Print the suggestions as JSON.")] = False,
) -> None:
    """Complete a small sample project and show what it cost. Leaves nothing running."""
    path = resolve(model)
    # With --json the drawing is discarded, not skipped, so that both run the same steps.
    console = safe_console(quiet=as_json, most_columns=100)
    console.print()
    console.print(_headline(path))
    with _private_daemon(path) as (home, daemon):
        samples = _samples()
        (home / "project").mkdir()
        for name, marked in samples:
            (home / "project" / name).write_text(marked.replace(MARK, ""), encoding="utf-8")
        files = asyncio.run(_session(home, daemon, samples, console))
    console.print(_costs(files))
    marks = _marks(console)
    legend = f"Text between {marks[0]} and {marks[1]}" if marks else "Text in grey italics"
    console.print(
        f"{legend} was written by the model, requested over LSP and accepted one after the "
        "other.\nEverything ran on this machine; the demo's daemon has stopped.\n",
        style="dim",
    )
    if as_json:
        print_json([asdict(file) for file in files], indent=1)


def _headline(path: Path) -> Panel:
    counted = take_inventory(read_header(path))
    total, active = counted.total.parameters / 1e9, counted.active.parameters / 1e9
    text = Text.assemble(
        ("Underkeel", "bold"),
        "  knows how much memory a model needs before loading it\n\n",
        (f"{path.name}", "bold cyan"),
        f"\n{total:.2f} B parameters in total, ",
        (f"{active:.2f} B active", "bold"),
        " for each token: all of them need memory, the active ones need time.",
    )
    return Panel(text, box=box.ROUNDED, padding=(1, 2))


@contextmanager
def _private_daemon(model: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A separate home and daemon: the user's own daemon and settings are left alone."""
    home = Path(tempfile.mkdtemp(prefix="underkeel-demo-"))
    before = {name: os.environ.get(name) for name in ("UNDERKEEL_HOME", "UNDERKEEL_MODELS")}
    os.environ["UNDERKEEL_MODELS"] = str(paths.models_dir())
    os.environ["UNDERKEEL_HOME"] = str(home)
    paths.config_file().write_text(_SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "assistant", "serve", "--model", str(model)]
    nowhere = subprocess.DEVNULL
    daemon = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    try:
        yield home, daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        shutil.rmtree(home, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


async def _session(
    home: Path, daemon: subprocess.Popen[bytes], samples: list[tuple[str, str]], console: Console
) -> list[Finished]:
    client = DaemonClient(autostart=False)  # the demo starts its own, and stops it
    files: list[Finished] = []
    try:
        info = await _loaded(client, daemon, console)
        console.print(_memory(info, (await client.status()).load_error_percent))
        async with language_server(stderr=subprocess.DEVNULL) as editor:
            await editor.initialise(options=_PATIENT)
            for name, marked in samples:
                path = home / "project" / name
                files.append(await _complete(editor, client, path, marked))
                console.print(_file(files[-1], _marks(console)))
                console.print()
    finally:
        await client.aclose()
    return files


async def _loaded(
    client: DaemonClient, daemon: subprocess.Popen[bytes], console: Console
) -> ModelInfo:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting the daemon", total=1.0)

        def show(stage: str, share: float) -> None:
            progress.update(task, description=stage, completed=share)

        while not await _answers(client):
            if daemon.poll() is not None:
                raise DaemonError(
                    "the daemon stopped while starting", advice="Run: underkeel serve"
                )
            await asyncio.sleep(0.05)
        return await client.wait_ready(show)


async def _answers(client: DaemonClient) -> bool:
    try:
        await client.status()
    except DaemonError:
        return False
    return True


def _samples() -> list[tuple[str, str]]:
    folder = resources.files("assistant.cli") / "sample"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".marked"))
    names.sort(key=lambda name: not name.startswith("stock"))
    return [
        (name.removesuffix(".marked"), (folder / name).read_text(encoding="utf-8"))
        for name in names
    ]


async def _complete(
    editor: LanguageClient, client: DaemonClient, path: Path, marked: str
) -> Finished:
    """Complete at each mark in turn, and accept the suggestion."""
    pieces = marked.split(MARK)
    text, rest, ghosts = pieces[0], pieces[1:], list[Ghost]()
    uri, version = path.as_uri(), 1
    editor.open(uri, "".join(pieces), _LANGUAGES[path.suffix], version)
    while rest:
        after = "".join(rest)
        line, column = text.count("\n"), len(text) - (text.rfind("\n") + 1)
        before = await _stats(client)
        started = time.monotonic()
        items = await editor.complete(uri, line, column)
        wait_ms = (time.monotonic() - started) * 1000
        spent = await _stats(client)
        added = _inserted(items, column)
        ghosts.append(
            Ghost(
                text=added,
                start=len(text),
                line=line + 1,
                evaluated=spent.evaluated_tokens - before.evaluated_tokens,
                cached=spent.cached_tokens - before.cached_tokens,
                generated=spent.generated_tokens - before.generated_tokens,
                wait_ms=wait_ms,
            )
        )
        version += 1
        editor.notify(
            "textDocument/didChange",
            {
                "textDocument": {"uri": uri, "version": version},
                "contentChanges": [{"text": text + added + after}],
            },
        )
        text += added + rest.pop(0)
    return Finished(path.name, text, ghosts)


def _inserted(items: list[dict[str, object]], column: int) -> str:
    if not items:
        return ""
    text = items[0]["insertText"]
    replaced = items[0].get("range")
    if isinstance(text, dict):
        text = text["value"]
    start = replaced["start"]["character"] if isinstance(replaced, dict) else column
    return str(text)[column - start :]


async def _stats(client: DaemonClient) -> EngineStats:
    status = await client.status()
    if status.stats is None:
        raise DaemonError("the daemon no longer serves a model", advice="Run the demo again")
    return status.stats


def _memory(info: ModelInfo, off_percent: float | None) -> Group:
    """The memory that llama.cpp reports, and its distance from the plan."""
    title = "Memory, as llama.cpp reports it"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("buffer")
    for name in ("weights", "KV cache", "compute"):
        table.add_column(name, justify="right")
    total_bytes = 0
    for device in info.memory:
        sizes = (device.weights_bytes, device.kv_bytes, device.compute_bytes)
        table.add_row(device.buffer_type, *(_mib(size) for size in sizes))
        total_bytes += sum(sizes)
    summary = f"{info.n_ctx:,} tokens of context, loaded in {info.load_ms / 1000:.1f} s. "
    if off_percent is not None:
        summary += (
            f"{_mib(total_bytes)} in total, {abs(off_percent):.1f} % off the plan, which was made "
            "before any of the weights were read."
        )
    return Group("", table, Text(summary, style="dim"), "")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB" if size_bytes else ""


def _marks(console: Console) -> tuple[str, str] | None:
    """What encloses the model's text where colours cannot set it apart; None where they can."""
    if console.color_system is not None and not console.no_color:
        return None
    try:
        "«»".encode(console.encoding)
    except (LookupError, UnicodeEncodeError):
        return "<<", ">>"
    return "«", "»"


def _file(file: Finished, marks: tuple[str, str] | None) -> Panel:
    """The finished file with the model's text in another style, or between `marks`."""
    if marks:
        plain = Text(_marked(file, *marks).expandtabs(_TAB).rstrip())
        return Panel(plain, title=file.name, title_align="left", box=box.ROUNDED, padding=(1, 2))
    lexer = _LANGUAGES[Path(file.name).suffix]
    text = file.text.expandtabs(_TAB)
    shown = Syntax(text, lexer, theme="ansi_dark", background_color="default").highlight(text)
    for ghost in file.ghosts:
        before, after = file.text[: ghost.start], file.text[: ghost.start] + ghost.text
        shown.stylize(_GHOST, len(before.expandtabs(_TAB)), len(after.expandtabs(_TAB)))
    shown.rstrip()
    return Panel(shown, title=file.name, title_align="left", box=box.ROUNDED, padding=(1, 2))


def _marked(file: Finished, before: str, after: str) -> str:
    pieces, end = [], 0
    for ghost in file.ghosts:
        if ghost.text:
            pieces += [file.text[end : ghost.start], before, ghost.text, after]
            end = ghost.start + len(ghost.text)
    return "".join([*pieces, file.text[end:]])


def _costs(files: list[Finished]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Cost of each suggestion", title_justify="left")
    table.add_column("cursor")
    for column in ("evaluated", "generated", "time"):
        table.add_column(column, justify="right")
    for file in files:
        for ghost in file.ghosts:
            table.add_row(
                f"{file.name}:{ghost.line}",
                f"{ghost.evaluated} tokens",
                f"{ghost.generated} tokens",
                f"{ghost.wait_ms:,.0f} ms",
            )
    return table
