"""What a run has found so far, kept on disk after every step. Standard library only.

A part runs in a process of its own and writes one JSON object a line to its standard output: a row
of a table, or `{"skipped": why}`. Whatever else it or its libraries print goes to the log.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_FORMAT = 2
"""Counted up where rows change, since a page is made of old and new parts together."""

PARTS = ("build", "memory", "headroom", "speed")


@dataclass(frozen=True)
class Config:
    """What a part needs to know.

    Attributes:
        scratch: a folder for packages and a private home; it may be lost.
        models: a folder for files of random weights: on a fast disk, or in memory.
        seconds: the part's time limit; a step that would not fit into the rest is skipped.
        bundle: a folder made by `make gpu-bundle`; empty to use this Python's packages.
    """

    simulated: bool
    scratch: str
    models: str
    seconds: float
    bundle: str = ""
    started_s: float = field(default_factory=time.time)

    @property
    def left_s(self) -> float:
        return self.started_s + self.seconds - time.time()

    @property
    def folder(self) -> Path:
        return Path(self.scratch)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_arguments(cls) -> Config:
        """Of a part's process, whose only argument it is."""
        return cls(**json.loads(sys.argv[1]))


_rows_to: list[Any] = []


def open_rows() -> None:
    """Keep standard output for rows: all else that is printed goes to standard error."""
    _rows_to.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)


def emit(table: str, **row: Any) -> None:
    """Report a row of a table at once."""
    file = _rows_to[0] if _rows_to else sys.stdout
    file.write(json.dumps({"table": table, **row}) + "\n")
    file.flush()


def skip(table: str, what: str, why: str) -> None:
    """Report that a step was left out."""
    emit("skipped", of=table, what=what, why=why)


class Results:
    """One run's JSON file; parts that are run again replace their old rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: Row = {"check": "gpu", "format": _FORMAT, "parts": {}}
        if path.exists():
            try:
                old = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                old = {}
            if isinstance(old, dict) and old.get("format") == _FORMAT:
                self.data = old
            else:
                print(f"{path}: not of this version; a new file is started", file=sys.stderr)

    def start(self, part: str, seconds: float) -> Row:
        """Begin a part; returns its entry, to be filled and saved."""
        entry: Row = {"state": "running", "limit_s": seconds, "rows": []}
        self.data["parts"][part] = entry
        self.save()
        return entry

    def save(self) -> None:
        """Replace the JSON file and its Markdown page, each in one step."""
        from gpu_check.page import page

        _replace(self.path, json.dumps(self.data, indent=1, ensure_ascii=False) + "\n")
        _replace(self.path.with_suffix(".md"), page(self.data))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
