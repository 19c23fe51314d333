"""Brackets and statements: cuts a closing bracket that has nothing left to close."""

from __future__ import annotations

import re

from lsp.documents.site import Site

_PAIRS = {")": "(", "]": "[", "}": "{"}
_ANGLE_OPEN = re.compile(r"(?<=\w)<(?![<=\s])|(?<=::)<")
_ANGLE_CLOSE = re.compile(r"(?<![-=<>\s])>")
_MOST_CHARS = 1 << 15
_LINE_CHARS = 1 << 12
"""How much of the cursor's line is looked at on either side."""
_ONLY_CLOSING = re.compile(r"[\])}]+[;,]?")


def balance_brackets(text: str, site: Site) -> str:
    """The text before the first bracket that closes what stands after the cursor closes already.

    Where closing brackets stand after the cursor, its line alone is judged: of what lies further
    away, strings and comments would make a guess of it. Where none do, only a last line of nothing
    but closing brackets is, against the line below.
    """
    if not site.line_suffix.strip():
        return _without_what_is_closed_below(text, site)
    line = f"{site.line_prefix}{text}{site.line_suffix}"
    if (
        any(char in text for char in _PAIRS)
        and statements(line.lstrip(), site.code_language_id) > 0
    ):
        return text  # the grammar knows every string, character and regular expression
    room = _open_at_cursor(site)
    stack: list[str] = []
    for at, char in _code(text):
        if char in _PAIRS.values():
            stack.append(char)
        elif char in _PAIRS:
            opener = _PAIRS[char]
            if (text[at - 1] if at else site.line_prefix[-1:]) == "\\":
                continue  # of a pattern, or a character as such
            if stack and stack[-1] == opener:
                stack.pop()
            elif room.get(opener, 0) > 0:
                room[opener] -= 1
            else:
                return text[:at]
    return text


def _without_what_is_closed_below(text: str, site: Site) -> str:
    """`text` without last lines that close what it has not opened and the line below closes."""
    head, line_end, last = text.rstrip().rpartition("\n")
    below = site.next_line.strip()
    while line_end and _ONLY_CLOSING.fullmatch(last.strip()) and below.startswith(last.strip()[0]):
        if not closes_more(site.line_prefix + text, last.strip()[0]):
            break
        text = head
        head, line_end, last = text.rstrip().rpartition("\n")
    return text


def opens(text: str, closer: str) -> bool:
    """Whether `text` leaves a bracket open that `closer` would close, outside of strings.

    `<` counts as a bracket only right after a name and for `>`, as in `Option<u8>`.
    """
    if closer == ">":
        code = "".join(char for _, char in _code(text))
        return len(_ANGLE_OPEN.findall(code)) > len(_ANGLE_CLOSE.findall(code))
    depth = 0
    for _, char in _code(text):
        if char == _PAIRS.get(closer):
            depth += 1
        elif char == closer and depth:
            depth -= 1
    return depth > 0


def statements(text: str, language_id: str) -> int:
    """The number of statements that `text` is; 0 where it is broken, -1 without a grammar."""
    import tree_sitter

    from context.syntax.language import language_of_id

    language = language_of_id(language_id)
    if language is None or len(text) > _MOST_CHARS:
        return -1
    start = "<?php " if language.name == "php" and "<?" not in text else ""
    source = f"{start}{text}".encode("utf-8", "replace")
    root = tree_sitter.Parser(language.parser_language).parse(source).root_node
    found = sum(not node.is_extra and node.type != "php_tag" for node in root.named_children)
    return 0 if root.has_error else found


def closes_more(text: str, closers: str = ")]}") -> bool:
    """Whether brackets of one of these kinds are closed more often than opened in `text`."""
    chars = text if len(text) > _MOST_CHARS else [char for _, char in _code(text)]
    return any(chars.count(closer) > chars.count(_PAIRS[closer]) for closer in closers)


def unclosed(text: str) -> list[str]:
    """The closing brackets that `text` lacks, those of the outermost first."""
    stack: list[str] = []
    closers = {opener: closer for closer, opener in _PAIRS.items()}
    for _, char in _code(text):
        if char in closers:
            stack.append(closers[char])
        elif stack and char == stack[-1]:
            stack.pop()
    return stack


def _open_at_cursor(site: Site) -> dict[str, int]:
    """How many brackets of each kind the line has opened and not closed, on both sides."""
    room = dict.fromkeys(_PAIRS.values(), 0)
    for _, char in _code(site.line_prefix[-_LINE_CHARS:]):
        if char in room:
            room[char] += 1
        elif char in _PAIRS:
            room[_PAIRS[char]] = max(room[_PAIRS[char]] - 1, 0)
    depth = dict.fromkeys(room, 0)
    for _, char in _code(site.line_suffix[:_LINE_CHARS]):
        if char in depth:
            depth[char] += 1
        elif char in _PAIRS:
            depth[_PAIRS[char]] -= 1
            if depth[_PAIRS[char]] < 0:
                room[_PAIRS[char]] -= 1
                depth[_PAIRS[char]] = 0
    return room


def _code(text: str) -> list[tuple[int, str]]:
    """The characters outside of strings that close on their line, each with its place."""
    found: list[tuple[int, str]] = []
    at = 0
    open_until = dict.fromkeys("\"'`", 0)  # up to there no string of the quote closes on its line
    while at < len(text):
        char = text[at]
        if char in open_until and at >= open_until[char]:
            end, closed = _string_end(text, at)
            if closed:
                at = end
                continue
            open_until[char] = end
        found.append((at, char))
        at += 1
    return found


def _string_end(text: str, start: int) -> tuple[int, bool]:
    """Just past the string that starts at `start`, or the end of its line where it does not close
    there; whether it does."""
    quote = text[start]
    at = start + 1
    while at < len(text) and text[at] != "\n":
        if text[at] == quote:
            return at + 1, True
        at += 2 if text[at] == "\\" else 1
    return min(at, len(text)), False
