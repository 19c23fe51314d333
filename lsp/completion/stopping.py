"""Where an answer ends: a model seldom stops by itself, so syntax, indent and suffix end it. Pure.

`end_of` looks at the answer as far as it has come, so that generation can be cancelled at once.

Whether a line closes a block, by the syntax tree of what opened it and what came since.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lsp.completion.filters.characters import first_control_token
from lsp.completion.filters.repetition import loop_start, opens_what_follows
from lsp.documents.site import Shape, Site, leading_blanks, width

_MOST_CHARS = 1 << 14


def closes(opening: str, body: str, line: str, language_id: str) -> bool:
    """Whether `line` ends the block that `opening` began and `body` goes on with.

    It does if the piece is whole syntax with it, and broken without it. False also where that
    cannot be told: for a language without a grammar here, and for a piece that is never whole by
    itself, such as an `else` without its `if`.
    """
    before = f"{opening.lstrip()}{body}\n"
    if len(before) > _MOST_CHARS:
        return False
    return _whole(f"{before}{line}\n", language_id) and not _whole(before, language_id)


def _whole(text: str, language_id: str) -> bool:
    import tree_sitter

    from context.syntax.language import language_of_id

    language = language_of_id(language_id)
    if language is None:
        return False
    tree = tree_sitter.Parser(language.parser_language).parse(text.encode("utf-8", "replace"))
    return not tree.root_node.has_error


_SHORTEST_SUFFIX_CHARS = 4
_CLOSING = re.compile(r"[ \t]*[\])}]+[;,]?")


def end_of(answer: str, site: Site) -> int | None:
    """How many characters of `answer` to keep, once it is known to have ended; None before that.

    A later call with a longer answer may know an end that an earlier one did not.
    """
    ends = [end for rule in _RULES if (end := rule(answer, site)) is not None]
    return min(ends, default=None)


def _at_line_end(answer: str, site: Site) -> int | None:
    """A single line ends with its first line end; blank lines before it do not count."""
    if site.shape is Shape.MIDDLE:
        end = answer.find("\n")
    elif site.shape is Shape.LINE:
        start = len(answer) - len(answer.lstrip())
        end = answer.find("\n", start)
    else:
        return None
    return None if end < 0 else end


def _at_block_end(answer: str, site: Site) -> int | None:
    """A block ends at a blank line, or before a line that stands further left than it should.

    A line there that closes what the cursor's line has opened belongs to the block and is its last.
    """
    if site.shape is not Shape.BLOCK:
        return None
    least = _least_indent(site)
    end = answer.find("\n")
    has_text = bool(answer[: end if end >= 0 else None].strip())
    while end >= 0:
        start = end + 1
        line, line_end, _ = answer[start:].partition("\n")
        if line.strip():
            if width(leading_blanks(line)) < least:
                if line_end and closes(site.line_prefix, answer[:end], line, site.language_id):
                    return start + len(line.rstrip())
                closing = _CLOSING.match(line)
                stop = start + closing.end() if closing else 0
                if not closing or _closes_too_much(answer[:stop], site):
                    return end
                if line_end or stop < start + len(line):
                    return stop
            has_text = True
        elif has_text and line_end:
            return end
        end = answer.find("\n", start)
    return None


def _least_indent(site: Site) -> int:
    """The columns that each further line of a block has to stand in at least."""
    indent = width(site.indent)
    return indent + 1 if site.line_prefix.strip() else indent


def _closes_too_much(answer: str, site: Site) -> bool:
    """Whether `answer` closes more brackets than it and the cursor's line have opened."""
    text = site.line_prefix + answer
    return any(text.count(right) > text.count(left) for left, right in ("()", "[]", "{}"))


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
