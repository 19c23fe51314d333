"""Cuts the end of an answer that the text after the cursor says again."""

from __future__ import annotations

from lsp.completion.filters.brackets import opens
from lsp.documents.site import Site

_FEWEST_LINE_CHARS = 4


def cut_suffix_overlap(text: str, site: Site) -> str:
    """The text up to where it begins to repeat the rest of the line, or the lines after it."""
    rest = site.line_suffix.rstrip()
    if rest.strip():
        text = _before_rest_of_line(text, rest)
    return _before_lines_below(text, site)


def _before_rest_of_line(text: str, rest: str) -> str:
    """The answer's last line ends as the cursor's line does, or runs into its beginning."""
    head, line_end, last = text.rpartition("\n")
    if len(rest) >= _FEWEST_LINE_CHARS:
        at = last.find(rest)
        while at >= 0:
            if not opens_what_follows(head + line_end + last[:at], rest):
                return head + line_end + last[:at]
            at = last.find(rest, at + 1)
    for at in range(len(last)):
        if (
            rest.startswith(last[at:].rstrip())
            and last[at:].strip()
            and _whole(last, at)
            and not opens_what_follows(head + line_end + last[:at], last[at:])
        ):
            return head + line_end + last[:at]
    return text


def opens_what_follows(answer: str, rest: str) -> bool:
    """Whether the first closing bracket of `rest` closes one that `answer` has opened."""
    closer = next((char for char in rest if char in ")]}>"), "")
    return bool(closer) and opens(answer, closer)


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
