"""The pages of a model in host memory: touched now and then, the kernel does not take them away.

A mapped model that nobody asks for long enough loses its pages to other programs' files, and the
next completion reads them from the disk again: 26 s instead of 0.6 s were seen for half a GB.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

_PIECE_BYTES = 64 << 20
_LEAST_ANONYMOUS_BYTES = 16 << 20  # weights that were copied, and the cache; not stacks and heaps
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ (\d+) *(.*)")

Region = tuple[int, int]
"""First address, and the one after the last."""


def regions(model: str, maps: str) -> list[Region]:
    """Where `model` and large anonymous memory stand. `maps`: the text of /proc/self/maps."""
    path, found = str(Path(model).resolve()), []
    for line in maps.splitlines():
        match = _MAPPING.fullmatch(line)
        if match is None:
            continue
        start, stop, name = int(match[1], 16), int(match[2], 16), match[4]
        large = not name and match[3] == "0" and stop - start >= _LEAST_ANONYMOUS_BYTES
        if name == path or large:
            found.append((start, stop))
    return found


def touch(model: str, goes_on: Callable[[], bool] = lambda: True) -> int:
    """Read a byte of every page of this process's `model`; returns how many pages.

    Ends early once `goes_on` says so. Does nothing where the system does not tell what is mapped.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    pages = 0
    for start, stop in regions(model, maps):
        for piece in range(start, stop, _PIECE_BYTES):
            if not goes_on():
                return pages
            length = min(_PIECE_BYTES, stop - piece)
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(piece))
            read = memory[:: mmap.PAGESIZE]
            read.sum()
            pages += len(read)
    return pages
