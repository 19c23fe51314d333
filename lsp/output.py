"""Cleans what a model wrote before anybody sees it: ghost text, explanations and edits. Pure.

Two things are handled: characters that a reader cannot see and that may deceive (`context.syntax.
text`, which the agent uses too), and control tokens of the model that leaked into its text. Both
are judged against the document, since a file about control tokens spells them as text, and many
scripts and emoji need invisible joiners.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from context.syntax.text import CharacterStream, with_line_feeds, without_unsafe_characters

__all__ = [
    "TextCleaner",
    "clean",
    "first_control_token",
    "spelled_in",
    "with_line_feeds",
    "without_unsafe_characters",
]

_LOOK_CHARS = 1 << 18
"""How much of the document on either side is searched for a control token."""

# How families write control tokens; what else a model has is given to the functions below.
_BAR = "[|\uff5c]"
_LOOKS_LIKE_ONE = re.compile(
    rf"<{_BAR}\w[\w\u2581 ]{{0,38}}\w{_BAR}>|<fim_\w{{1,40}}>"
    r"|</s>|<EOT>|<[be]os>|<(?:start|end)_of_turn>|<(?:repo_name|file_sep)>|\[/INST\]"
)
_STYLES = (
    re.compile(rf"<{_BAR}[^<>\n]{{1,40}}{_BAR}>"),
    re.compile(r"<\w{1,20}[_-]\w{1,40}>"),
    re.compile(r"\[/?[A-Z_]{2,40}\]"),
    re.compile(r"<{1,2}/?[A-Z]{2,20}>{1,2}"),
    re.compile(r"</?(?:[be]os|pad|unk|mask|sep|cls|s)>"),
)
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,20})>")
_MARKUP = {
    *("html", "xml", "vue", "svelte", "markdown", "mdx", "php", "handlebars", "astro", "erb"),
    *("javascriptreact", "typescriptreact", "django-html", "razor", "jsp"),
}
_TEXT = {
    *(
        "jinja",
        "yaml",
        "plaintext",
        "restructuredtext",
        "asciidoc",
        "org",
        "latex",
        "json",
        "jsonc",
    ),
    *("toml", "ini", "properties", "dotenv", "mdx"),
}
_LONG_QUOTES = ('"""', "'''")
_HEREDOC = re.compile(r"<<-?\s*[\"']?(\w+)[\"']?[^\n]*\n")
_ENDS_TOKEN = re.compile(r"[]>\n]")
_QUOTES = re.compile(r"\\.|[\"'`]")


def first_control_token(
    text: str,
    before: str = "",
    after: str = "",
    control: Iterable[str] = (),
    language_id: str = "",
) -> int | None:
    """Where the first leaked control token of `text` begins, or None.

    A control token is text where the document spells it; where the document spells another one of
    the same style and this one is inside quotes, in a comment, or in a language of plain text; and
    where it is a tag of a markup language.

    Args:
        before, after: the document around the place where `text` goes.
        control: texts of the model's control tokens, besides those that every family is known for.
    """
    if "<" not in text and "[" not in text and not any(token in text for token in control):
        return None
    near = before[-_LOOK_CHARS:]
    found = {match.start(): match[0] for match in _LOOKS_LIKE_ONE.finditer(text)}
    for token in control:
        at = text.find(token) if token else -1
        while at >= 0:
            if len(token) > len(found.get(at, "")):
                found[at] = token
            at = text.find(token, at + len(token))
    for at in sorted(found):
        if not _is_text(found[at], near + text[:at], after, language_id):
            return at
    return None


def spelled_in(token: str, before: str, after: str) -> bool:
    """Whether a document spells a control token, or another one of the same style, as text."""
    near = (before[-_LOOK_CHARS:], after[:_LOOK_CHARS])
    if any(token in part for part in near):
        return True
    styles = [style for style in _STYLES if style.fullmatch(token)]
    return any(style.search(part) for style in styles for part in near)


