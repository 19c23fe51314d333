"""Where an answer ends: a model seldom stops by itself, so syntax, indent and suffix end it. Pure.

`end_of` looks at the answer as far as it has come, so that generation can be cancelled at once.

Whether one line or a block is wanted depends on syntax: on what the cursor's line opens once it is
complete, and on what follows the cursor. A block ends where its indentation falls back, unless that
line closes the block or is a further branch of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lsp.completion.filters.brackets import closes_more, statements, unclosed
from lsp.completion.filters.layout import first_control_token
from lsp.completion.filters.repetition import loop_start, opens_what_follows
from lsp.documents.site import Shape, Site, leading_blanks, width

_MOST_CHARS = 1 << 14
_SHORTEST_SUFFIX_CHARS = 4
_CLOSING = re.compile(r"[ \t]*[\])}]+[;,]?")
_FIRST_WORD = re.compile(r"[\s\])}]*([^\W\d_]*)")
_BRANCHES = frozenset(
    {
        *("else", "elif", "elsif", "elseif", "except", "finally", "catch", "rescue", "ensure"),
        *("case", "when", "default"),
    }
)
"""Words that begin a further branch of a statement, in any language."""
_CLOSERS = frozenset({"end", "fi", "done", "esac", "endif", "endwhile", "endfor", "until", "while"})
"""Words that close a block, in any language."""
_FILLERS = ("", "\n{indent}    pass", "\n{indent}end", "\n{indent}fi", "\n{indent}esac")
"""What may complete a statement whose last line begins a branch, besides closing brackets."""
_LONG_QUOTES = ('"""', "'''")


def end_of(answer: str, site: Site) -> int | None:
    """How many characters of `answer` to keep, once it is known to have ended; None before that.

    A later call with a longer answer may know an end that an earlier one did not.
    """
    ends = [end for rule in _RULES if (end := rule(answer, site)) is not None]
    return min(ends, default=None)


def _least_indent(answer: str, site: Site) -> int | None:
    """The columns by which a block's further lines are indented at least; None for a single line.

    A block is wanted where the cursor's line is blank, or opens a block once the answer's first
    line completes it, and the lines below the cursor are not its body already.
    """
    if site.shape is Shape.MIDDLE or site.line_suffix.strip():
        return None
    indent = width(site.indent)
    first = answer.partition("\n")[0]
    below = width(leading_blanks(site.next_line)) if site.next_line else 0
    if site.line_prefix.strip():
        opens = site.language.opens_block(site.line_prefix + first)
        return indent + 1 if opens and below <= indent else None
    start = site.line_prefix + (answer.lstrip("\n") if not first.strip() else first)
    indent = indent or width(leading_blanks(start))
    if below > indent and site.language.opens_block(site.line_prefix + first):
        return None  # the line goes around code that exists
    return indent


def _at_line_end(answer: str, site: Site) -> int | None:
    """A single line ends with its first line end; blank lines before it do not count."""
    start = 0 if site.shape is Shape.MIDDLE else len(answer) - len(answer.lstrip())
    end = answer.find("\n", start)
    return end if end >= 0 and _least_indent(answer, site) is None else None


def _at_block_end(answer: str, site: Site) -> int | None:
    """A block ends before a line that is indented less than it should be, and at a blank line where
    no inner block is open.

    A line that closes what the cursor's line has opened belongs to the block and is its last; one
    that begins a further branch belongs to it too.
    """
    least = _least_indent(answer, site)
    if least is None:
        return None
    end = answer.find("\n")
    last = site.line_prefix + answer[: end if end >= 0 else None]  # the last line with text
    has_text = bool(answer[: end if end >= 0 else None].strip())
    blank_at: int | None = None  # where blank lines began, if an inner block may go on after them
    while end >= 0:
        start = end + 1
        line, line_end, _ = answer[start:].partition("\n")
        if line.strip() and not _in_text(site, answer[:start]):
            columns = width(leading_blanks(line))
            if columns < least:
                stop = _dedented(answer, start, line, site, ended=bool(line_end))
                if stop is None:
                    return None
                if stop == 0:
                    return blank_at if blank_at is not None else end
                if stop > 0:
                    return stop
            elif blank_at is not None and columns <= least and not site.line_prefix.strip():
                return blank_at
            has_text, blank_at, last = True, None, line
        elif has_text and line_end and not line.strip() and not _in_text(site, answer[:start]):
            if blank_at is None and not _inside(last, least, site):
                return end
            blank_at = end if blank_at is None else blank_at
        end = answer.find("\n", start)
    return None


