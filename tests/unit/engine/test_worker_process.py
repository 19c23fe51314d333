"""The worker's process: its pipes, its group, and its end (cases T3, T16, T19, S2, T24)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from assistant import oom_score
from assistant.engine.local import LlamaEngine
from assistant.engine.types import LoadSpec
from assistant.errors import LoadError, WorkerDiedError
from assistant.memory.planning import dry_run

SPEC = LoadSpec(path="/nowhere.gguf")

# A worker that speaks the protocol as far as a load, and then does what a test says.
_WORKER = """
import os, sys, subprocess, time, threading, struct
from assistant.engine import ipc
from assistant.engine.types import ModelInfo, EngineStats

def send(report):
    os.write(1, ipc.encode(report))

def commands():
    cutter = ipc.Cutter()
    while data := os.read(0, 1 << 16):
        for body in cutter.feed(data):
            yield ipc.command(body)

def info():
    sizes = dict(n_vocab=1, n_ctx=8, n_ctx_train=8)
    return ModelInfo(name="scripted", path="", architecture="none", **sizes)

for command in commands():
    if isinstance(command, ipc.Load):
        progress = lambda share: send(ipc.Progress(id=command.id, share=share))
        {load}
        send(ipc.Loaded(id=command.id, info=info()))
    elif isinstance(command, ipc.Tokenise):
        {reaction}
    elif isinstance(command, ipc.GetStats):
        send(ipc.Stats(id=command.id, stats=EngineStats()))
    elif isinstance(command, ipc.Save):
        send(ipc.Saved(id=command.id, sequences=()))
"""


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LlamaEngine]:
    """An engine whose worker does `reaction` when it is to tokenise, and `load` before a load."""
    folders = [str(tmp_path), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))

    def make(reaction: str, hang_s: float = 30.0, load: str = "pass") -> LlamaEngine:
        body = textwrap.indent(textwrap.dedent(reaction).strip(), " " * 8).strip()
        (tmp_path / "scripted_worker.py").write_text(
            _WORKER.replace("{reaction}", body).replace("{load}", load)
        )

        class Scripted(LlamaEngine):
            module = "scripted_worker"

        return Scripted(hang_s)

    return make


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


ANSWER = "send(ipc.Tokens(id=command.id, tokens=(len(command.text),)))"


@pytest.mark.parametrize(
    "written",
    [
        "b'x' * 1_000_000",
        "b'x' * 65_537",
        "b'x' * 300_000 + b'\\n' + b'y' * 300_000",
        "b'\\n' * 300_000",
        "b'\\xff\\x00\\r' * 200_000",
        "b'a line\\n' * 100_000",
    ],
)
def test_any_amount_of_output_on_stderr_is_read(
    scripted: Callable[..., LlamaEngine], written: str
) -> None:
    """T3: a line longer than a pipe's buffer must not stop the reader and so the worker."""
    engine = scripted(f"for _ in range(3): os.write(2, {written})\n{ANSWER}")

    async def body() -> None:
        await engine.load(SPEC)
        for _ in range(3):
            assert await engine.tokenise("abc") == [3]
        await engine.close()

    run(body)


def test_the_last_line_on_stderr_is_in_the_error(scripted: Callable[..., LlamaEngine]) -> None:
    engine = scripted(
        "os.write(2, b'z' * 100_000 + b'\\nCUDA error: out of memory\\n'); os._exit(3)"
    )

    async def body() -> None:
        await engine.load(SPEC)
        with pytest.raises(WorkerDiedError, match="exit code 3; CUDA error: out of memory"):
            await engine.tokenise("abc")
        await engine.close()

    run(body)


async def _ended(pid: int) -> None:
    """Wait until a process that was killed is gone, 10 s at most."""
    for _ in range(500):
        if not _runs(pid):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"process {pid} still runs")


_CHILD = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], {options})"


@pytest.mark.parametrize("options", ["stdin=subprocess.DEVNULL", "close_fds=False"])
@pytest.mark.parametrize("end", ["os._exit(1)", "os.abort()"])
def test_a_child_that_inherited_the_pipes_does_not_delay_the_end(
    scripted: Callable[..., LlamaEngine], options: str, end: str
) -> None:
    """T3: the process is waited for and not its pipes, and its group is ended."""
    child = _CHILD.format(options=options)
    engine = scripted(f"child = {child}; os.write(2, b'%d\\n' % child.pid); {end}")

    async def body() -> None:
        await engine.load(SPEC)
        with pytest.raises(WorkerDiedError) as death:
            await engine.tokenise("abc")
        child_pid = int(death.value.message.rpartition("; ")[2].rstrip(")").split()[-1])
        await _ended(child_pid)
        await asyncio.wait_for(engine.load(SPEC), 20)
        await engine.close()

    run(body)


