"""Tells where an answer may end: whether the statement that it began is complete."""

from __future__ import annotations

import tree_sitter

from context.language import Language
from context.source import Source, read
from context.text import line_start

_BY_INDENT = frozenset({"python"})
_CLOSERS = ("}", ";", "end", "fi", "done", "esac", ")", "]")


def block_closed(language: Language, text: str, answer_start: int) -> bool:
    """Whether the statement in which an answer begins is complete at the end of `text`.

    Args:
        text: the document up to and with the answer so far, nothing after it; a few dozen lines
            are enough.
        answer_start: character where the answer begins.

    A statement is the outermost node that begins on the answer's first line (or where the
    answer's first text is, if that line is blank). By indent (Python) a compound statement ends
    only where a line follows that stands no deeper; elsewhere where its closing token is there.
    """
    source = read(text, language)
    begin = len(text) - len(text[answer_start:].lstrip())
    first_line = line_start(text, min(begin, answer_start))
    first = first_line + len(text[first_line:]) - len(text[first_line:].lstrip())
    statement = _statement(source, first)
    if statement is None or statement.has_error or statement.is_missing:
        return False
    start, stop = source.at.char(statement.start_byte), source.at.char(statement.end_byte)
    after = text[stop:]
    if language.name not in _BY_INDENT:
        return "\n" in after or text[start:stop].endswith(_CLOSERS)
    if "\n" not in text[start:stop].rstrip():
        return "\n" in after
    return "\n" in after and bool(after.strip())


def _statement(source: Source, first: int) -> tree_sitter.Node | None:
    """The outermost node that begins at character `first`, below the root."""
    root = source.tree.root
    if root is None:
        return None
    at = len(source.text[:first].encode("utf-8"))
    node = root.descendant_for_byte_range(at, at + 1)
    found: tree_sitter.Node | None = None
    while node is not None and node.parent is not None and node.start_byte >= at:
        found = node
        node = node.parent
    return found
