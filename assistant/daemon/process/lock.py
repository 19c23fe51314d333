"""The lock that makes a daemon the only one of its user.

An flock belongs to the open file and not to the process, so a daemon can hand it to the one that
takes over: at no moment is it free.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Self

if sys.platform == "win32":
    import msvcrt

    def _try(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_POLL_S = 0.02


class Lock:
    """A lock that is held. `fd` is what a successor is given."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, path: Path, patience_s: float = 0.0) -> Self | None:
        """The lock on `path`; None where another holds it for all of `patience_s`.

        Raises:
            OSError: the file cannot be made or locked.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience_s
        try:
            while not _try(fd):
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return None
                time.sleep(_POLL_S)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    def let_go(self) -> None:
        """Free the lock, unless a successor was given it too. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
