"""Where the bytes of a header come from: a file on this machine, or one far away read in ranges."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from assistant.errors import GGUFError


class ByteSource(Protocol):
    """Random access to one file's bytes.

    Attributes:
        name: what messages call it: a path or a URL.
        size_bytes: the length of the whole file.
    """

    name: str
    size_bytes: int

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer only where the file ends.

        Raises:
            GGUFError: the bytes cannot be had.
        """
        ...


class FileSource:
    """A local file, read by plain reads: a file that shrinks under a memory map would kill us."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            # A pipe or a device would block or never end.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            status = os.fstat(self._descriptor)
        except (OSError, ValueError) as error:
            raise _unreadable(self.name, error) from error
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise GGUFError("this is not a file", subject=self.name, advice="Name a .gguf file")
        self.size_bytes = status.st_size

    def read(self, start: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, start)
        except OSError as error:
            raise _unreadable(self.name, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


class BytesSource:
    """Bytes already in memory."""

    def __init__(self, data: bytes, name: str = "<bytes>") -> None:
        self.name = name
        self.size_bytes = len(data)
        self._data = data

    def read(self, start: int, length: int) -> bytes:
        return self._data[start : start + length]


def _unreadable(name: str, error: OSError | ValueError) -> GGUFError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return GGUFError(
        f"the file cannot be read ({reason})",
        subject=name,
        advice="Check the path and that you may read it",
    )
