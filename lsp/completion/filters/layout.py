"""Filters of layout and characters: indentation that does not fit the place, control tokens, line
ends, invisible characters, trailing blanks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from lsp import output
from lsp.documents.site import Language, Site, language, leading_blanks, width


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
    end of a line in Markdown, where they break the line, and the one blank that is all of an empty
    context line of a diff. In tables of values and in mail blanks at the end have a meaning.
    """
    strip = _STRIPS.get(site.code_language_id, _stripped)
    first, *others = text.split("\n")
    if site.line_prefix.strip() and not first.strip():  # the blanks before the cursor count too
        before = site.line_prefix[len(site.line_prefix.rstrip(" \t")) :]
        first = strip(f"x{before}{first}")[1 + len(before) :]
    else:
        first = strip(first)
    lines = [first, *map(strip, others)]
    last = text.rpartition("\n")[2]
    if site.line_suffix.strip() and last.strip():
        lines[-1] = last
    return "\n".join(lines).rstrip("\n")


def _stripped(line: str) -> str:
    return line.rstrip(" \t")


def _with_line_break(line: str) -> str:
    """A line of Markdown: two blanks behind its text break it (CommonMark, "Hard line breaks")."""
    stripped = line.rstrip(" \t")
    return f"{stripped}  " if stripped and line.endswith("  ") else stripped


def _unchanged(line: str) -> str:
    return line


_STRIPS = {
    **dict.fromkeys(("markdown", "mdx"), _with_line_break),
    **dict.fromkeys(("diff", "tsv", "csv", "psv", "mail", "eml"), _unchanged),
}


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
    lines = text.split("\n")
    kept = [lines.pop(0)] if site.line_prefix else []  # it does not begin with its own indentation
    if site.language.recipes:
        *above, last = _above(site)
        above += [last + kept[0]] if kept else []
        return "\n".join([*kept, *_with_recipes(lines, above)])
    char = " " if site.language.spaces else _indents_with(site)
    if char == "\t":
        lines = [_with_tabs(line) for line in lines]
    elif char == " ":
        unit = _unit(site)
        lines = [_with_spaces(line, unit, starts=site.language.spaces) for line in lines]
    return "\n".join([*kept, *lines])


def _above(site: Site) -> list[str]:
    """The lines above the cursor's, and what stands before it in that one."""
    return site.prefix[-_LOOK_CHARS:].split("\n")[-_LOOK_LINES:]


class _Recipes:
    """Follows the lines of a makefile (GNU make manual, "Rule Syntax" and "Conditionals").

    Attributes:
        in_recipe: an indented line here is one of a recipe.
    """

    def __init__(self, language: Language) -> None:
        self.in_recipe = False
        self._language = language
        self._after_blank = False
        self._continued = False
        self._in_define = False

    def takes(self, line: str) -> bool:
        """Go past a line; whether it must start with a tab and does not."""
        continued, self._continued = self._continued, line.endswith("\\")
        words = line.strip()
        if continued or not words:
            self._after_blank = self._after_blank or not words
            return False
        if self._in_define or words.startswith("define "):
            self._in_define = words != "endef"
            return False
        after_blank, self._after_blank = self._after_blank, False
        if _CONDITIONAL.match(words):
            self.in_recipe = self.in_recipe and not after_blank
            return False
        if line[0] == "\t" or words.startswith("#"):
            return self.in_recipe and line[0] == " "
        if line[0] == " " and self.in_recipe and not _ASSIGNMENT.match(words):
            return True
        self.in_recipe = self._language.opens_block(line)
        return False


_CONDITIONAL = re.compile(r"(?:ifn?eq|ifn?def|else|endif)\b")
_ASSIGNMENT = re.compile(
    r"(?:(?:export|override|-?include|vpath|undefine)\b|[\w.-]+\s*(?:[:?+!]{1,3}=|\s=))"
)


def _with_recipes(lines: list[str], above: list[str]) -> Iterator[str]:
    """Lines of a makefile: those of a recipe start with a tab, the others stay."""
    recipes = _Recipes(language("makefile"))
    for line in above:
        recipes.takes(line)
    for line in lines:
        yield f"\t{line.lstrip(' ')}" if recipes.takes(line) else line


def _indents_with(site: Site) -> str:
    """The character that a block at the cursor is indented with; empty if nothing shows it.

    The nearest line that opens a block decides by the line after it, above the cursor first: a line
    that continues another one, such as a list of files or arguments, may be aligned with anything.
    Without such a line, the nearest indented line that does not continue another one decides.
    """
    above = _above(site)
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


def _with_spaces(line: str, unit: int, *, starts: bool) -> str:
    """A line with spaces for the tabs before its text; with `starts`, if it starts with one."""
    blanks = leading_blanks(line)
    if "\t" not in blanks or (starts and not blanks.startswith("\t")):
        return line
    return blanks.expandtabs(unit) + line[len(blanks) :]


def _unit(site: Site) -> int:
    """Columns that the document indents by: the least step from one line to a deeper one."""
    lines = [line for line in site.prefix[-8192:].split("\n") if line.strip()]
    widths = [width(leading_blanks(line)) for line in lines]
    steps = [b - a for a, b in pairwise(widths) if 1 < b - a <= 8]
    return min(steps, default=_DEFAULT_UNIT)