def test_a_child_that_left_the_group_does_not_delay_the_end(
    scripted: Callable[..., LlamaEngine],
) -> None:
    """T3: it cannot be ended with the group, and keeps the pipes open for as long as it runs."""
    child = _CHILD.format(options="start_new_session=True")
    engine = scripted(f"child = {child}; os.write(2, b'%d\\n' % child.pid); os._exit(1)")

    async def body() -> None:
        await engine.load(SPEC)
        with pytest.raises(WorkerDiedError) as death:
            await engine.tokenise("abc")
        psutil.Process(int(death.value.message.rpartition("; ")[2].rstrip(")"))).kill()
        await asyncio.wait_for(engine.close(), 10)

    run(body)


def test_closing_ends_the_group(scripted: Callable[..., LlamaEngine]) -> None:
    """T3: what a living worker started ends with it."""
    child = _CHILD.format(options="stdin=subprocess.DEVNULL")
    engine = scripted(f"child = {child}; send(ipc.Tokens(id=command.id, tokens=(child.pid,)))")

    async def body() -> None:
        await engine.load(SPEC)
        (child_pid,) = await engine.tokenise("abc")
        assert _runs(child_pid)
        await asyncio.wait_for(engine.unload(), 10)
        await asyncio.sleep(0.05)
        await _ended(child_pid)
        await engine.close()

    run(body)


@pytest.mark.parametrize(
    ("reaction", "message"),
    [
        ("os.write(1, b'\\xff' * 8); time.sleep(600)", "frame"),
        ("os.close(1); time.sleep(600)", "closed its output"),
        ("os.write(1, b'\\x04\\x00\\x00\\x00abcd'); time.sleep(600)", "frame"),
    ],
)
def test_output_that_is_no_frame_ends_the_worker(
    scripted: Callable[..., LlamaEngine], reaction: str, message: str
) -> None:
    engine = scripted(reaction)

    async def body() -> None:
        await engine.load(SPEC)
        with pytest.raises(WorkerDiedError, match=message):
            await engine.tokenise("abc")
        await engine.close()

    run(body)


SLOW = {
    "computes": "end = time.monotonic() + 2\nwhile time.monotonic() < end: sum(range(1000))",
    "computes in a thread": """
t = threading.Thread(target=lambda: [sum(range(10**6)) for _ in range(60)])
t.start(); t.join()
""",
    "has few turns": "for _ in range(16): time.sleep(0.1); sum(range(10**6))",
    "reads from a disk": """
with open("big", "wb") as file: file.write(os.urandom(1 << 20)); os.fsync(file.fileno())
file = open("big", "rb")
for _ in range(6):
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0), file.read(), time.sleep(0.3)
""",
    "has its pages read again": """
import mmap
with open("big", "wb") as file: file.write(os.urandom(1 << 22)); os.fsync(file.fileno())
file = open("big", "rb")
pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
for _ in range(6):
    pages.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    sum(pages[at] for at in range(0, len(pages), 4096)), time.sleep(0.3)
""",
    "works for others between": """
for _ in range(8):
    time.sleep(0.25); send(ipc.Stats(id="of another", stats=EngineStats()))
""",
}


