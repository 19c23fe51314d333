"""Filters of layout and characters: indentation that does not fit the place, control tokens, line
ends, invisible characters, trailing blanks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from lsp import output
from lsp.documents.site import Site, leading_blanks, width

_MARKDOWN = {"markdown", "mdx"}


def cut_control_tokens(text: str, site: Site) -> str:
    """The text before the first control token that the document does not spell as text."""
    at = first_control_token(text, site)
    return text if at is None else text[:at]


def first_control_token(text: str, site: Site) -> int | None:
    """Where the first control token begins, or None."""
    return output.first_control_token(
        text, site.prefix, site.suffix, site.control, site.language_id
    )


def unify_line_ends(text: str, _site: Site) -> str:
    """`text` with every other kind of line end as `\\n`.

    Editors hold a buffer's lines without their ends, or insert text with the file's own, so a
    carriage return would show as a stray character in the ghost text.
    """
    return output.with_line_feeds(text)


def remove_unsafe_characters(text: str, site: Site) -> str:
    """`text` without unsafe characters; what scripts, emoji and the document need stays."""
    return output.without_unsafe_characters(text, site.prefix, site.suffix)


def strip_trailing_blanks(text: str, site: Site) -> str:
    """`text` without blanks at the ends of its lines, and without line ends at its own.

    A blank before the rest of the cursor's line parts two words and stays. So do two blanks at the
    end of a line in Markdown, where they break the line.
    """
    from context.syntax.language import canonical_id

    hard_breaks = canonical_id(site.language_id) in _MARKDOWN
    lines = [_stripped(line, hard_breaks=hard_breaks) for line in text.split("\n")]
    last = text.rpartition("\n")[2]
    if site.line_suffix.strip() and last.strip():
        lines[-1] = last
    return "\n".join(lines).rstrip("\n")


def _stripped(line: str, *, hard_breaks: bool) -> str:
    stripped = line.rstrip(" \t")
    return f"{stripped}  " if hard_breaks and stripped and line.endswith("  ") else stripped


_DEFAULT_UNIT = 4
_LOOK_CHARS = 1 << 14
_LOOK_LINES = 400


def fix_indentation(text: str, site: Site) -> str:
    """Remove indentation that was written twice, and indent with what lines nearby indent with."""
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
    """Tabs where blocks nearby are indented with tabs, spaces where they are with spaces."""
    first, *others = text.split("\n")
    if not others:
        return text
    if site.language.tabs is not None:
        return "\n".join([first, *_recipe_lines(others, site.line_prefix + first, site)])
    char = _indents_with(site)
    if char == "\t":
        return "\n".join([first, *(_with_tabs(line) for line in others)])
    if char == " ":
        return "\n".join([first, *(_with_spaces(line, site) for line in others)])
    return text


def _recipe_lines(lines: list[str], above: str, site: Site) -> Iterator[str]:
    """Lines of a makefile: those of a recipe start with one tab, the others stay."""
    tabs = site.language.tabs
    assert tabs is not None
    previous = above if above.strip() else site.previous_line
    for line in lines:
        blanks = leading_blanks(line)
        if line.strip() and blanks and tabs.match(previous):
            yield "\t" + line[len(blanks) :]
            previous = "\t"
        else:
            yield line
            previous = line if line.strip() else previous


def _indents_with(site: Site) -> str:
    """The character that a block at the cursor is indented with; empty if nothing shows it.

    The nearest line that opens a block decides by the line after it, above the cursor first: a line
    that continues another one, such as a list of files or arguments, may be aligned with anything.
    Without such a line, the nearest indented line that does not continue another one decides.
    """
    above = site.prefix[-_LOOK_CHARS:].split("\n")[-_LOOK_LINES:]
    below = site.suffix[:_LOOK_CHARS].split("\n")[1:_LOOK_LINES]
    fallback = ""
    for lines, order in ((above[:-1], reversed), (below, list)):
        said = [line for line in lines if line.strip()]
        pairs = list(pairwise(said))
        for first, second in order(pairs):
            added = leading_blanks(second)[len(leading_blanks(first)) :]
            if not second[:1].isspace():
                continue
            if added and site.language.opens_block(first) and not first.rstrip().endswith("("):
                return added[-1]
            if not fallback and not first.rstrip().endswith(("\\", ",", "(")):
                fallback = leading_blanks(second)[0]
    if site.line_prefix[:1] in {" ", "\t"}:
        return fallback or site.line_prefix[0]
    return fallback


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
