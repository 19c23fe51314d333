"""The index of a workspace: built once, kept as files change, instant to open again.

Keeps an index up to date as files change on disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import watchfiles

from context.index.file_record import Digest, digest
from context.index.open_file import read_text
from context.index.read_policy import Patterns, is_secret, is_skipped
from context.index.store import Store, is_damage
from context.index.walk import BYTES_LIMIT, FILES_LIMIT, Found, Limits, Walk

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with files done and files in all."""

_BATCH = 32
_WAITS_S = (0.1, 0.4, 1.6)  # between tries to write while another server does
_POLL_S = 30.0
_NEAR_FOLDERS = 16


@dataclass(frozen=True)
class Report:
    """What a refresh did. `left_out` counts files and folders by the reason they are not read."""

    files: int
    read: int
    removed: int
    left_out: dict[str, int]


class Index:
    """Definitions and chunks of all files of a workspace that may be read.

    Args:
        roots: folders of the workspace; one inside another is met once, as part of the outer.
        store: where the index is kept; None keeps it in memory.
        excludes: patterns in .gitignore's form, the user's own.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        store: Path | None = None,
        *,
        limits: Limits | None = None,
        excludes: Sequence[str] = (),
    ) -> None:
        resolved = sorted({_resolved(root) for root in roots})
        self.roots = [
            root for root in resolved if not any(root != o and o in root.parents for o in resolved)
        ]
        self.limits = limits or Limits()
        self.excludes = tuple(excludes)
        self._excluded = Patterns(self.excludes)
        self.store = Store(store)
        self.version = 0
        """Grows whenever the content changes, so that what was derived from it can tell."""
        self.problem = ""
        """Why the index is not complete or not up to date, in plain words; empty if it is."""
        self.partial = False
        """A limit left files out at the last refresh."""
        self._near: dict[tuple[str, str], None] = {}
        self._moved = False
        self._missed = False
        self._stop = threading.Event()

    def approach(self, root: str, path: str) -> None:
        """A file was opened: what is near it is read first, from the next refresh on."""
        key = (root, str(PurePosixPath(path).parent).removeprefix("."))
        if next(reversed(self._near), None) == key:
            return
        self._moved = self._moved or key not in self._near
        self._near.pop(key, None)
        self._near[key] = None
        while len(self._near) > _NEAR_FOLDERS:
            del self._near[next(iter(self._near))]

    def stale(self) -> bool:
        """Whether a refresh would read other files, nearer to those opened since the last one, or
        what a change left out because the store was damaged or busy."""
        return (self.partial and self._moved) or self.store.damaged or self._missed

    def refresh(self, progress: Progress | None = None) -> Report:
        """Bring the index up to date: read what is new or changed, forget what is gone.

        Long-running (milliseconds a file); call it in a thread. `stop` ends it early, and what was
        done until then is kept.
        """
        self._stop.clear()
        self.problem = ""
        for last in (False, True):
            if self.store.damaged:
                self.store.recreate()
            try:
                report = self._refresh(progress)
            except sqlite3.Error as error:
                if not is_damage(error):  # locked for long, or a full disk
                    self.problem = f"the index cannot be written ({error})"
                    return Report(0, 0, 0, {})
                self.store.damaged = True
            if last or not self.store.damaged:
                break
        return report if not self.store.damaged else Report(0, 0, 0, {})

    def _refresh(self, progress: Progress | None) -> Report:
        self.store.check()
        if self.store.damaged:
            return Report(0, 0, 0, {})
        self.store.forget_roots(str(root) for root in self.roots)
        self._moved = self._missed = False
        known = {str(root): self.store.stamps(str(root)) for root in self.roots}
        left_out: dict[str, int] = {}
        todo: list[Found] = []
        files = 0
        for root in self.roots:
            near = [folder for name, folder in reversed(list(self._near)) if name == str(root)]
            walk = Walk(root, self.limits, self.excludes, near)
            seen = set()
            for found in walk.files():
                files += 1
                seen.add(found.path)
                if known[str(root)].get(found.path) != (found.size_bytes, found.mtime_ns):
                    todo.append(found)
            for reason, count in walk.left_out.items():
                left_out[reason] = left_out.get(reason, 0) + count
            known[str(root)] = {p: s for p, s in known[str(root)].items() if p not in seen}
        removed = sum(len(gone) for gone in known.values())
        for root_name, gone in known.items():
            for path in gone:
                self.store.remove(root_name, path)
        read = self._read_all(todo, progress)
        self.version += bool(read or removed)
        cut = left_out.get(FILES_LIMIT, 0) + left_out.get(BYTES_LIMIT, 0)
        self.partial = cut > 0
        if cut and not self.problem:
            self.problem = (
                f"the index holds {files} files near the open ones; {cut} more are past its limits"
            )
        return Report(files, read, removed, left_out)

    def _read_all(self, todo: list[Found], progress: Progress | None) -> int:
        read = 0
        for at in range(0, len(todo), _BATCH):
            made = list(self._digested(todo[at : at + _BATCH]))
            if self._stop.is_set():
                break
            if not self._write(made):
                break
            read += len(made)
            if progress is not None:
                progress(min(at + _BATCH, len(todo)), len(todo))
        return read

    def _write(self, made: Sequence[tuple[Found, Digest]]) -> bool:
        """Store some files; False where the store cannot be written, with `problem` set."""
        for wait_s in (*_WAITS_S, None):
            try:
                with self.store.batch():
                    for found, one in made:
                        stamp = (found.size_bytes, found.mtime_ns)
                        self.store.put(found.root, found.path, stamp, one)
            except sqlite3.Error as error:
                if is_damage(error):
                    raise
                # Another server writes, or the disk is full.
                self.problem = f"the index cannot be written ({error})"
                if wait_s is None or self._stop.wait(wait_s):
                    return False
            else:
                self.problem = ""
                return True
        return False

    def _digested(self, batch: list[Found]) -> Iterator[tuple[Found, Digest]]:
        for found in batch:
            if self._stop.is_set():
                return
            text = read_text(Path(found.root, found.path), self.limits.bytes_of(found.path))
            yield found, digest(found.path, text) if text is not None else Digest("", False, (), ())

    def update(self, path: Path) -> bool:
        """Follow a change of one file (written, made, deleted); True if it is indexed now."""
        place = self.place(path)
        if place is None:
            return False
        root, relative = place
        self.version += 1
        allowed = self._walk(root).allows(relative)
        text = read_text(path, self.limits.bytes_of(relative)) if allowed else None
        try:
            if text is None:
                self.store.remove(str(root), relative)
                return False
            status = path.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            with self.store.batch():
                self.store.put(str(root), relative, stamp, digest(relative, text))
        except sqlite3.Error as error:
            self.store.damaged = self.store.damaged or is_damage(error)
            self._missed = True
            return False
        except OSError:
            return False
        return True

    def place(self, path: Path) -> tuple[Path, str] | None:
        """The root that holds a file, and its path from there with "/"; None outside of all."""
        for root in self.roots:
            try:
                relative = path.relative_to(root)
            except ValueError:
                continue
            return root, str(PurePosixPath(*relative.parts))
        return None

    def allows(self, root: str, path: str) -> bool:
        """Whether a file may be read into the index, as things stand now; looks at the disk."""
        return self._walk(Path(root)).allows(path)

    def excluded(self, path: str) -> bool:
        """Whether the user's own patterns hide a file, given from its root on."""
        return bool(self._excluded) and self._excluded.ignores(path)

    def holds_below(self, path: Path) -> bool:
        """Whether the index has files in a folder, which may be gone by now."""
        place = self.place(path)
        return place is not None and self.store.holds_below(str(place[0]), place[1])

    def stop(self) -> None:
        """Make a refresh that runs in another thread end soon."""
        self._stop.set()

    def close(self) -> None:
        self.stop()
        self.store.close()

    def _walk(self, root: Path) -> Walk:
        return Walk(root, self.limits, self.excludes)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


