"""The index follows the disk: files, and whole folders of which the system tells only the name."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from context.index.project_index import Index, keep

_TRIES = 100


async def seen(index: Index, wanted: Any) -> Any:
    """Wait until the index holds just these files; False if it never does."""
    for _ in range(_TRIES):
        if set(index.store.stamps(str(index.roots[0]))) == wanted:
            return True
        await asyncio.sleep(0.1)
    return False


def test_folders_that_move_come_and_go(tmp_path: Path) -> None:
    root, outside = tmp_path / "project", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x.py").write_text("def old_one(): pass\n")
    (root / "a" / "y.py").write_text("def other_one(): pass\n")
    outside.mkdir()
    (outside / "z.py").write_text("def moved_in(): pass\n")
    (outside / ".env").write_text("TOKEN=1\n")
    index = Index([root])

    async def watch() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keep(index, stop))
        assert await seen(index, {"a/b/x.py", "a/y.py"})
        for attempt in range(_TRIES):  # the watch begins some time after the first reading
            (root / "first.py").write_text(f"first = {attempt}\n")
            await asyncio.sleep(0.1)
            if "first.py" in index.store.stamps(str(root)):
                break
        (root / "first.py").unlink()
        assert await seen(index, {"a/b/x.py", "a/y.py"})
        (root / "a").rename(root / "c")
        assert await seen(index, {"c/b/x.py", "c/y.py"})
        outside.rename(root / "in")
        assert await seen(index, {"c/b/x.py", "c/y.py", "in/z.py"}), "a secret file moved in"
        (root / "in").rename(outside)
        (root / "c" / "y.py").rename(root / "c" / ".env")
        assert await seen(index, {"c/b/x.py"}), "what became a secret is forgotten"
        shutil.rmtree(root / "c")
        assert await seen(index, set())
        (root / "link").symlink_to(outside)
        (root / "n" / "m").mkdir(parents=True)
        (root / "n" / "m" / "q.py").write_text("def newest_one(): pass\n")
        assert await seen(index, {"n/m/q.py"})
        stop.set()
        await task

    asyncio.run(watch())
    assert index.store.named(["newest_one"]) and not index.store.named(["old_one", "moved_in"])
