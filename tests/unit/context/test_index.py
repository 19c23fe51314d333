"""The index: what it reads, what it leaves, how it follows changes, and how it survives damage."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_counter import ToyCounter

import context
from context.index.open_file import read_text
from context.index.project_index import Index, keep
from context.index.walk import Limits, Walk

NO_MODEL = (ToyCounter(), context.FimLayout("none", {}, {}), dict[str, int]())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for path, text in {
        "a.py": "def alpha():\n    return 1\n",
        "pkg/b.py": "class Beta:\n    def gamma(self):\n        return 2\n",
        "pkg/deep/c.ts": "export function delta() { return 3; }\n",
        "notes.md": "# Epsilon\n\nsome prose about zeta\n",
        "build/out.py": "def generated(): pass\n",
        "pkg/local.log": "noise\n",
        "pkg/kept.log": "kept\n",
        ".gitignore": "build/\n*.log\n",
        "pkg/.gitignore": "!kept.log\n",
        "node_modules/x.js": "function x() {}\n",
        ".env": "SECRET=1\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def paths(index: Index) -> Any:
    return {path for root in index.roots for path in index.store.stamps(str(root))}


def test_it_reads_what_may_be_read(project: Path) -> None:
    index = Index([project])
    report = index.refresh()
    found = paths(index)
    assert {"a.py", "pkg/b.py", "pkg/deep/c.ts", "notes.md", "pkg/kept.log"} <= found
    assert not found & {"build/out.py", "pkg/local.log", "node_modules/x.js", ".env"}
    assert report.left_out[".gitignore"] == 2
    assert report.left_out["secret"] == 1
    assert {row.name for row in index.store.named(["alpha", "Beta", "gamma", "delta"])} == {
        "alpha",
        "Beta",
        "gamma",
        "delta",
    }
    (best, *_) = index.store.search(["zeta"], 3)
    assert best.file.path == "notes.md"


def test_the_users_excludes_count(project: Path) -> None:
    index = Index([project], excludes=["pkg/", "[broken"])
    index.refresh()
    assert paths(index) == {"a.py", "notes.md", ".gitignore"}


def test_opening_again_reads_nothing(project: Path, tmp_path: Path) -> None:
    store = tmp_path / "index.db"
    Index([project], store).refresh()
    again = Index([project], store)
    assert again.store.named(["alpha"])
    report = again.refresh()
    assert report.read == 0 and report.removed == 0
    assert (store.stat().st_mode & 0o777) == 0o600


def test_it_follows_changes(project: Path) -> None:
    index = Index([project])
    index.refresh()
    version = index.version
    (project / "a.py").write_text("def renamed():\n    return 1\n")
    (project / "pkg/b.py").unlink()
    report = index.refresh()
    assert (report.read, report.removed) == (1, 1)
    assert index.version > version
    assert index.store.named(["renamed"]) and not index.store.named(["alpha", "Beta"])
    assert not index.store.search(["alpha"], 3)


def test_single_files_are_updated(project: Path) -> None:
    index = Index([project])
    index.refresh()
    (project / "new.py").write_text("def fresh(): pass\n")
    assert index.update(project / "new.py") and index.store.named(["fresh"])
    (project / "new.py").unlink()
    assert not index.update(project / "new.py") and not index.store.named(["fresh"])
    (project / "build/out.py").write_text("def generated_again(): pass\n")
    assert not index.update(project / "build/out.py")
    assert not index.update(project / ".env")
    assert not index.update(Path("/elsewhere/a.py"))


def test_links_out_of_the_workspace_are_not_followed(project: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret_plan.py").write_text("def secret_plan(): pass\n")
    (project / "link").symlink_to(outside)
    (project / "file_link.py").symlink_to(outside / "secret_plan.py")
    (project / "loop").symlink_to(project)
    index = Index([project])
    index.refresh()
    assert not index.store.named(["secret_plan"])
    assert not index.update(project / "file_link.py")
    assert not index.update(project / "link" / "secret_plan.py")


@pytest.mark.parametrize("own", ["zoo/pkg", "zoo", "aaa/zz/deep/er", "mmm", "a#b c/pkg"])
def test_a_limit_cuts_what_is_far_from_the_open_file(tmp_path: Path, own: str) -> None:
    """C15: files beside the open one are indexed, wherever their folder is in the alphabet."""
    for name in ("aaa", "bbb/one", "ccc", own):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for at in range(6):
            (tmp_path / name / f"f{at}.py").write_text(f"def f{at}(): pass\n")
    workspace = context.Workspace([tmp_path], *NO_MODEL, limits=Limits(max_files=7))
    workspace.open(tmp_path / own / "f0.py", "x = 1\n")
    report = workspace.index.refresh()
    found = paths(workspace.index)
    assert {f"{own}/f{at}.py" for at in range(6)} <= found and len(found) == 7
    assert report.left_out["limit of files"] > 0
    assert f"{report.left_out['limit of files']} more" in workspace.index.problem


def test_opening_a_file_far_away_makes_a_partial_index_stale(tmp_path: Path) -> None:
    """C15: what is near a file opened later is read too; a complete index stays as it is."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for at in range(3):
            (tmp_path / name / f"f{at}.py").write_text("x = 1\n")
    workspace = context.Workspace([tmp_path], *NO_MODEL, limits=Limits(max_files=4))
    workspace.open(tmp_path / "one" / "f0.py", "")
    workspace.index.refresh()
    assert not workspace.index.stale()
    workspace.open(tmp_path / "two" / "f0.py", "")
    assert workspace.index.stale()
    workspace.index.refresh()
    assert not workspace.index.stale()
    assert {f"two/f{at}.py" for at in range(3)} <= paths(workspace.index)
    workspace.open(tmp_path / "one" / "f1.py", "")  # a folder that is known already
    assert not workspace.index.stale()
    complete = context.Workspace([tmp_path], *NO_MODEL)
    complete.index.refresh()
    complete.open(tmp_path / "one" / "f0.py", "")
    assert not complete.index.stale() and complete.index.problem == ""


