"""Brackets and statements: cuts a closing bracket that has nothing left to close.

Brackets in strings, and those after a backslash, are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

from lsp.site import Site

PAIRS = {")": "(", "]": "[", "}": "{"}
"""Opening brackets by closing ones."""
_BRACKETS = "()[]{}"
_ANGLE_OPEN = re.compile(r"(?<=\w)<(?![<=\s])|(?<=::)<")
_ANGLE_CLOSE = re.compile(r"(?<![-=<>\s])>")
_MOST_CHARS = 1 << 15
_LINE_CHARS = 1 << 12
"""How much of the cursor's line is looked at on either side."""
_ONLY_CLOSING = re.compile(r"[\])}]+[;,]?")

_QUOTES = "\"'`"
_LONG_QUOTES = ('"""', "'''")
_OPENS_AFTER_BACKSLASH = frozenset(
    {"agda", "cue", "dhall", "elm", "haskell", "idris", "jq", "julia", "lean", "matlab", "pkl"}
    | {"purescript", "r", "roc", "slint", "swift", "vb"}
)
"""Languages where a bracket after a backslash is code: `"\\(name)"`, `\\(a, b) -> a`, `A\\(b)`."""
_RAW_QUOTES = {
    **dict.fromkeys(("ada", "bat", "fortran", "pascal", "powershell", "sql", "vb"), "\"'"),
    **dict.fromkeys(("matlab", "shellscript", "toml", "yaml"), "'"),
    "go": "`",
}
"""Quotes between which a backslash is a character like others."""
_RAW_MARK = re.compile(r"(?:\b(?:(?:[bcftuLUBFT]|u8)?[rR]|[rR][bftBFT]|raw)|@\$?|\$@|#)$")
"""What stands before the quote of a raw string."""
_RAW_MARK_CHARS = 12
_RAW_LONG = frozenset({"csharp", "kotlin", "scala"})
"""Languages where strings between three quotes are raw."""
_ESCAPED_IN_RAW = frozenset({"clojure", "elixir", "julia", "python"})
"""Languages where a raw string does not end at a quote after a backslash."""


def balance_brackets(text: str, site: Site) -> str:
    """The text before the first bracket that closes what stands after the cursor closes already.

    Where closing brackets stand after the cursor, its line alone is judged: of what lies further
    away, strings and comments would make a guess of it. Where none do, only a last line of nothing
    but closing brackets is, against the line below.
    """
    if not site.line_suffix.strip():
        return _without_what_is_closed_below(text, site)
    line = f"{site.line_prefix}{text}{site.line_suffix}"
    if any(char in text for char in PAIRS) and statements(line.lstrip(), site.code_language_id) > 0:
        return text  # the grammar knows every string, character and regular expression
    reader = _reader(site)
    if reader.is_text(text, site.line_suffix):
        return text
    room = _open_at_cursor(site, reader)
    stack: list[str] = []
    for at, char in reader.code(text, site.line_prefix):
        if char in PAIRS.values():
            stack.append(char)
        elif char in PAIRS:
            opener = PAIRS[char]
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
    more: dict[str, int] | None = None  # closing brackets than opening ones, by closing bracket
    while line_end and _ONLY_CLOSING.fullmatch(last.strip()) and below.startswith(last.strip()[0]):
        if more is None:
            more = _more_closed(site.line_prefix + text, site.code_language_id)
        if more[last.strip()[0]] <= 0:
            break
        for char in last:
            if char in more:
                more[char] -= 1
        text = head
        head, line_end, last = text.rstrip().rpartition("\n")
    return text


def _more_closed(text: str, language_id: str) -> dict[str, int]:
    """By how much each kind of bracket is closed more often than opened."""
    long = len(text) > _MOST_CHARS
    chars = text if long else [char for _, char in _Reader(language_id).code(text)]
    return {closer: chars.count(closer) - chars.count(opener) for closer, opener in PAIRS.items()}


