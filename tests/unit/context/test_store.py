"""T13, T22: the index survives damage, a second writer, and folders that cannot be watched."""

# ruff: noqa: E501

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from context.index.project_index import Index, keep


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    for at in range(120):
        code = f"def harbour_{at}(tide):\n    return tide * {at}\n" * 4
        (root / f"part_{at}.py").write_text(code)
    return root


def complete(index: Index) -> Any:
    return len(index.store.stamps(str(index.roots[0]))) == 120 and index.store.named(
        ["harbour_7"], 99
    )


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_store_damaged_behind_its_first_table_is_built_again(
    project: Path, tmp_path: Path, share: float
) -> None:
    """T13: the file opens, but what is in it is not whole."""
    path = tmp_path / "index.db"
    first = Index([project], path)
    first.refresh()
    first.close()
    data = bytearray(path.read_bytes())
    start = int(len(data) * share) // 4096 * 4096
    data[start : start + 8 * 4096] = b"\xa5" * (8 * 4096)
    path.write_bytes(data)
    index = Index([project], path)
    index.refresh()
    assert complete(index) and index.problem == ""
    index.close()
    again = Index([project], path)
    assert complete(again), "it survives reopening"


def test_a_store_damaged_while_it_is_open_is_built_again(project: Path, tmp_path: Path) -> None:
    """T13: found by a failing read or write, and repaired by the next refresh."""
    path = tmp_path / "index.db"
    index = Index([project], path)
    index.refresh()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("PRAGMA writable_schema = ON")
        other.execute("UPDATE search_data SET block = x'00ff00ff' WHERE id > 1")
    for at in range(120):
        (project / f"part_{at}.py").write_text(f"def harbour_{at}(): return 1\n" * 5)
    index.refresh()
    index.refresh()
    assert complete(index) and index.store.search(["harbour"], 3)


def _sql(*statements: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            for one in (*statements, "PRAGMA wal_checkpoint(TRUNCATE)"):
                db.execute(one).fetchall()

    return run


def _cut(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])  # type: ignore[return-value]


