"""The pages of a model in host memory: touched now and then, the kernel does not take them away.

A mapped model that nobody asks for long enough loses its pages to other programs' files, and the
next completion reads them from the disk again: 26 s instead of 0.6 s were seen for half a GB.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable, Sequence
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


class Toucher:
    """Reads a byte of every page of a model. A pass that was interrupted continues the next time,
    so that the last pages get their turn however often the first ones were read."""

    def __init__(self) -> None:
        self._next = 0

    def touch(self, model: str, continues: Callable[[], bool] = lambda: True) -> int:
        """Returns the number of pages that this process read of `model`.

        Stops early when `continues` returns False. Does nothing where the system does not report
        what is mapped.
        """
        try:
            maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0
        all_pieces = pieces(regions(model, maps))
        pages = 0
        for start, stop in [piece for piece in all_pieces if piece[0] >= self._next] or all_pieces:
            if not continues():
                self._next = start
                return pages
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * (stop - start)).from_address(start))
            read = memory[:: mmap.PAGESIZE]
            read.sum()
            pages += len(read)
        self._next = 0
        return pages


def pieces(found: Sequence[Region]) -> list[Region]:
    """The regions in pieces of at most `_PIECE_BYTES`, by address."""
    return [
        (start, min(start + _PIECE_BYTES, stop))
        for first, stop in sorted(found)
        for start in range(first, stop, _PIECE_BYTES)
    ]