def opens(text: str, closer: str, site: Site) -> bool:
    """Whether `text`, at the cursor of `site`, leaves a bracket open that `closer` would close.

    `<` counts as a bracket only right after a name and for `>`, as in `Option<u8>`.
    """
    found = _reader(site).code(text, site.line_prefix)
    if closer == ">":
        code = "".join(char for _, char in found)
        return len(_ANGLE_OPEN.findall(code)) > len(_ANGLE_CLOSE.findall(code))
    depth = 0
    for _, char in found:
        if char == PAIRS.get(closer):
            depth += 1
        elif char == closer and depth:
            depth -= 1
    return depth > 0


def is_escaped(text: str, at: int, site: Site) -> bool:
    """Whether `text[at]`, `text` being an answer, is a bracket or a quote that a backslash before
    it makes text."""
    if text[at] not in f"{_BRACKETS}{_QUOTES}":
        return False
    before = text[:at] if "\n" in text[:at] else site.line_prefix + text[:at]
    reader = _reader(site)
    return reader.covers_next(reader.run_of_escapes(before) + text[at])


def statements(text: str, language_id: str) -> int:
    """The number of statements that `text` is; 0 where it is broken, -1 without a grammar."""
    import tree_sitter

    from context.syntax.language import language_of_id
    from context.syntax.syntax_tree import parsed

    language = language_of_id(language_id)
    if language is None or len(text) > _MOST_CHARS:
        return -1
    start = "<?php " if language.name == "php" and "<?" not in text else ""
    source = f"{start}{text}".encode("utf-8", "replace")
    tree = parsed(tree_sitter.Parser(language.parser_language), source)
    if tree is None:
        return -1
    root = tree.root_node
    found = sum(not node.is_extra and node.type != "php_tag" for node in root.named_children)
    return 0 if root.has_error else found


def closes_more(text: str, closers: str = ")]}", language_id: str = "") -> bool:
    """Whether brackets of one of these kinds are closed more often than opened in `text`."""
    more = _more_closed(text, language_id)
    return any(more[closer] > 0 for closer in closers)


def unclosed(text: str, language_id: str = "") -> list[str]:
    """The closing brackets that `text` lacks, those of the outermost first."""
    stack: list[str] = []
    closers = {opener: closer for closer, opener in PAIRS.items()}
    for _, char in _Reader(language_id).code(text):
        if char in closers:
            stack.append(closers[char])
        elif stack and char == stack[-1]:
            stack.pop()
    return stack


@dataclass(frozen=True)
class _Reader:
    """Finds the characters of code in lines of a language.

    Attributes:
        name: VS Code's id of the language.
        quote: what ends the string that the lines begin in; empty if they begin in none.
        raw: a backslash is nothing special in that string.
        inside: the part of the string that stands before, as far as it is on the cursor's line.
    """

    name: str = ""
    quote: str = ""
    raw: bool = False
    inside: str = ""

    @cached_property
    def _escape(self) -> re.Pattern[str]:
        return _escapes(
            opens=self.name in _OPENS_AFTER_BACKSLASH,
            doubled=bool(self.quote) and not self.raw,
            quote=self.quote if self.raw and self.name not in _ESCAPED_IN_RAW else "",
            percent=self._has_percent,
        )

    @property
    def _has_percent(self) -> bool:
        """Whether the cursor is in what may be a pattern of Lua."""
        return self.name == "lua" and bool(self.quote)

    def run_of_escapes(self, text: str) -> str:
        """The backslashes at the end of `text`."""
        return text[len(text.rstrip("\\%" if self._has_percent else "\\")) :]

    def covers_next(self, run: str) -> bool:
        """Whether an escape sequence takes the last character of `run`, and more before it."""
        at = 0
        while at < len(run) - 1:
            found = self._escape.match(run, at)
            at = found.end() if found is not None else at + 1
        return at == len(run) > 1

    def code(self, text: str, before: str = "") -> list[tuple[int, str]]:
        """The characters outside of strings that close on their line, each with its place in
        `text`, which follows `before`. Those that an escape sequence takes are left out."""
        run = self.run_of_escapes(before)
        text = run + text
        found: list[tuple[int, str]] = []
        at = 0
        open_until = dict.fromkeys(_QUOTES, 0)  # to there no string of the quote closes on its line
        while at < len(text):
            char = text[at]
            if char in "\\%" and (escape := self._escape.match(text, at)):
                at = escape.end()
                continue
            if char in open_until and at >= open_until[char]:
                end, closed = self._string_end(text, at)
                if closed:
                    at = end
                    continue
                open_until[char] = end
            if at >= len(run):
                found.append((at - len(run), char))
            at += 1
        return found

    def is_text(self, answer: str, rest: str) -> bool:
        """Whether all of `answer`, before the rest of the line, is in the string of the cursor."""
        if not self.quote or self.quote not in rest or "\n" in answer:
            return False
        code_in_it = self.inside.count("{") > self.inside.count("}") or (
            ("$(" in self.inside or ("\\(" in self.inside and self.name in _OPENS_AFTER_BACKSLASH))
            and self.inside.count("(") > self.inside.count(")")
        )
        return not code_in_it and all(char != self.quote for _, char in self.code(answer))

    def _string_end(self, text: str, start: int) -> tuple[int, bool]:
        """Just past the string that starts at `start`, or the end of its line where it does not
        close there; whether it does."""
        quote = text[start]
        special = self.name in _ESCAPED_IN_RAW or not self.is_raw(text, start)
        at = start + 1
        while at < len(text) and text[at] != "\n":
            if text[at] == quote:
                return at + 1, True
            at += 2 if special and text[at] == "\\" else 1
        return min(at, len(text)), False

    def is_raw(self, text: str, start: int) -> bool:
        """Whether a backslash is nothing special in the string whose quote stands at `start`."""
        quote = text[start]
        before = text[max(start - _RAW_MARK_CHARS, 0) : start]
        if before.endswith(quote * 2) and self.name in _RAW_LONG:
            return True
        marked = _RAW_MARK.search(before.rstrip(quote)) is not None
        return marked or quote in _RAW_QUOTES.get(self.name, "")