@pytest.mark.parametrize("reaction", SLOW.values(), ids=SLOW)
def test_a_long_step_is_waited_for_while_it_advances(
    scripted: Callable[..., LlamaEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reaction: str,
) -> None:
    """T19: a worker that is busy or reads for longer than `hang_s` is not killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("assistant.engine.local._ACTIVITY_S", 0.7)
    engine = scripted(f"{reaction}\n{ANSWER}", hang_s=0.5)

    async def body() -> None:
        await engine.load(SPEC)
        assert await engine.tokenise("abc") == [3]
        await engine.close()

    run(body)


@pytest.mark.parametrize(
    "load", ["time.sleep(2)", "for n in range(10): time.sleep(0.2); progress(n / 10)"]
)
def test_a_slow_load_is_waited_for(scripted: Callable[..., LlamaEngine], load: str) -> None:
    """T19: the disk may be slow, and the process does nothing meanwhile."""
    engine = scripted(ANSWER, hang_s=0.4, load=load)

    async def body() -> None:
        shares: list[float] = []
        await engine.load(SPEC, shares.append)
        assert await engine.tokenise("abc") == [3] and sorted(shares) == shares
        await engine.close()

    run(body)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_worker_that_was_stopped_for_a_moment_goes_on(
    scripted: Callable[..., LlamaEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T19: SIGSTOP and SIGCONT, to it and to the process that waits for it."""
    monkeypatch.setattr("assistant.engine.local._ACTIVITY_S", 0.1)
    engine = scripted(f"time.sleep(0.2)\n{ANSWER}", hang_s=2.0)

    async def body() -> None:
        await engine.load(SPEC)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(engine.tokenise("abc"))
        await asyncio.sleep(0.5)
        os.kill(engine.pid, signal.SIGCONT)
        assert await waiting == [3]
        # Both, as with a container that is paused: nobody was silent for anybody.
        waiting = asyncio.create_task(engine.tokenise("abcd"))
        await asyncio.sleep(0.05)
        os.kill(engine.pid, signal.SIGSTOP)
        time.sleep(3.0)  # noqa: ASYNC251 - this process stands still
        os.kill(engine.pid, signal.SIGCONT)
        assert await waiting == [4]
        await engine.close()

    run(body)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_the_end_of_a_worker_keeps_its_cause(scripted: Callable[..., LlamaEngine]) -> None:
    """T16, T19: it was killed from outside, and is ended by us in the same moment."""
    engine = scripted(ANSWER)

    async def body() -> None:
        for _ in range(20):
            await engine.load(SPEC)
            assert engine.pid is not None
            waiting = asyncio.create_task(engine.stats())
            await asyncio.sleep(0)
            os.kill(engine.pid, signal.SIGKILL)
            await engine.unload()
            with suppress(WorkerDiedError):
                await waiting
            error = waiting.exception()
            assert error is None or (
                isinstance(error, WorkerDiedError) and error.exit_code == -signal.SIGKILL
            )
        await engine.close()

    run(body)


@pytest.mark.parametrize(
    "reaction",
    ["time.sleep(600)", "while True: sum(range(1000))"],
    ids=["idle", "endless loop"],
)
def test_a_worker_that_never_answers_is_ended(
    scripted: Callable[..., LlamaEngine], reaction: str
) -> None:
    """T19: an idle one after `hang_s`, one that computes for ever after a multiple of it."""
    engine = scripted(reaction, hang_s=0.8)

    async def body() -> None:
        await engine.load(SPEC)
        with pytest.raises(WorkerDiedError, match="did not respond") as death:
            await engine.tokenise("abc")
        assert death.value.hung and not death.value.stopped
        await engine.close()

    run(body)


def test_nothing_is_loaded_after_an_unload_or_a_close(
    scripted: Callable[..., LlamaEngine],
) -> None:
    """T8, T16: only the caller that unloaded decides when memory is taken again."""
    engine = scripted(ANSWER)

    async def body() -> None:
        await engine.load(SPEC)
        await engine.unload()
        with pytest.raises(LoadError, match="unloaded"):
            await engine.tokenise("abc")
        assert engine.pid is None
        await engine.load(SPEC)
        assert await engine.tokenise("abc") == [3]
        await engine.close()
        for change in (engine.load, engine.reshape):
            with pytest.raises(LoadError, match="closed"):
                await change(SPEC)
        assert engine.pid is None

    run(body)


def test_a_hundred_unloads_while_text_is_encoded(scripted: Callable[..., LlamaEngine]) -> None:
    """T8: whatever the order, a worker lives after an unload only if it was loaded again."""
    engine = scripted(ANSWER)

    async def encode(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            assert await engine.tokenise("abc") == [3]
        except (LoadError, WorkerDiedError):
            return

    async def body() -> None:
        await engine.load(SPEC)
        for turn in range(20):
            requests = [asyncio.create_task(encode(0.0002 * n * turn)) for n in range(5)]
            await asyncio.sleep(0.0004 * turn)
            await engine.unload()
            await asyncio.gather(*requests)
            assert engine.pid is None
            await engine.load(SPEC)
        await engine.close()

    run(body)


@pytest.mark.skipif(sys.platform != "linux", reason="oom_score_adj is Linux's")
def test_the_worker_is_the_first_to_be_killed_when_memory_runs_out(
    scripted: Callable[..., LlamaEngine],
) -> None:
    """S2, T24: it holds most of the memory and comes back by itself."""
    engine = scripted(ANSWER)

    async def body() -> None:
        await engine.load(SPEC)
        score = _oom_score(engine.pid)
        assert score == oom_score.WORKER > oom_score.DAEMON > 300
        await engine.close()

    run(body)


@pytest.mark.skipif(sys.platform != "linux", reason="oom_score_adj is Linux's")
def test_what_only_measures_is_killed_as_early(tmp_path: Path) -> None:
    """T24: the children that load models for a plan."""
    with (tmp_path / "log").open("wb") as log:
        child = dry_run._start_child(log)
        try:
            for _ in range(500):
                if _oom_score(child.pid) == oom_score.WORKER:
                    break
                time.sleep(0.05)
            assert _oom_score(child.pid) == oom_score.WORKER
        finally:
            child.kill()
            child.communicate()


def test_a_score_is_raised_and_never_lowered(tmp_path: Path) -> None:
    """S2: what a user or a service manager has set higher stays."""
    (tmp_path / "7").mkdir()
    file = tmp_path / "7" / "oom_score_adj"
    for before, after in [("0\n", 600), ("-500\n", 600), ("800\n", 800), ("600\n", 600)]:
        file.write_text(before)
        oom_score.raise_to(600, 7, tmp_path)
        assert int(file.read_text()) == after
    file.write_text("unreadable")
    oom_score.raise_to(600, 7, tmp_path)
    oom_score.raise_to(600, 8, tmp_path)
    assert file.read_text() == "unreadable"


def _oom_score(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
