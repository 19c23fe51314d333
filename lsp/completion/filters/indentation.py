"""Mends an answer whose indentation does not fit the place where it would stand."""

from __future__ import annotations

from itertools import pairwise

from lsp.documents.site import Site, leading_blanks, width

_DEFAULT_UNIT = 4


def mend_indentation(text: str, site: Site) -> str:
    """Undo an indentation that was written a second time, and write blanks as the document does."""
    return _as_document(_undoubled(text, site), site)


def _undoubled(text: str, site: Site) -> str:
    """The cursor stands behind blanks already, and the answer begins with them again.

    Every line of such an answer stands too far right by the same amount.
    """
    if site.line_prefix.strip() or not site.line_prefix or not text[:1].isspace():
        return text
    blanks = leading_blanks(text)
    deepest = width(leading_blanks(site.previous_line))
    if site.language.opens_block(site.previous_line):
        deepest += _unit(site)
    extra = width(site.indent + blanks) - max(deepest, width(site.indent))
    if not blanks or extra <= 0:
        return text
    first, *others = text.split("\n")
    drop = min(extra, width(blanks))
    lines = [first[len(blanks) :] if width(blanks) == drop else first[drop:]]
    shift = drop if all(_deep_enough(line, width(site.indent) + drop) for line in others) else 0
    lines += [line[len(_columns(line, shift)) :] for line in others]
    return "\n".join(lines)


def _deep_enough(line: str, columns: int) -> bool:
    return not line.strip() or width(leading_blanks(line)) >= columns


def _columns(line: str, columns: int) -> str:
    """The shortest run of blanks at the start of `line` that takes `columns`."""
    blanks = leading_blanks(line)
    return next(
        (blanks[:n] for n in range(len(blanks) + 1) if width(blanks[:n]) >= columns), blanks
    )


def _as_document(text: str, site: Site) -> str:
    """Tabs where the document indents by tabs, blanks where it does not."""
    lines = site.prefix[-8192:].split("\n") + site.suffix[:2048].split("\n")
    tabs = sum(line.startswith("\t") for line in lines)
    spaces = sum(line.startswith("  ") for line in lines)
    first, *others = text.split("\n")
    if tabs > spaces:
        return "\n".join([first, *(_with_tabs(line) for line in others)])
    if spaces > tabs:
        return "\n".join([first, *(_with_spaces(line, site) for line in others)])
    return text


def _with_tabs(line: str) -> str:
    blanks = leading_blanks(line)
    if " " not in blanks:
        return line
    unit = 4 if width(blanks) % 4 == 0 else 2
    tabs, rest = divmod(width(blanks, unit), unit)
    return "\t" * tabs + " " * rest + line[len(blanks) :]


def _with_spaces(line: str, site: Site) -> str:
    blanks = leading_blanks(line)
    return blanks.expandtabs(_unit(site)) + line[len(blanks) :] if "\t" in blanks else line


def _unit(site: Site) -> int:
    """Columns that the document indents by: the least step from one line to a deeper one."""
    lines = [line for line in site.prefix[-8192:].split("\n") if line.strip()]
    widths = [width(leading_blanks(line)) for line in lines]
    steps = [b - a for a, b in pairwise(widths) if 1 < b - a <= 8]
    return min(steps, default=_DEFAULT_UNIT)