def _is_text(token: str, before: str, after: str, language_id: str) -> bool:
    """Whether a control token between `before` and `after` is text."""
    if token in before[-_LOOK_CHARS:] or token in after[:_LOOK_CHARS]:
        return True
    tag = _TAG.fullmatch(token)
    if tag is not None and tag[1]:
        return before.count(f"<{tag[2]}>") > before.count(token)
    if tag is not None and _is_markup(language_id):
        return True
    return spelled_in(token, before, after) and _in_text(before, language_id)


def _is_markup(language_id: str) -> bool:
    from context.syntax.language import canonical_id

    return canonical_id(language_id) in _MARKUP


def _in_text(before: str, language_id: str) -> bool:
    """Whether what follows `before` is text and not code: in a string, a comment or a template."""
    from context.syntax.language import canonical_id
    from lsp.site import language

    name = canonical_id(language_id)
    line = before[-4096:].rpartition("\n")[2]
    if name in _TEXT or name in _MARKUP or _in_quotes(line):
        return True
    near, row = before[-_LOOK_CHARS:], language(name)
    if any(near.count(quote) % 2 for quote in _LONG_QUOTES):
        return True
    if any(mark in line for mark in row.comment) or row.in_comment(near):
        return True
    return name == "shellscript" and _in_heredoc(near)


def _in_heredoc(text: str) -> bool:
    last = next(reversed(list(_HEREDOC.finditer(text))), None)
    return last is not None and not re.search(
        rf"^\t*{re.escape(last[1])}$", text[last.end() :], re.MULTILINE
    )


def _in_quotes(line: str) -> bool:
    """Whether a string or a code span is open at the end of `line`."""
    quote = ""
    for match in _QUOTES.finditer(line):
        if match[0] == quote:
            quote = ""
        elif not quote and len(match[0]) == 1:
            quote = match[0]
    return bool(quote)


_PIECE_CHARS = 4096


class TextCleaner:
    """Cleans a streamed answer that a person reads: an explanation, or a message in a chat.

    Feed it pieces as they come. It holds back what a later piece may turn into a control token or
    an escape sequence, and ends the text at the first control token.
    """

    _HELD_CHARS = 320

    def __init__(self, document: str = "", control: Iterable[str] = ()) -> None:
        """`document`: what the answer is about; what it spells may be written in the answer."""
        self._document = document[-_LOOK_CHARS:]
        self._control = tuple(control)
        self._characters = CharacterStream(self._document)
        self._held = ""  # without unsafe characters, not searched for control tokens yet
        self._line = ""  # what was shown of the last line
        self._ended = False

    def feed(self, piece: str) -> str:
        """The text that can be shown now."""
        self._held += self._characters.feed(piece)
        return self._take(self._safe_length())

    def finish(self) -> str:
        """The rest of the text, at its end."""
        self._held += self._characters.finish()
        return self._take(len(self._held))

    def _safe_length(self) -> int:
        """How much of the held text cannot be the start of a control token."""
        text = self._held
        least = max(len(text) - self._HELD_CHARS, 0)
        length = len(text)
        for mark in "<[":
            at = text.rfind(mark, least)
            if at >= 0 and not _ENDS_TOKEN.search(text, at + 1):
                length = min(length, at)
        return length

    def _take(self, length: int) -> str:
        """The first `length` characters of the held text, up to a control token."""
        if self._ended:
            return ""
        text, self._held = self._held[:length], self._held[length:]
        if "<" in text or "[" in text:
            at = self._leaked(text)
            if at is not None:
                text, self._ended = text[:at], True
        self._line = (self._line + text).rpartition("\n")[2][-4096:]
        return text

    def _leaked(self, text: str) -> int | None:
        """Where the first control token begins that is not written in a code span or a string."""
        start, before = 0, f"{self._document}\n{self._line}"
        while True:
            at = first_control_token(text[start:], before, self._held, self._control)
            if at is None:
                return None
            at += start
            if not _in_quotes((self._line + text[:at]).rpartition("\n")[2]):
                return at
            start = at + 1


def clean(text: str, document: str = "", control: Iterable[str] = ()) -> str:
    """A whole answer, cleaned as `TextCleaner` cleans a streamed one."""
    cleaner = TextCleaner(document, control)
    pieces = (text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS))
    return "".join(cleaner.feed(piece) for piece in pieces) + cleaner.finish()
