"""The daemon's log: one rotating private file, and the terminal or the journal beside it.

Nothing that came in a prompt or goes out in an answer is ever logged: counts, times, states and
errors only. That holds for exceptions nobody foresaw too: where they came from is written, and what
they say is not, since it may quote what they failed on.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from rich.console import Console
from rich.logging import RichHandler

from assistant.errors import DaemonError, printable

_FILE_BYTES = 2 * 1024 * 1024
_FILES_KEPT = 3
_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s"
# These would log bodies or every connection at their lower levels.
_QUIET = ("uvicorn", "uvicorn.access", "asyncio", "httpx", "httpcore")
_FIELD = re.compile(r"\b(\w+)=%[-+ #0]*\d*(?:\.\d+)?[sdfr]")
_PLACE = re.compile(r"%(?:%|[-+ #0]*\d*(?:\.\d+)?[a-zA-Z])")
# sd-daemon(3): the journal takes a level from the start of a line.
_JOURNAL = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class _Discreet(logging.Formatter):
    """Writes of an exception where it was raised, and not what it says. Names of models and answers
    of servers are in the messages: they are made safe to show (case S12)."""

    def format(self, record: logging.LogRecord) -> str:
        # Another formatter may have left its own text there, to be used again.
        left, record.exc_text = record.exc_text, None
        try:
            return printable(super().format(record), lines=True)
        finally:
            record.exc_text = left

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - logging's own name
        kind, _, trace = ei
        places = [
            f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(trace)
        ]
        return "\n".join([*places, f"  {kind.__name__ if kind else 'nothing'}"])


class _Terminal(Console):
    """The terminal, or a pipe: when its reader has ended, the daemon serves on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Structured(_Discreet):
    """One JSON object a line: `at`, `level`, `logger`, `event`, and the fields of the message.

    Our messages are written as words and `name=%d` fields; the words are the event.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = _FIELD.findall(str(record.msg))
        if fields and isinstance(record.args, tuple) and len(fields) == len(record.args):
            line["event"] = _PLACE.sub("", _FIELD.sub("", str(record.msg))).strip()
            for name, value in zip(fields, record.args, strict=True):
                line[name] = value if isinstance(value, int | float | bool) else str(value)
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info).split("\n")
        return msgspec.json.encode(line).decode()


class _ForJournal(_Discreet):
    def format(self, record: logging.LogRecord) -> str:
        level = _JOURNAL.get(record.levelname, 6)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).split("\n"))


class _SharedFile(logging.handlers.RotatingFileHandler):
    """Rotates by size; where another has rotated, it goes on in the new file.

    While one daemon takes over from another both write, and only one may rename.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.stream is not None and not self._in_place(self.stream):
                self.stream.close()
                self.stream = self._open()
        except OSError:
            self.handleError(record)
            return
        super().emit(record)

    def _open(self) -> Any:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT, 0o600))
        return super()._open()

    def _in_place(self, stream: Any) -> bool:
        try:
            now, held = Path(self.baseFilename).stat(), os.fstat(stream.fileno())
        except FileNotFoundError:
            return False
        return (now.st_ino, now.st_dev) == (held.st_ino, held.st_dev)


def configure(
    path: Path, *, level: str, terminal: bool, structured: bool = False, journal: bool = False
) -> None:
    """Log into `path`.

    Args:
        terminal: and show it to the user who started the daemon by hand.
        structured: write JSON lines into the file.
        journal: and send warnings to stderr, which the service manager keeps.

    Raises:
        DaemonError: the file cannot be written.
    """
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    set_level(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        to_file = _SharedFile(
            path, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise DaemonError(
            f"the log cannot be written ({error.strerror})",
            subject=str(path),
            advice="Make room, or set UNDERKEEL_HOME to a folder that you own",
        ) from error
    plain = _Discreet(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    to_file.setFormatter(Structured() if structured else plain)
    root.addHandler(to_file)
    if journal:
        to_journal = logging.StreamHandler(sys.stderr)
        to_journal.setLevel(logging.WARNING)
        to_journal.setFormatter(_ForJournal("%(name)s %(message)s"))
        root.addHandler(to_journal)
    elif terminal:
        to_terminal = RichHandler(console=_Terminal(), show_path=False, markup=False)
        to_terminal.setFormatter(_Discreet("%(message)s"))
        root.addHandler(to_terminal)
    if not terminal and hasattr(os, "umask"):
        os.umask(0o077)


def set_level(level: str) -> None:
    """From which level on our own messages are written."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.getLogger("assistant").setLevel(number)
