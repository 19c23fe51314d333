"""Regions that were edited or visited lately, the newest first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from context.names import shingles, similarity

_CAPACITY = 24
_SAME = 0.9  # share of common lines from which two regions are one
MAX_REGION_CHARS = 2400


@dataclass(frozen=True)
class Region:
    """A piece of a file as it was when it was left."""

    root: str
    path: str
    start: int
    text: str


class Recent:
    """A ring of regions without near-duplicates."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._regions: OrderedDict[tuple[str, int, str], tuple[Region, set[str]]] = OrderedDict()

    def add(self, region: Region) -> None:
        """Note a region as the newest; a near-duplicate that is known gives way to it."""
        lines = shingles(region.text)
        if not lines:
            return
        for key, (known, known_lines) in list(self._regions.items()):
            if known.path == region.path and similarity(lines, known_lines) > _SAME:
                del self._regions[key]
        self._regions[region.path, region.start, region.text] = (region, lines)
        while len(self._regions) > self._capacity:
            self._regions.popitem(last=False)

    def newest(self) -> list[Region]:
        """All regions, the newest first."""
        return [region for region, _ in reversed(self._regions.values())]