def _inside(line: str, least: int, site: Site) -> bool:
    """Whether a block is open after `line`, one of a block indented by `least` columns."""
    deeper = width(leading_blanks(line)) > least or bool(site.line_prefix.strip())
    return deeper or site.language.opens_block(line)


def _in_text(site: Site, answer: str) -> bool:
    """Whether a string of several lines or a comment of the answer is open at its end."""
    text = site.line_prefix + answer
    quoted = any(text.count(quote) % 2 for quote in _LONG_QUOTES if quote in text)
    return quoted or site.language.in_comment(text)


def _dedented(answer: str, start: int, line: str, site: Site, *, ended: bool) -> int | None:
    """What a line that is indented less than the block means for it.

    Returns:
        The characters of `answer` up to the end of the block, if the line closes it; 0 if the block
        ends before the line; -1 if the block goes on with it; None if that is not known yet.
    """
    before = answer[: start - 1]
    closing = _CLOSING.match(line)
    stop = start + closing.end() if closing else 0
    word = _FIRST_WORD.match(line)
    named = word[1].lower() if word else ""
    if not ended:
        rest = line[word.end() :] if word else ""
        known = _BRANCHES | _CLOSERS
        if not rest.strip() and any(one.startswith(named) for one in known if named or closing):
            return None
        if named in known:
            return None
    elif closes(site.line_prefix, before, line, site.code_language_id):
        return start + len(line.rstrip())
    elif named in _BRANCHES and continues(site.line_prefix, before, line, site.code_language_id):
        return -1
    if not closing or closes_more(site.line_prefix + answer[:stop]):
        return 0
    return stop


def closes(opening: str, body: str, line: str, language_id: str) -> bool:
    """Whether `line` ends the block that `opening` began and `body` goes on with.

    It does if the piece is whole syntax with it, and broken without it. False also where that
    cannot be known: for a language without a grammar here, and for a piece that is never whole by
    itself, such as an `else` without its `if`.
    """
    before = f"{opening.lstrip()}{body}\n"
    if len(before) > _MOST_CHARS:
        return False
    return statements(f"{before}{line}\n", language_id) > 0 >= statements(before, language_id)


def continues(opening: str, body: str, line: str, language_id: str) -> bool:
    """Whether `line` begins a further branch of the statement that `opening` began: the piece is
    one statement once the branch is complete.

    True where no grammar can say.
    """
    piece = f"{opening.lstrip()}{body}\n{line}"
    if len(piece) > _MOST_CHARS:
        return False
    indent = leading_blanks(line)
    brackets = "".join(reversed(unclosed(piece)))
    found = {
        statements(f"{piece}{filler.format(indent=indent)}{brackets}\n", language_id)
        for filler in _FILLERS
    }
    return bool(found & {1, -1})


def _at_suffix(answer: str, site: Site) -> int | None:
    """The answer ends where it begins to say what stands after the cursor already."""
    rest = site.line_suffix.rstrip()
    if len(rest.strip()) >= _SHORTEST_SUFFIX_CHARS:
        at = answer.find(rest)
        while at >= 0 and opens_what_follows(answer[:at], rest):
            at = answer.find(rest, at + 1)
        if at >= 0:
            return at
    below = site.next_line.rstrip()
    if len(below.strip()) < _SHORTEST_SUFFIX_CHARS:
        return None
    # The whole line must have come: the right answer may begin like the line below.
    at = answer.find(f"\n{below}\n")
    return None if at < 0 else at


def _at_control_token(answer: str, site: Site) -> int | None:
    return first_control_token(answer, site)


def _at_loop(answer: str, _site: Site) -> int | None:
    return loop_start(answer)


_RULES: tuple[Callable[[str, Site], int | None], ...] = (
    _at_line_end,
    _at_block_end,
    _at_suffix,
    _at_control_token,
    _at_loop,
)