def _replaced(suffix: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: path.with_name(path.name + suffix).write_bytes(data)  # type: ignore[return-value]


def _with_junk_lock(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    path.with_name(path.name + ".lock").write_bytes(b"junk" * 1000)


DAMAGE = {
    "empty": _cut(0), "one byte": _cut(1), "header": _cut(100), "two pages": _cut(8192), "odd size": _cut(50_001),
    "zeros": _replaced("", b"\0" * 50_000), "log": _replaced("-wal", b"\xa5" * 9000),
    "shared memory": _replaced("-shm", b"\xa5" * 40_000), "lock": _with_junk_lock,
    "no entries": _sql("DROP TABLE entries"), "no passages": _sql("DROP TABLE passages"),
    "no search": _sql("DROP TABLE search"), "no vocabulary": _sql("DROP TABLE vocabulary"),
    "no index": _sql("DROP INDEX entries_name"), "a column more": _sql("ALTER TABLE files ADD COLUMN x TEXT"),
    "another column": _sql("ALTER TABLE entries RENAME COLUMN name TO title"),
    "version 0": _sql("PRAGMA user_version = 0"), "a later version": _sql("PRAGMA user_version = 99"),
    "a file's entries gone": _sql("DELETE FROM entries WHERE file = 7"),
    "an entry gone": _sql("DELETE FROM entries WHERE file = 9 AND position = 0"),
    "all entries gone": _sql("DELETE FROM entries"),
    "passages gone": _sql("DELETE FROM passages WHERE file > 100"),
    "a file gone": _sql("DELETE FROM files WHERE id = 120"), "files gone": _sql("DELETE FROM files"),
    "found words gone": _sql("DELETE FROM search WHERE rowid < 40"),
    "sizes gone": _sql("DELETE FROM search_docsize WHERE id = 3"),
    "texts gone": _sql("DELETE FROM search_content WHERE id = 3"),
    "terms gone": _sql("DELETE FROM search_data"), "term places gone": _sql("DELETE FROM search_idx"),
    "an entry too many": _sql("INSERT INTO entries VALUES (999, 0, 'a', 'value', -1, 'a', 0, 1)"),
    "a row moved": _sql("UPDATE passages SET file = file + 1000 WHERE id = 5"),
    "no UTF-8": _sql("UPDATE files SET path = x'ff' || path"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_store_that_is_not_as_it_was_made_is_built_again(
    project: Path, tmp_path: Path, name: str
) -> None:
    """T13: whatever is missing, cut off or of another program; and it survives reopening."""
    path = tmp_path / "index.db"
    first = Index([project], path)
    first.refresh()
    first.close()
    DAMAGE[name](path)
    index = Index([project], path)
    index.refresh()
    assert complete(index) and index.store.search(["harbour"], 3) and index.problem == ""
    index.close()
    again = Index([project], path)
    assert complete(again) and again.store.search(["harbour"], 3)
    again.close()


def test_rows_deleted_while_a_store_is_open_come_back(project: Path, tmp_path: Path) -> None:
    """T13: with the next refresh, though no file has changed; a whole store is not built again."""
    path = tmp_path / "index.db"
    index = Index([project], path)
    index.refresh()
    index.store.check()
    assert not index.store.damaged
    inode = path.stat().st_ino
    assert index.refresh().read == 0 and path.stat().st_ino == inode
    _sql("DELETE FROM entries WHERE file < 50")(path)
    index.refresh()
    assert complete(index) and index.store.search(["harbour"], 3) and index.problem == ""
    index.store.check()
    assert not index.store.damaged


@pytest.mark.parametrize("what", ["folder", "dangling link", "file above"])
def test_a_store_that_cannot_be_kept_is_in_memory(project: Path, tmp_path: Path, what: str) -> None:
    """T13: nothing ends where the place of the store is taken."""
    path = tmp_path / "cache" / "index.db"
    if what == "folder":
        path.mkdir(parents=True)
    elif what == "dangling link":
        path.parent.mkdir()
        path.symlink_to(tmp_path / "missing" / "index.db")
    else:
        path.parent.write_text("a file")
    index = Index([project], path)
    index.refresh()
    assert complete(index)
    index.store.damaged = True
    index.refresh()
    assert complete(index)


def test_a_change_that_a_busy_store_did_not_take_is_made_later(
    project: Path, tmp_path: Path
) -> None:
    """T13: following a file ends with no lock."""
    path = tmp_path / "index.db"
    index = Index([project], path)
    index.refresh()
    (project / "part_1.py").write_text("def late_one(): pass\n")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not index.update(project / "part_1.py") and index.stale()
        other.execute("ROLLBACK")
    index.refresh()
    assert index.store.named(["late_one"]) and not index.stale()


def test_two_servers_may_write_at_once(project: Path, tmp_path: Path) -> None:
    """T13: each waits for the other; neither stops with half the files."""
    path = tmp_path / "index.db"
    indexes = [Index([project], path) for _ in range(2)]
    threads = [threading.Thread(target=index.refresh) for index in indexes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(complete(index) and index.problem == "" for index in indexes)


def test_a_store_that_another_server_has_rebuilt_is_kept(project: Path, tmp_path: Path) -> None:
    """T13: two servers find the same damage; the second opens what the first has built."""
    path = tmp_path / "index.db"
    first, second = Index([project], path), Index([project], path)
    for index in (first, second):
        index.store.damaged = True
        index.refresh()
    assert complete(first) and complete(second)
    with Path(path).open("rb") as file:  # nobody deleted the first one's rows
        assert second.store.stamps(str(second.roots[0])) and file.read(15) == b"SQLite format 3"
    (project / "late.py").write_text("def late_one(): pass\n")
    first.refresh()
    assert second.store.named(["late_one"])


def test_a_damaged_store_is_deleted_by_one_server_at_a_time(project: Path, tmp_path: Path) -> None:
    """T13: while another one deletes, the index is kept in memory."""
    path = tmp_path / "index.db"
    path.write_bytes(b"no database" * 1000)
    with sqlite3.connect(f"{path}.lock", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        index = Index([project], path)
        index.refresh()
        assert complete(index) and path.read_bytes().startswith(b"no database")
        other.execute("ROLLBACK")
    again = Index([project], path)
    again.refresh()
    assert complete(again) and path.read_bytes().startswith(b"SQLite format 3")


def test_a_lock_that_stays_is_reported(project: Path, tmp_path: Path) -> None:
    """T13: reading does not end silently."""
    path = tmp_path / "index.db"
    index = Index([project], path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        index.refresh()
        assert "locked" in index.problem
        other.execute("ROLLBACK")
    index.refresh()
    assert complete(index) and index.problem == ""


def test_folders_that_cannot_be_watched_are_polled(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T22: the system's limit cannot be lowered in a test, so its error is raised instead."""

    def no_watches(*_args: Any, **_options: Any) -> None:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "awatch", no_watches)
    index = Index([project])

    async def follow() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keep(index, stop, poll_s=0.05))
        for _ in range(500):
            if "watch limit" in index.problem:
                break
            await asyncio.sleep(0.02)
        assert "watch limit" in index.problem
        (project / "later.py").write_text("def later_one(): pass\n")
        for _ in range(200):
            if index.store.named(["later_one"]):
                break
            await asyncio.sleep(0.05)
        stop.set()
        await task

    asyncio.run(follow())
    assert index.store.named(["later_one"])