def test_limits_hold(project: Path) -> None:
    index = Index([project], limits=Limits(max_files=2))
    report = index.refresh()
    assert len(paths(index)) == 2 and report.left_out["limit of files"] > 0
    (project / "a.py").write_text("x = 1\n" * 1000)
    index = Index([project], limits=Limits(max_file_bytes=100))
    report = index.refresh()
    assert "a.py" not in paths(index) and report.left_out["too large"] == 1
    index = Index([project], limits=Limits(max_total_bytes=60))
    index.refresh()
    assert sum(size for size, _ in index.store.stamps(str(index.roots[0])).values()) <= 60


def test_several_roots_and_nested_ones(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.py").write_text("def other_one(): pass\n")
    store = tmp_path / "index.db"
    index = Index([project, other, project / "pkg"], store)
    index.refresh()
    assert len(index.roots) == 2
    assert index.place(other / "o.py") == (other, "o.py")
    assert len(index.store.named(["Beta"])) == 1, "a nested root is met once"
    fewer = Index([project], store)
    fewer.refresh()
    assert not fewer.store.named(["other_one"]), "a root that is gone is forgotten"


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 50, None])
def test_a_damaged_store_is_built_again(project: Path, tmp_path: Path, damage: Any) -> None:
    store = tmp_path / "index.db"
    first = Index([project], store)
    first.refresh()
    first.close()
    data = store.read_bytes()
    store.write_bytes(data[: len(data) // 2] if damage is None else damage)
    index = Index([project], store)
    index.refresh()
    assert index.store.named(["alpha"])


def test_binary_and_odd_encodings(project: Path) -> None:
    (project / "bin.py").write_bytes(b"\0\1\2def nope(): pass")
    (project / "latin.py").write_bytes("def caf\u00e9_latin(): pass\n".encode("latin-1"))
    (project / "wide.py").write_bytes("def wide_one(): pass\n".encode("utf-16"))
    (project / "bom.py").write_bytes(b"\xef\xbb\xbfdef bom_one(): pass\n")
    (project / "lines.py").write_bytes(b"def crlf_one():\r\n    pass\r\n")
    index = Index([project])
    index.refresh()
    assert index.store.named(["wide_one"]) and index.store.named(["bom_one", "crlf_one"])
    assert not index.store.named(["nope"])


def test_files_that_vanish_or_are_unreadable(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = Walk(project)
    found = list(walk.files())
    (project / "a.py").unlink()
    assert read_text(project / "a.py", 100) is None
    assert any(one.path == "a.py" for one in found)
    index = Index([project])
    real = Walk.files

    def vanishing(self: Walk) -> Iterator[Any]:
        for one in real(self):
            Path(one.root, one.path).unlink(missing_ok=True)
            yield one

    monkeypatch.setattr(Walk, "files", vanishing)
    report = index.refresh()
    assert report.files > 0 and index.store.count()[1] == 0
    assert Index([project / "gone"]).refresh().files == 0


def test_a_fifo_does_not_stop_it(project: Path) -> None:
    os.mkfifo(project / "pipe.py")
    assert Index([project]).refresh().left_out["not a regular file"] == 1


def test_it_can_be_stopped_and_read_meanwhile(project: Path) -> None:
    for at in range(300):
        (project / f"m{at}.py").write_text(f"def function_{at}(): return {at}\n" * 20)
    index = Index([project])
    seen = []

    def progress(done: Any, total: Any) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            index.stop()

    worker = threading.Thread(target=index.refresh, args=(progress,))
    worker.start()
    while worker.is_alive():
        index.store.named(["function_7"])
        index.store.search(["function"], 3)
    worker.join()
    assert len(seen) == 3 and seen[-1][0] < seen[-1][1]
    index.refresh()
    assert index.store.count()[0] > 300


def test_a_closed_index_answers_with_nothing(project: Path) -> None:
    index = Index([project])
    index.refresh()
    index.close()
    assert index.store.named(["alpha"]) == [] and index.store.count() == (0, 0, 0)


def test_watching_follows_the_disk(project: Path) -> None:
    index = Index([project])

    async def watch() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keep(index, stop))
        for _ in range(100):
            await asyncio.sleep(0.1)
            if index.store.named(["alpha"]):
                break
        for attempt in range(100):  # the watch begins some time after the first reading
            (project / "later.py").write_text(f"def later_one(): return {attempt}\n")
            await asyncio.sleep(0.1)
            if index.store.named(["later_one"]):
                break
        stop.set()
        await task

    asyncio.run(watch())
    assert index.store.named(["later_one"])
