"""Which files a model was loaded from (S9)."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import tiny_models
from msgspec.structs import replace

from assistant.daemon.http.response_formats import error_object
from assistant.engine.local import LlamaEngine, file_identity
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec
from assistant.errors import LoadError
from assistant.wire import ErrorNow


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
