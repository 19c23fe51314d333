"""Cuts an answer where it begins to go round in circles."""

from __future__ import annotations

from lsp.documents.site import Site

_LONGEST_CYCLE_LINES = 6
_TIMES_OF_ONE_LINE = 3
_CYCLE_CHARS = range(4, 64)
_TIMES_IN_A_LINE = 5
_FEWEST_CHARS = 8


def cut_loops(text: str, site: Site) -> str:
    """The text up to the end of the first round; nothing if the lines above went round already."""
    above = site.previous_line
    lines = text.strip("\n").split("\n")
    if above and len(above.strip()) >= _FEWEST_CHARS and not site.line_prefix.strip():
        first = site.line_prefix + lines[0] if not text.startswith("\n") else lines[0]
        if first.rstrip() == above.rstrip() and _stands_twice(above, site.prefix):
            return ""
    at = loop_start(text + "\n")
    return text if at is None else text[:at]


def loop_start(text: str) -> int | None:
    """Where the second round of a loop begins, or None. The last line counts once it has ended."""
    starts = [at for at in (_lines_loop(text), _characters_loop(text)) if at is not None]
    return min(starts, default=None)


def _stands_twice(line: str, text: str) -> bool:
    return text.rstrip().endswith(f"{line.rstrip()}\n{line.rstrip()}")


def _lines_loop(text: str) -> int | None:
    *lines, _unfinished = text.split("\n")
    for start in range(len(lines)):
        for size in range(1, min(_LONGEST_CYCLE_LINES, (len(lines) - start) // 2) + 1):
            cycle = lines[start : start + size]
            times = _TIMES_OF_ONE_LINE if size == 1 else 2
            if sum(len(line.strip()) for line in cycle) < _FEWEST_CHARS:
                continue
            if cycle * times == lines[start : start + size * times]:
                return sum(len(line) + 1 for line in lines[: start + size]) - 1
    return None


def _characters_loop(text: str) -> int | None:
    tail = text.rstrip("\n")
    for size in _CYCLE_CHARS:
        if len(tail) < size * _TIMES_IN_A_LINE:
            return None
        unit = tail[-size:]
        if len(set(unit)) > 1 and tail.endswith(unit * _TIMES_IN_A_LINE):
            start = len(tail) - size * _TIMES_IN_A_LINE
            while start >= size and tail[start - size : start] == unit:
                start -= size
            return start + size
    return None
