"""The index's tables in SQLite: on disk at a given path, or in memory.

One connection, one lock: writers hold it for a file at a time, so a reader waits a few
milliseconds at most. A store of another version, or a damaged one, is deleted and built again. Two
servers may share a store: each write is a transaction that waits for the other's.
"""

# ruff: noqa: S608 - only fixed lists of columns and "?" marks are put into queries

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from context.index.file_record import Digest

_log = logging.getLogger(__name__)

_VERSION = 7
_DAMAGE = frozenset(
    (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT)
)
_IN_MEMORY = ":memory:"
_WAIT_S = 1.0  # for another process that writes; readers in this one wait as long
_SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY, root TEXT NOT NULL, path TEXT NOT NULL, tail TEXT NOT NULL,
    folder TEXT NOT NULL, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    language TEXT NOT NULL, generated INTEGER NOT NULL, entries INTEGER NOT NULL,
    passages INTEGER NOT NULL, UNIQUE (root, path)
);
CREATE INDEX files_tail ON files (tail);
CREATE TABLE entries (
    file INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    parent INTEGER NOT NULL, text TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    PRIMARY KEY (file, position)
) WITHOUT ROWID;
CREATE INDEX entries_name ON entries (name);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    text TEXT NOT NULL, signature TEXT NOT NULL, imports INTEGER NOT NULL
);
CREATE INDEX passages_file ON passages (file);
CREATE VIRTUAL TABLE search USING fts5 (terms, tokenize = 'ascii');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (search, row);
"""


@dataclass(frozen=True)
class FileRow:
    """A file of the index."""

    id: int
    root: str
    path: str
    language: str
    generated: bool


@dataclass(frozen=True)
class EntryRow:
    """A definition of the index, with its file."""

    file: FileRow
    position: int
    name: str
    kind: str
    parent: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class PassageRow:
    """A chunk found by search; `score` is BM25's, larger is better."""

    file: FileRow
    start: int
    stop: int
    text: str
    signature: str
    imports: bool
    score: float


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock under which a store is deleted. SQLite's own file locks work on every system
    and end with the process.

    Raises:
        sqlite3.Error: another server holds it for long, or it cannot be made.
    """
    name = path.with_name(path.name + ".lock")
    with contextlib.suppress(OSError):
        if name.stat().st_size:  # it never holds anything: this is damage
            name.unlink()
    with contextlib.closing(sqlite3.connect(name, isolation_level=None, timeout=_WAIT_S)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield


def _inode(path: Path) -> int:
    """Identifies the file at a path; 0 where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _layout(db: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """Our tables in a database: of each its name, and how it is declared. Those that FTS5 makes
    for itself depend on SQLite's version."""
    rows = db.execute("SELECT name, coalesce(sql, '') FROM sqlite_master")
    return frozenset(row for row in rows if not row[0].startswith("search_"))


@cache
def _own_layout() -> frozenset[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(_IN_MEMORY)) as db:
        db.executescript(_SCHEMA)
        return _layout(db)


_LOST = (
    *(
        f"SELECT 1 FROM files LEFT JOIN (SELECT file, count(*) AS found FROM {table} GROUP BY file)"
        f" AS rows ON rows.file = files.id WHERE files.{table} != coalesce(found, 0) LIMIT 1"
        for table in ("entries", "passages")
    ),
    *(
        f"SELECT 1 FROM {table} WHERE file NOT IN (SELECT id FROM files) LIMIT 1"
        for table in ("entries", "passages")
    ),
    "SELECT 1 FROM passages WHERE id NOT IN (SELECT id FROM search_docsize) LIMIT 1",
    "SELECT 1 FROM search_docsize WHERE id NOT IN (SELECT id FROM passages) LIMIT 1",
    "SELECT 1 FROM passages WHERE id NOT IN (SELECT id FROM search_content) LIMIT 1",
    "SELECT 1 FROM search_content WHERE c0 != '' AND NOT EXISTS (SELECT 1 FROM vocabulary) LIMIT 1",
)
"""Queries that find rows where what is stored is not whole."""

_FILE = "files.id, files.root, files.path, files.language, files.generated"
_ENTRY = "position, name, kind, parent, text, start, stop"


class Store:
    """Files, their definitions, and search over their chunks."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._file = 0
        self.damaged = False
        """Reading has failed: what is stored has to be built again (`recreate`)."""
        self._open()

    def _open(self) -> None:
        if self._path is None:
            self._db = self._connect(_IN_MEMORY)
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = self._connected(self._path)
        except (sqlite3.Error, OSError) as error:  # locked, say: another server keeps it on disk
            _log.warning("the index is kept in memory (%s)", error)
            self._db = self._connect(_IN_MEMORY)
        self._file = _inode(self._path)

    def _connected(self, path: Path) -> sqlite3.Connection:
        """The store at a path; a damaged one is deleted first, by one server at a time."""
        try:
            return self._connect(str(path))
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            with _locked(path):
                try:  # another server may have built it again meanwhile
                    return self._connect(str(path))
                except sqlite3.OperationalError:
                    raise
                except sqlite3.DatabaseError:
                    self._delete()
                    return self._connect(str(path))

    def recreate(self) -> None:
        """Delete a damaged store and start an empty one, or open the one that another server has
        put in its place."""
        with self._lock:
            self._db.close()
            self.damaged = False
            if self._path is not None:
                try:
                    with _locked(self._path):
                        if _inode(self._path) == self._file:
                            self._delete()
                            self._connect(str(self._path)).close()
                except (sqlite3.Error, OSError):
                    self._db = self._connect(_IN_MEMORY)
                    return
            self._open()

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            if self._path is not None:
                with contextlib.suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink()

    def _connect(self, name: str) -> sqlite3.Connection:
        db = sqlite3.connect(name, check_same_thread=False, isolation_level=None, timeout=_WAIT_S)
        try:
            db.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                "PRAGMA cache_size = -16000; PRAGMA temp_store = MEMORY;"
            )
            if name != _IN_MEMORY:
                Path(name).chmod(0o600)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if not version and not _layout(db):
                db.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
            elif version != _VERSION or _layout(db) != _own_layout():
                raise sqlite3.DatabaseError("a store of another version")
            (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
        except (sqlite3.DatabaseError, OSError):
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Everything written inside is one transaction."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def check(self) -> None:
        """Set `damaged` where files lack some of their rows, or rows their file.

        SQLite's own check does not find what another program has deleted.
        """
        if any(self._all(query, ()) for query in _LOST):
            self.damaged = True

    def stamps(self, root: str) -> dict[str, tuple[int, int]]:
        """Size and modification time of each known file of a root."""
        rows = self._all("SELECT path, size_bytes, mtime_ns FROM files WHERE root = ?", (root,))
        return {path: (size, mtime) for path, size, mtime in rows}

    def put(self, root: str, path: str, stamp: tuple[int, int], made: Digest) -> None:
        """Replace what is known of a file."""
        tail = path.rsplit("/", 1)[-1]
        folder = path.rsplit("/", 1)[0] if "/" in path else ""
        with self._lock:
            self.remove(root, path)
            row = self._db.execute(
                "INSERT INTO files (root, path, tail, folder, size_bytes, mtime_ns, language,"
                " generated, entries, passages) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(root, path, tail, folder, *stamp, made.language, made.generated),
                    *(len(made.entries), len(made.passages)),
                ),
            )
            file = row.lastrowid
            self._db.executemany(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (file, position, e.name, e.kind, e.parent, e.text, e.start, e.stop)
                    for position, e in enumerate(made.entries)
                ),
            )
            for one in made.passages:
                row = self._db.execute(
                    "INSERT INTO passages (file, start, stop, text, signature, imports)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (file, one.start, one.stop, one.text, one.signature, one.imports),
                )
                self._db.execute(
                    "INSERT INTO search (rowid, terms) VALUES (?, ?)", (row.lastrowid, one.terms)
                )

    def remove(self, root: str, path: str) -> None:
        """Forget a file; one that is not known is no error."""
        with self._lock if self._db.in_transaction else self.batch():
            found = self._all("SELECT id FROM files WHERE root = ? AND path = ?", (root, path))
            for (file,) in found:
                self._db.execute(
                    "DELETE FROM search WHERE rowid IN (SELECT id FROM passages WHERE file = ?)",
                    (file,),
                )
                self._db.execute("DELETE FROM passages WHERE file = ?", (file,))
                self._db.execute("DELETE FROM entries WHERE file = ?", (file,))
                self._db.execute("DELETE FROM files WHERE id = ?", (file,))

    def forget_roots(self, keep: Iterable[str]) -> None:
        """Forget all files of roots that are no longer part of the workspace."""
        kept = set(keep)
        for root, path in self._all("SELECT root, path FROM files", ()):
            if root not in kept:
                self.remove(root, path)

    def count(self) -> tuple[int, int, int]:
        """Files, definitions, chunks."""
        tables = ("files", "entries", "passages")
        files, entries, passages = (
            rows[0][0] if (rows := self._all(f"SELECT count(*) FROM {table}", ())) else 0
            for table in tables
        )
        return files, entries, passages

    def file(self, root: str, path: str) -> FileRow | None:
        rows = self._all(f"SELECT {_FILE} FROM files WHERE root = ? AND path = ?", (root, path))
        return FileRow(*rows[0]) if rows else None

    def files_ending(self, ending: str, limit: int = 50) -> list[FileRow]:
        """Files whose path is `ending` or ends with "/" and it."""
        tail = ending.rsplit("/", 1)[-1]
        rows = self._all(f"SELECT {_FILE} FROM files WHERE tail = ? LIMIT 2000", (tail,))
        files = [FileRow(*row) for row in rows]
        return [f for f in files if f.path == ending or f.path.endswith("/" + ending)][:limit]

    def files_in(self, folder: str, limit: int = 50) -> list[FileRow]:
        """Files right in a folder, given from the root on or as the end of its path."""
        rows = self._all(
            f"SELECT {_FILE} FROM files WHERE folder = ? OR folder LIKE ? ESCAPE '\\' LIMIT ?",
            (folder, "%/" + _escaped(folder), limit),
        )
        return [FileRow(*row) for row in rows]

    def holds_below(self, root: str, folder: str) -> bool:
        """Whether there are files in a folder of a root, or in one of its folders."""
        rows = self._all(
            "SELECT 1 FROM files WHERE root = ? AND (folder = ? OR folder LIKE ? ESCAPE '\\')"
            " LIMIT 1",
            (root, folder, _escaped(folder) + "/%"),
        )
        return bool(rows)

    def entries_of(self, file: FileRow) -> list[EntryRow]:
        """All definitions of a file in order."""
        rows = self._all(
            f"SELECT {_ENTRY} FROM entries WHERE file = ? ORDER BY position", (file.id,)
        )
        return [EntryRow(file, *row) for row in rows]

    def named(self, names: Sequence[str], limit_each: int = 8) -> list[EntryRow]:
        """Definitions of any of `names`; a name with more than `limit_each` says too little."""
        found: list[EntryRow] = []
        for name in names:
            rows = self._all(
                f"SELECT {_FILE}, {_ENTRY} FROM entries JOIN files ON files.id = entries.file"
                " WHERE name = ? LIMIT ?",
                (name, limit_each + 1),
            )
            if len(rows) <= limit_each:
                found.extend(EntryRow(FileRow(*row[:5]), *row[5:]) for row in rows)
        return found

    def rarity(self, terms: Sequence[str]) -> dict[str, int]:
        """In how many chunks each term occurs; terms that occur nowhere are missing."""
        marks = ",".join("?" * len(terms))
        rows = self._all(f"SELECT term, doc FROM vocabulary WHERE term IN ({marks})", tuple(terms))
        return dict(rows)

    def search(self, terms: Sequence[str], limit: int) -> list[PassageRow]:
        """The best chunks for any of `terms` by BM25 (SQLite's FTS5, k1 = 1.2, b = 0.75)."""
        if not terms:
            return []
        query = " OR ".join(f'"{term}"' for term in terms)
        rows = self._all(
            f"SELECT {_FILE}, start, stop, text, signature, imports, -rank FROM ("
            "  SELECT rowid AS found, rank FROM search WHERE search MATCH ? ORDER BY rank LIMIT ?"
            ") JOIN passages ON passages.id = found JOIN files ON files.id = passages.file"
            " ORDER BY rank",
            (query, limit),
        )
        return [PassageRow(FileRow(*row[:5]), *row[5:]) for row in rows]

    def passage_after(self, file: FileRow, stop: int) -> PassageRow | None:
        """The chunk of a file that begins where another ends."""
        rows = self._all(
            "SELECT start, stop, text, signature, imports, 0.0 FROM passages"
            " WHERE file = ? AND start = ?",
            (file.id, stop),
        )
        return PassageRow(file, *rows[0]) if rows else None

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _all(self, query: str, values: Sequence[object]) -> list[tuple]:  # type: ignore[type-arg]
        """Rows of a query; none where the store is closed or has become unreadable."""
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self.damaged = self.damaged or is_damage(error)
                return []


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that what is stored is not whole; else the store is busy, full or
    closed. FTS5 reports damage in its tables as plain errors, too; text that is no UTF-8 has no
    code."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in _DAMAGE


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
