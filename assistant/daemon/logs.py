"""The daemon's log: one rotating private file, and the terminal when somebody looks.

Nothing that came in a prompt or goes out in an answer is ever logged: counts, times, states and
errors only.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path

from rich.logging import RichHandler

from assistant.errors import DaemonError

_FILE_BYTES = 2 * 1024 * 1024
_FILES_KEPT = 3
_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s"
# These would log bodies or every connection at their lower levels.
_QUIET = ("uvicorn", "uvicorn.access", "asyncio", "httpx", "httpcore", "filelock")


def configure(path: Path, *, level: str, terminal: bool) -> None:
    """Log into `path`, and on the terminal too if asked.

    Raises:
        DaemonError: the file cannot be written.
    """
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    logging.getLogger("assistant").setLevel(
        logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    )
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        to_file = logging.handlers.RotatingFileHandler(
            path, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise DaemonError(
            f"the log cannot be written ({error.strerror})",
            subject=str(path),
            advice="Make room, or set UNDERKEEL_HOME to a folder that you own",
        ) from error
    to_file.setFormatter(logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S"))
    root.addHandler(to_file)
    if terminal:
        to_terminal = RichHandler(show_path=False, rich_tracebacks=False, markup=False)
        to_terminal.setFormatter(logging.Formatter("%(message)s"))
        root.addHandler(to_terminal)
    if not terminal and hasattr(os, "umask"):
        os.umask(0o077)
