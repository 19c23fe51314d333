"""Which of our processes Linux ends first when memory runs out: proc_pid_oom_score_adj(5).

The kernel adds the value to a process's share of the memory in thousandths, and kills the highest.
Browsers and editors built on Electron put their renderers at 200 to 300 (Chromium,
content/public/common/content_constants.h), and everything else of the user is at 0 to 200.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

WORKER = 1000
"""The process that holds the model: by far the largest, and restarted by the daemon."""

DAEMON = 600
"""Below the worker, above an editor's own processes: it is started again by the next request."""


def raise_to(score: int, pid: int | None = None, proc: Path = Path("/proc")) -> None:
    """Make a process (None for this one) at least so likely to be killed when memory runs out.

    Does nothing on systems without this file. Never lowers a value, which needs privileges.
    """
    path = proc / ("self" if pid is None else str(pid)) / "oom_score_adj"
    with suppress(OSError, ValueError):
        if int(path.read_text(encoding="ascii")) < score:
            path.write_text(f"{score}\n", encoding="ascii")
