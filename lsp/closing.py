"""Whether a line closes a block, by the syntax tree of what opened it and what came since."""

from __future__ import annotations

from lsp.language import grammar

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

    from context.language import languages

    language = languages().get(grammar(language_id))
    if language is None:
        return False
    tree = tree_sitter.Parser(language.parser_language).parse(text.encode("utf-8", "replace"))
    return not tree.root_node.has_error