_DEBOUNCE_MS = 400
_LOOK_MS = 2000  # how often a partial index looks for a document opened far from what it holds
_REFRESH_AT = 200  # so many changes at once (a checkout, say) are met by one refresh


async def keep(
    index: Index,
    stop: asyncio.Event,
    progress: Progress | None = None,
    poll_s: float = _POLL_S,
) -> None:
    """Refresh the index, then follow changes until `stop` is set.

    The work runs in threads. Where the system cannot watch the folders (no inotify watches left,
    say), the index is refreshed every `poll_s` seconds, and `index.problem` says so.
    """
    await asyncio.to_thread(index.refresh, progress)
    roots = [root for root in index.roots if root.is_dir()]
    if not roots:
        return
    try:
        async for changes in watchfiles.awatch(
            *roots,
            watch_filter=_Wanted(index),
            debounce=_DEBOUNCE_MS,
            stop_event=stop,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
        ):
            if index.stale():
                await asyncio.to_thread(index.refresh, progress)
                continue
            paths = {Path(path) for _, path in changes}
            if len(paths) > _REFRESH_AT or await asyncio.to_thread(_reaches_far, index, paths):
                await asyncio.to_thread(index.refresh, progress)
                continue
            for path in sorted(paths):
                await asyncio.to_thread(index.update, path)
    except (OSError, RuntimeError) as error:
        await _poll(index, stop, progress, poll_s, str(error))


async def _poll(
    index: Index, stop: asyncio.Event, progress: Progress | None, poll_s: float, reason: str
) -> None:
    """Refresh every `poll_s` seconds until `stop` is set; the reason is logged and reported."""
    text = f"files cannot be watched ({reason}); the workspace is read every {poll_s:g} seconds"
    _log.warning("%s", text)
    while not stop.is_set():
        index.problem = index.problem or text
        try:
            await asyncio.wait_for(stop.wait(), poll_s)
        except TimeoutError:
            await asyncio.to_thread(index.refresh, progress)


def _reaches_far(index: Index, paths: Iterable[Path]) -> bool:
    """Whether more files than those named may have changed.

    Of a folder that is moved, or that comes with files in it, the system tells only the folder.
    """
    return any(
        path.name == ".gitignore" or path.is_dir() or index.holds_below(path) for path in paths
    )


class _Wanted(watchfiles.BaseFilter):
    """Lets through what may be source; the index decides the rest."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __call__(self, change: watchfiles.Change, path: str) -> bool:  # noqa: ARG002
        place = self._index.place(Path(path))
        return place is not None and not is_skipped(place[1]) and not is_secret(place[1])
