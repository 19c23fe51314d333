"""Where the syntax of a text is broken, as its grammar sees it."""

from __future__ import annotations

import tree_sitter

from context.source import read_file


def damage(path: str, text: str) -> tuple[int, ...] | None:
    """The lines, counted from 0, that the grammar cannot read, one for each place.

    Returns:
        None where no grammar is known, or where the text is too large for one.
    """
    source = read_file(path, text)
    root = source.tree.root if source is not None else None
    if root is None:
        return None
    found: list[int] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            found.append(_line(node))
        elif node.has_error:
            waiting.extend(reversed(node.children))
    return tuple(sorted(found))


def broken_by(path: str, before: str, after: str) -> tuple[int, ...]:
    """The broken lines of `after`, if it is more broken than `before`; empty otherwise."""
    old, new = damage(path, before), damage(path, after)
    return new if old is not None and new is not None and len(new) > len(old) else ()


def _line(node: tree_sitter.Node) -> int:
    return node.start_point.row