@cache
def _escapes(*, opens: bool, doubled: bool, quote: str, percent: bool) -> re.Pattern[str]:
    """Matches a backslash with what it makes text.

    Args:
        opens: not an opening bracket.
        doubled: a backslash in the value of the string is written as two.
        quote: what it does not make text.
        percent: patterns of Lua, where `%` does that too.
    """
    not_text = re.escape(("([{" if opens else "") + quote)
    single = rf"\\[^{not_text}]" if not_text else r"\\."
    kinds = [r"\\{4}", rf"\\\\[{re.escape(_BRACKETS)}]"] if doubled else []
    return re.compile("|".join([*kinds, single, *(["%."] if percent else [])]), re.DOTALL)


def _reader(site: Site) -> _Reader:
    """For what follows the cursor."""
    name = site.code_language_id
    line, plain = site.line_prefix[-_LINE_CHARS:], _Reader(name)
    opened = [at for at, char in plain.code(line) if char in _QUOTES]
    if opened:
        at = next((at for at in opened if line[at] in site.line_suffix), opened[-1])
        return _Reader(name, line[at], plain.is_raw(line, at), line[at + 1 :])
    for quotes in _LONG_QUOTES:
        if site.prefix.count(quotes) % 2:
            raw = plain.is_raw(site.prefix, site.prefix.rfind(quotes) + len(quotes) - 1)
            return _Reader(name, quotes[0], raw, line)
    return plain


def _open_at_cursor(site: Site, reader: _Reader) -> dict[str, int]:
    """How many brackets of each kind the line has opened and not closed, on both sides."""
    room = dict.fromkeys(PAIRS.values(), 0)
    for _, char in reader.code(site.line_prefix[-_LINE_CHARS:]):
        if char in room:
            room[char] += 1
        elif char in PAIRS:
            room[PAIRS[char]] = max(room[PAIRS[char]] - 1, 0)
    depth = dict.fromkeys(room, 0)
    for _, char in reader.code(site.line_suffix[:_LINE_CHARS]):
        if char in depth:
            depth[char] += 1
        elif char in PAIRS:
            depth[PAIRS[char]] -= 1
            if depth[PAIRS[char]] < 0:
                room[PAIRS[char]] -= 1
                depth[PAIRS[char]] = 0
    return room
