"""What is done to an answer before it is shown: a chain of filters, one function each.

A filter takes the text and the site where it would be inserted, and returns the text for the next
filter; an empty text drops the suggestion. Every filter leaves alone what it does not understand.
Those of brackets are in `brackets`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import MappingProxyType

from context.syntax.language import canonical_id
from lsp import output
from lsp.completion.brackets import PAIRS, balance_brackets, is_escaped, opens
from lsp.site import Language, Site, language, leading_blanks, width

_LOOK_CHARS = 1 << 14
_LOOK_LINES = 400
_DEFAULT_UNIT = 4
_FEWEST_CHARS = 4
"""A shorter line, such as a lone bracket, may rightly occur twice."""
_LONGEST_CYCLE_LINES = 6
_TIMES_OF_ONE_LINE = 3
_FEWEST_CYCLE_CHARS = 8
_CYCLE_CHARS = range(4, 64)
_TIMES_IN_A_LINE = 5
_MOST_TRIES = 16
"""Places where the rest of the line may begin in an answer, of which brackets decide."""
_LONGEST_OVERLAP = 1 << 11
"""Of a longer rest of the line, only its beginning is looked for at the end of an answer."""
_CLOSER = re.compile(r"\\?[)\]}]|>")
"""Patterns of some programs, and LaTeX, pair brackets after backslashes."""


# Characters, blanks and indentation.


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
    elif first.strip():
        first = strip(site.line_prefix + first)[len(site.line_prefix) :]
    else:
        first = strip(first)
    lines = [first, *map(strip, others)]
    last = text.rpartition("\n")[2]
    if site.line_suffix.strip() and last.strip():
        lines[-1] = last
    return "\n".join(lines).rstrip("\n")


def join_body(text: str, site: Site) -> str:
    """No blank lines between the cursor's line and the first line of the block that it opens."""
    lines = text.lstrip("\n")
    blank = len(text) - len(lines)
    below = blank > 1 and site.language.body_is_below(site.line_prefix)
    return f"\n{lines}" if below and lines.strip() else text


def _stripped(line: str) -> str:
    return line.rstrip(" \t")


def _with_line_break(line: str) -> str:
    """A line of Markdown: two blanks behind its text break it (CommonMark, "Hard line breaks")."""
    stripped = line.rstrip(" \t")
    return f"{stripped}  " if stripped and line.endswith("  ") else stripped


def _unchanged(line: str) -> str:
    return line


def _with_escaped_blank(line: str) -> str:
    """A backslash makes the blank after it a character; without it the line would go on below."""
    stripped = line.rstrip(" \t")
    escapes = len(stripped) - len(stripped.rstrip("\\"))
    return line[: len(stripped) + 1] if escapes % 2 else stripped


_VIM_VALUE = re.compile(r"\s*(?:\w*(?:map|abbrev(?:iate)?)|com(?:mand)?|norm(?:al)?)!?\s+\S")


def _vim_line(line: str) -> str:
    """Blanks at the end are typed by a mapping, an abbreviation or a command."""
    return line if _VIM_VALUE.match(line) else _with_escaped_blank(line)


def _bat_line(line: str) -> str:
    """Blanks at the end of a question are shown."""
    return line if _BAT_QUESTION.match(line) else _stripped(line)


_BAT_QUESTION = re.compile(r"\s*@?set\s+/p\s+\"?[^=]{1,100}=", re.IGNORECASE)

_STRIPS = {
    "viml": _vim_line,
    "bat": _bat_line,
    **dict.fromkeys(
        ("shellscript", "fish", "makefile", "ignore", "tcl", "latex", "restructuredtext"),
        _with_escaped_blank,
    ),
    **dict.fromkeys(("markdown", "mdx"), _with_line_break),
    **dict.fromkeys(("diff", "tsv", "csv", "psv", "mail", "eml"), _unchanged),
}


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
    if "\t" not in blanks:
        return blanks[:columns]
    low, high = 0, len(blanks)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if width(blanks[:middle]) >= columns else (middle + 1, high)
    return blanks[:low]


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
        self._other_prefix = False  # than a tab

    def takes(self, line: str) -> bool:
        """Go past a line; whether it must start with a tab and does not."""
        if line.startswith(".RECIPEPREFIX"):
            self._other_prefix = line.partition("=")[2].strip() != ""
        if self._other_prefix:
            return False
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


def deeper_indent(site: Site) -> str:
    """The indentation of a block that the cursor's line opens."""
    if _indents_with(site) == "\t" and not site.language.spaces:
        return f"{site.indent}\t"
    return site.indent + " " * _unit(site)


def _unit(site: Site) -> int:
    """Columns that the document indents by: the least step from one line to a deeper one."""
    lines = [line for line in site.prefix[-8192:].split("\n") if line.strip()]
    widths = [width(leading_blanks(line)) for line in lines]
    steps = [b - a for a, b in pairwise(widths) if 1 < b - a <= 8]
    return min(steps, default=_DEFAULT_UNIT)


# What the answer, or the document around it, already contains.


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
    last = max((at for at, line in enumerate(others) if line.strip()), default=0)
    for at, line in enumerate(others):
        if line.rstrip() == below and (at >= last or len(below.strip()) >= _FEWEST_CHARS):
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
        for _ in range(_MOST_TRIES):
            if at < 0:
                break
            if not opens_what_follows(text[:at], rest, site):
                return text[: at + is_escaped(text, at, site)]
            at = text.find(rest, at + 1)
    end = len(text.rstrip())
    for at in range(max(start, end - min(len(rest), _LONGEST_OVERLAP)), end):
        if (
            rest.startswith(text[at:end])
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
    stripped = [line.rstrip() for line in lines]
    while stripped and not stripped[-1]:
        stripped.pop()
    for start in range(max(1, len(stripped) - len(below)), len(stripped)):
        if stripped[start:] == below[: len(stripped) - start]:
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
    blanks = text[: len(text) - len(text.lstrip())]
    return text if not embedded and language.in_text(site.prefix + blanks) else ""


# The chain.

Filter = Callable[[str, Site], str]

CHAIN: MappingProxyType[str, Filter] = MappingProxyType(
    {
        "control_tokens": cut_control_tokens,
        "line_ends": unify_line_ends,
        "control_characters": remove_unsafe_characters,
        "repeated_lines": cut_loops,
        "indentation": fix_indentation,
        "duplicate_line": cut_line_below,
        "suffix_overlap": cut_suffix_overlap,
        "brackets": balance_brackets,
        "trailing_blanks": strip_trailing_blanks,
        "blank_lines": join_body,
        "worthless": drop_worthless,
    }
)
"""The filters in the order in which they run; a name is the name of its golden file."""


def apply(text: str, site: Site) -> str:
    """`text` after the whole chain; empty if nothing worth showing is left."""
    for one in CHAIN.values():
        if not text:
            break
        text = one(text, site)
    return text
