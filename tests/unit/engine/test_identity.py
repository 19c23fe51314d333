"""Which files a model was loaded from (S9)."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import tiny_models
from daemons import until
from msgspec.structs import replace

from assistant.daemon.engine_supervisor import EngineSupervisor
from assistant.daemon.http.response_formats import error_object
from assistant.daemon.loading import Loadable
from assistant.engine.local import LlamaEngine, file_identity
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, ModelInfo
from assistant.errors import GGUFError, LoadError, ModelChangedError, UnderkeelError
from assistant.memory.ladder import Rung
from assistant.wire import ErrorNow, ServiceState


def test_a_replaced_or_changed_file_is_another_one(tmp_path: Path) -> None:
    """S9: by inode, by size, by time; a missing one, a folder, a part of several."""
    file = tmp_path / "m.gguf"
    assert file_identity(str(file)) == file_identity("") == ()
    file.write_bytes(b"weights")
    seen = [file_identity(str(file))]
    assert seen[0] == file_identity(str(file)) != ()
    other = tmp_path / "new"
    other.write_bytes(b"weights")
    other.replace(file)
    seen.append(file_identity(str(file)))
    with file.open("ab") as opened:
        opened.write(b"more")
    seen.append(file_identity(str(file)))
    os.utime(file, ns=(1, 1))
    seen.append(file_identity(str(file)))
    assert len(set(seen)) == 4
    # Other bytes of the same length, with the old time: as rsync and tar leave them.
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(1, 1))
    seen.append(file_identity(str(file)))
    file.chmod(0o640)  # it may not have been readable before
    seen.append(file_identity(str(file)))
    assert len(set(seen)) == 6 or sys.platform == "win32"
    link = tmp_path / "link.gguf"
    link.symlink_to(file)
    assert file_identity(str(link)) == seen[-1]
    link.unlink()
    link.symlink_to(other_file := tmp_path / "other.gguf")
    other_file.write_bytes(b"weights")
    assert file_identity(str(link)) != seen[-1]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"a")
    before = file_identity(str(folder))
    (folder / "b.safetensors").write_bytes(b"b")
    assert file_identity(str(folder)) != before
    parts = [tmp_path / f"big[1]-0000{n}-of-00002.gguf" for n in (1, 2)]
    for part in parts:
        part.write_bytes(b"x")
    before = file_identity(str(parts[0]))
    assert len(before) == 2
    parts[1].write_bytes(b"longer")
    assert file_identity(str(parts[0])) != before


def test_what_other_weights_computed_is_not_taken_up(tmp_path: Path, dense_model: Path) -> None:
    """S9: the file is replaced while the model is unloaded."""
    file = tmp_path / "m.gguf"
    shutil.copyfile(dense_model, file)

    async def cached(engine: LlamaEngine, prompt: tuple[int, ...]) -> int:
        async for event in engine.generate(GenerateRequest(id="r", prompt=prompt, max_tokens=1)):
            if isinstance(event, Done):
                return event.timings.cached_tokens
        raise AssertionError("no end")

    async def main() -> None:
        spec = LoadSpec(path=str(file), n_ctx=256, n_threads=1)
        engine = LlamaEngine()
        await engine.load(spec)
        prompt = tuple(await engine.tokenise("def add(a, b):\n    return a + b\n"))
        assert await cached(engine, prompt) == 0
        await engine.unload()
        await engine.load(spec)
        assert await cached(engine, prompt) == len(prompt) - 1
        await engine.unload()
        shutil.copyfile(dense_model, tmp_path / "new")
        (tmp_path / "new").replace(file)
        await engine.load(spec)
        assert await cached(engine, prompt) == 0
        await engine.close()

    asyncio.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
def test_a_name_that_is_no_utf_8_is_an_error_that_can_be_sent(tmp_path: Path) -> None:
    """S12: names of files are any bytes on Linux; they cannot cross to the worker, nor in JSON."""
    path = os.fsdecode(bytes(tiny_models.sliding_window(tmp_path / "m.gguf"))[:-5] + b"\xff.gguf")
    shutil.copyfile(tmp_path / "m.gguf", path)

    async def main() -> None:
        engine = LlamaEngine()
        with pytest.raises(LoadError, match="not in UTF-8") as caught:
            await engine.load(LoadSpec(path=path, n_ctx=128))
        assert engine.pid is None
        sent = msgspec.json.encode(ErrorNow.of(caught.value))
        assert b"\\\\udcff" in sent
        assert "udcff" in msgspec.json.encode(error_object(caught.value)).decode()

    asyncio.run(main())


def test_a_load_ends_answers_with_an_error_that_is_tried_again(dense_model: Path) -> None:
    """The supervisor repeats what a LoadError ended once the model is served again."""

    async def main() -> None:
        spec = LoadSpec(path=str(dense_model), n_ctx=512, n_threads=1)
        engine = LlamaEngine()
        await engine.load(spec)
        prompt = tuple(await engine.tokenise("def count(n):\n    return [1, 2, 3, 4"))
        answer = engine.generate(GenerateRequest(id="r", prompt=prompt, max_tokens=400))
        assert isinstance(await anext(answer), Delta)
        load = asyncio.create_task(engine.load(replace(spec, n_ctx=256)))
        with pytest.raises(LoadError, match="reloaded"):
            async for _ in answer:
                pass
        await load
        await engine.close()

    asyncio.run(main())


def replaced(file: Path, other: Path) -> None:
    shutil.copyfile(other, file.with_name("new"))
    file.with_name("new").replace(file)


def overwritten(file: Path, other: Path) -> None:
    """In place: the same inode."""
    shutil.copyfile(other, file)


def linked(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(other)


def with_its_old_time(file: Path, other: Path) -> None:
    status = file.stat()
    replaced(file, other)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def removed_first(file: Path, other: Path) -> None:
    file.unlink()
    assert file_identity(str(file)) == ()
    shutil.copyfile(other, file)


CHANGES = [replaced, overwritten, linked, with_its_old_time, removed_first]


def served(engine: LlamaEngine, file: Path) -> EngineSupervisor:
    def plan() -> Loadable:
        if file.stat().st_size < 10_000:
            raise GGUFError("the file is truncated", subject=str(file))
        spec = LoadSpec(path=str(file), n_ctx=512, n_threads=1)
        smaller = replace(spec, n_ctx=256)
        rungs = (Rung("plan", "plan", spec, {}), Rung("context1", "context", smaller, {}))
        return Loadable(rungs)

    return EngineSupervisor(engine, plan, identity=lambda: file_identity(str(file)))


async def ready(supervisor: EngineSupervisor) -> ModelInfo:
    supervisor.start_load()
    await until(lambda: supervisor.state is not ServiceState.LOADING)
    return await supervisor.usable(30)


async def text(supervisor: EngineSupervisor, name: str, edition: int | None = None) -> str:
    request = GenerateRequest(id=name, prompt=(1, 40, 41), max_tokens=8)
    found = [item async for item in supervisor.generate(request, edition)]
    return "".join(item.text for item in found if isinstance(item, Delta))


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_replaced_while_it_is_served_is_loaded_again(
    change: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """S9: before the next request, with a new plan; nothing of the old weights is used."""
    first = tiny_models.sliding_window(tmp_path / "first.gguf", "First")
    second = tiny_models.sliding_window(tmp_path / "second.gguf", "Other")
    file = tmp_path / "m.gguf"
    shutil.copyfile(first, file)

    async def main() -> None:
        engine = LlamaEngine()
        supervisor = served(engine, file)
        assert (await ready(supervisor)).name == "First"
        pid, edition = engine.pid, supervisor.edition
        assert (await supervisor.usable()).name == "First" and engine.pid == pid
        change(file, second)
        assert (await supervisor.usable(30)).name == "Other"
        assert supervisor.edition == edition + 1
        with pytest.raises(ModelChangedError, match="replaced"):
            await text(supervisor, "old tokens", edition)
        assert await text(supervisor, "new tokens", supervisor.edition)
        pid = engine.pid
        assert (await supervisor.usable()).name == "Other" and engine.pid == pid
        await supervisor.close()

    asyncio.run(main())


def test_answers_end_before_a_replaced_file_is_loaded(tmp_path: Path) -> None:
    """S9: with the old weights, which are still in memory; who comes next waits for the new."""
    file = tiny_models.sliding_window(tmp_path / "m.gguf", "First")
    other = tiny_models.sliding_window(tmp_path / "other.gguf", "Other")

    async def main() -> None:
        engine = LlamaEngine()
        supervisor = served(engine, file)
        await ready(supervisor)
        whole = await text(supervisor, "whole")
        request = GenerateRequest(id="running", prompt=(1, 40, 41), max_tokens=8)
        answer = supervisor.generate(request)
        first = await anext(answer)
        replaced(file, other)
        # Several that come at once wait for one load.
        coming = [asyncio.create_task(supervisor.usable(30)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in coming)
        assert supervisor.stage == "waiting for answers to end"
        rest = [item async for item in answer]
        deltas = [one for one in (first, *rest) if isinstance(one, Delta)]
        assert "".join(one.text for one in deltas) == whole
        assert {info.name for info in await asyncio.gather(*coming)} == {"Other"}
        await supervisor.close()

    asyncio.run(main())


def test_what_replaces_nothing_loads_nothing(tmp_path: Path) -> None:
    """S9: a file that is gone, or moved away and back, costs no load; a bad one is an error until
    it is whole."""
    file = tiny_models.sliding_window(tmp_path / "m.gguf", "First")
    kept = tmp_path / "kept.gguf"
    shutil.copyfile(file, kept)

    async def main() -> None:
        engine = LlamaEngine()
        supervisor = served(engine, file)
        await ready(supervisor)
        pid = engine.pid
        file.rename(tmp_path / "away.gguf")
        assert (await supervisor.usable()).name == "First" and engine.pid == pid
        assert await text(supervisor, "without a file")
        file.write_bytes(b"half")
        with pytest.raises(UnderkeelError, match="truncated"):
            await supervisor.usable(30)
        due = [supervisor.due]
        replaced(file, kept)
        assert [*due, supervisor.due] == [False, True]
        supervisor.start_load()
        assert (await supervisor.usable(30)).name == "First"
        await supervisor.close()

    asyncio.run(main())


def test_a_step_of_the_ladder_takes_a_replaced_file_as_a_whole(tmp_path: Path) -> None:
    """S9: a smaller context for the old plan, with the old weights, would be called the new one."""
    file = tiny_models.sliding_window(tmp_path / "m.gguf", "First")
    other = tiny_models.sliding_window(tmp_path / "other.gguf", "Other")

    async def main() -> None:
        engine = LlamaEngine()
        supervisor = served(engine, file)
        await ready(supervisor)
        replaced(file, other)
        assert not await supervisor.move_to(1)
        info = await supervisor.usable(30)
        assert (info.name, info.n_ctx, supervisor.step) == ("Other", 512, 0)
        await supervisor.close()
        # The engine alone: a model in memory is no longer that of the path.
        engine = LlamaEngine()
        spec = LoadSpec(path=str(file), n_ctx=512, n_threads=1)
        assert (await engine.load(spec)).name == "Other"
        replaced(file, tiny_models.sliding_window(tmp_path / "third.gguf", "Third"))
        assert (await engine.reshape(replace(spec, n_ctx=256))).name == "Third"
        await engine.close()

    asyncio.run(main())
