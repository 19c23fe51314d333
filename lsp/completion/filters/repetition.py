"""Filters that cut what the answer, or the document around it, already contains."""

from __future__ import annotations

import re

from context.syntax.language import canonical_id
from lsp.completion.filters.brackets import PAIRS, is_escaped, opens
from lsp.documents.site import Site

_FEWEST_CHARS = 4
"""A shorter line, such as a lone bracket, may rightly occur twice."""
_LONGEST_CYCLE_LINES = 6
_TIMES_OF_ONE_LINE = 3
_FEWEST_CYCLE_CHARS = 8
_CYCLE_CHARS = range(4, 64)
_TIMES_IN_A_LINE = 5
_LOOK_CHARS = 1 << 14
_CLOSER = re.compile(r"\\?[)\]}]|>")
"""Patterns of some programs, and LaTeX, pair brackets after backslashes."""


def cut_loops(text: str, site: Site) -> str:
    """The text up to the end of the first round; nothing if the lines above went round already."""
    above = site.previous_line
    lines = text.strip("\n").split("\n")
    if above and len(above.strip()) >= _FEWEST_CYCLE_CHARS and not site.line_prefix.strip():
        first = site.line_prefix + lines[0] if not text.startswith("\n") else lines[0]
        if first.rstrip() == above.rstrip() and _ends_with_line_twice(above, site.prefix):
            return ""
    at = loop_start(text + "\n")
    return text if at is None else text[:at]


def loop_start(text: str) -> int | None:
    """Where the second round of a loop begins, or None. The last line counts once it has ended."""
    starts = [at for at in (_lines_loop(text), _characters_loop(text)) if at is not None]
    return min(starts, default=None)


def _ends_with_line_twice(line: str, text: str) -> bool:
    return text.rstrip().endswith(f"{line.rstrip()}\n{line.rstrip()}")


def _lines_loop(text: str) -> int | None:
    *lines, _unfinished = text.split("\n")
    for start in range(len(lines)):
        for size in range(1, min(_LONGEST_CYCLE_LINES, (len(lines) - start) // 2) + 1):
            cycle = lines[start : start + size]
            times = _TIMES_OF_ONE_LINE if size == 1 else 2
            if sum(len(line.strip()) for line in cycle) < _FEWEST_CYCLE_CHARS:
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


def cut_line_below(text: str, site: Site) -> str:
    """The text before the first line that is the line below; nothing if it is the answer's first.

    The answer's first line is compared together with what stands before the cursor.
    """
    below = site.next_line.rstrip()
    if not below:
        return text
    first, *others = text.split("\n")
    if (site.line_prefix + first).rstrip() == below and not site.line_suffix.strip():
        return ""
    for at, line in enumerate(others):
        last = not any(other.strip() for other in others[at + 1 :])
        if line.rstrip() == below and (last or len(below.strip()) >= _FEWEST_CHARS):
            return "\n".join([first, *others[:at]])
    return text


def cut_suffix_overlap(text: str, site: Site) -> str:
    """The text up to where it begins to repeat the rest of the line, or the lines after it."""
    rest = site.line_suffix.rstrip()
    if rest.strip():
        text = _before_rest_of_line(text, rest, site)
    return _before_lines_below(text, site)


def _before_rest_of_line(text: str, rest: str, site: Site) -> str:
    """The answer's last line ends as the cursor's line does, or runs into its beginning.

    An escaped bracket or quote that looks like the beginning of the rest is the answer's own.
    """
    start = text.rfind("\n") + 1
    if len(rest) >= _FEWEST_CHARS:
        at = text.find(rest, start)
        while at >= 0:
            if not opens_what_follows(text[:at], rest, site):
                return text[: at + is_escaped(text, at, site)]
            at = text.find(rest, at + 1)
    for at in range(start, len(text)):
        if (
            rest.startswith(text[at:].rstrip())
            and text[at:].strip()
            and _whole(text, at)
            and not opens_what_follows(text[:at], text[at:], site)
        ):
            return text[: at + is_escaped(text, at, site)]
    return text


def opens_what_follows(answer: str, rest: str, site: Site) -> bool:
    """Whether the first closing bracket of `rest` closes one that `answer` has opened."""
    found = _CLOSER.search(rest)
    if found is None:
        return False
    closer = found[0]
    if len(closer) == 1:
        return opens(answer, closer, site)
    return answer.count(f"\\{PAIRS[closer[1]]}") > answer.count(closer)


def _whole(line: str, at: int) -> bool:
    """Whether `at` is not in the middle of a word: half a word in common is chance."""
    return not (at and line[at - 1].isalnum() and line[at].isalnum())


def _before_lines_below(text: str, site: Site) -> str:
    """The answer's last lines are the first lines below."""
    below = [line.rstrip() for line in site.suffix.split("\n", 12)[1:12]]
    while below and not below[0]:
        below.pop(0)
    lines = text.split("\n")
    for start in range(1, len(lines)):
        tail = [line.rstrip() for line in lines[start:]]
        while tail and not tail[-1]:
            tail.pop()
        if tail and tail == below[: len(tail)]:
            return "\n".join(lines[:start])
    return text


def drop_worthless(text: str, site: Site) -> str:
    """Nothing, if `text` is empty, only comments, or says what stands after the cursor anyway.

    A comment is worth something where the cursor stands in one; in a string it is none.
    """
    if not text.strip():
        return ""
    if text.strip() == site.line_suffix.strip():
        return ""
    language = site.language
    above = site.prefix[: len(site.prefix) - len(site.line_prefix)]
    if site.line_prefix.strip() and language.only_comments(site.line_prefix, above):
        return text
    if language.in_comment(site.prefix[-_LOOK_CHARS:]):
        return text
    if not language.only_comments(site.line_prefix + text, above):
        return text
    embedded = site.code_language_id != canonical_id(site.language_id)
    return text if not embedded and language.in_text(site.prefix) else ""
