"""Cleans what a model wrote before anybody sees it: ghost text, explanations and edits. Pure.

Two things are handled: characters that a reader cannot see and that may deceive, and control tokens
of the model that leaked into its text. Both are judged against the document, since a file about
control tokens spells them as text, and many scripts and emoji need invisible joiners.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,32}[ -/]{0,8}[@-~]"  # control sequences
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]{0,256}(?:\x07|\x1b\\|\x9c)"  # operating system commands
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]{0,256}(?:\x07|\x1b\\|\x9c)"  # strings
    r"|\x1b[#%(-/][0-~]|\x1b[@-OQ-WYZ\\c78=>]"
)
"""Terminal escape sequences (ECMA-48, also in their 8-bit forms): removed whole, since their
visible rest is noise."""

_INTRODUCERS = re.compile("[\x1b\x90\x98\x9b\x9d-\x9f]")
"""What a terminal escape sequence begins with."""

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
"""Everything that some language or editor takes for the end of a line."""

_SUSPECT = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    # Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt)
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2800"  # the braille pattern without dots
    "\u2028\u2029\ufff9-\uffff"  # line separators, annotations, replacement of broken bytes
    "\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\U000f0000-\U0010ffff"  # surrogates, private use
    "]"
)
_ZWSP, _ZWNJ, _ZWJ = "\u200b", "\u200c", "\u200d"
_NO_DOTS = "\u2800"
_EMOJI_STYLE, _TEXT_STYLE = "\ufe0f", "\ufe0e"
_KEYCAP, _BLACK_FLAG, _CANCEL_TAG = "\u20e3", "\U0001f3f4", "\U000e007f"
_LOOK_CHARS = 1 << 18
"""How much of the document on either side is searched for a character or a control token."""


def with_line_feeds(text: str) -> str:
    """`text` with every kind of line end as `\\n`."""
    return _LINE_ENDS.sub("\n", text)


def without_unsafe_characters(text: str, before: str = "", after: str = "") -> str:
    """`text` without characters that a reader cannot see and that may deceive.

    Bidirectional controls can make code read otherwise than it runs (CVE-2021-42574), other
    invisible characters change names, and controls can drive a terminal. What scripts need
    stays: joiners between letters and within emoji, variation selectors after emoji, tags in flags.
    Private use characters (icons) and other variation selectors stay where the document has them.

    Args:
        before, after: the document around the place where `text` goes; both are searched within a
            bounded distance.
    """
    if _INTRODUCERS.search(text):
        text = _ANSI.sub("", text)
    if not _SUSPECT.search(text):
        return text
    kept: list[str] = []
    for at, char in enumerate(text):
        if not _SUSPECT.match(char):
            kept.append(char)
            continue
        left = kept[-1] if kept else before[-1:]
        right = text[at + 1 : at + 2] or after[:1]
        if _needed(char, left, right, kept) or _in_document(char, before, after):
            kept.append(char)
    return "".join(kept)


def _needed(char: str, left: str, right: str, kept: list[str]) -> bool:
    """Whether a script or an emoji needs the invisible `char` between its neighbours."""
    if char in {_ZWJ, _ZWNJ}:
        if _joins(left) and (_joins(right) or _shapes_alone(char, left)):
            return True
        return char == _ZWJ and _pictorial(left) and _pictorial(right)
    if char in {_EMOJI_STYLE, _TEXT_STYLE}:
        return _pictorial(left) or (left != "" and left in "#*0123456789" and right == _KEYCAP)
    if char == _ZWSP:
        return _breaks_words(left) and _breaks_words(right)
    if char == _NO_DOTS:
        return "\u2800" < left <= "\u28ff" or "\u2800" < right <= "\u28ff"
    if "\u180b" <= char <= "\u180d" or char == "\u180f":  # Mongolian variation selectors
        return "\u1820" <= left <= "\u18aa"
    if "\U000e0020" <= char <= _CANCEL_TAG:
        return left == _BLACK_FLAG or (
            "\U000e0020" <= left < _CANCEL_TAG and _BLACK_FLAG in kept[-16:]
        )
    return False


def _joins(char: str) -> bool:
    """Whether `char` is a letter or a mark of a script that is written with joiners."""
    return char > "\u05ff" and unicodedata.category(char) in {"Lo", "Mn", "Mc", "Lm"}


def _shapes_alone(char: str, left: str) -> bool:
    """Whether a joiner changes the letter before it at the end of a word: after a virama (a half
    form or a chillu), and a ZWJ after an Arabic letter (its joined form, as in abbreviations)."""
    virama = unicodedata.combining(left) == 9
    return virama or (char == _ZWJ and "\u0620" <= left <= "\u08ff")


def _breaks_words(char: str) -> bool:
    """Whether `char` is of a script without blanks, in which a zero-width space may end a word:
    Thai, Lao, Myanmar or Khmer."""
    return (
        "\u0e00" <= char <= "\u0eff" or "\u1000" <= char <= "\u109f" or "\u1780" <= char <= "\u17ff"
    )


def _pictorial(char: str) -> bool:
    """Whether `char` can be part of an emoji: a symbol, a skin tone or an emoji style selector."""
    if char in {_EMOJI_STYLE, "\u203c", "\u2049", "\u3030", "\u303d", "\u00a9", "\u00ae"}:
        return True
    return char > "\u20ff" and unicodedata.category(char) in {"So", "Sk", "Sm"}


def _in_document(char: str, before: str, after: str) -> bool:
    """Whether `char` is one that is allowed where the document has it, and the document has it."""
    category = unicodedata.category(char)
    selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    if not (category == "Co" or selector or char in {"\ufffd", _NO_DOTS}):
        return False
    return char in before[-_LOOK_CHARS:] or char in after[:_LOOK_CHARS]


# How families write control tokens; what else a model has is given to the functions below.
_BAR = "[|\uff5c]"
_LOOKS_LIKE_ONE = re.compile(
    rf"<{_BAR}\w[\w\u2581 ]{{0,38}}\w{_BAR}>|<fim_\w{{1,40}}>"
    r"|</s>|<EOT>|<[be]os>|<(?:start|end)_of_turn>|<(?:repo_name|file_sep)>|\[/INST\]"
)
_STYLES = (
    re.compile(rf"<{_BAR}[^<>\n]{{1,40}}{_BAR}>"),
    re.compile(r"<\w{1,20}_\w{1,40}>"),
    re.compile(r"\[/?[A-Z_]{2,40}\]"),
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
    from lsp.documents.site import language

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
        self._raw = ""  # not cleaned yet
        self._held = ""  # without unsafe characters, not searched for control tokens yet
        self._line = ""  # what was shown of the last line
        self._ended = False

    def feed(self, piece: str) -> str:
        """The text that can be shown now."""
        self._raw += piece
        self._clean(self._clear_length())
        return self._take(self._safe_length())

    def finish(self) -> str:
        """The rest of the text, at its end."""
        self._clean(len(self._raw))
        return self._take(len(self._held))

    def _clear_length(self) -> int:
        """How much of the raw text does not depend on what follows."""
        text = self._raw
        least = max(len(text) - self._HELD_CHARS, 0)
        # A sequence that ends the text may be the start of a longer one.
        start = _INTRODUCERS.search(text)
        while start is not None:
            sequence = _ANSI.match(text, start.start())
            if sequence is None or sequence.end() == len(text):
                break
            start = _INTRODUCERS.search(text, sequence.end())
        length = len(text) if start is None else start.start()
        # A joiner, and the half of a line end, are judged by what follows.
        while length and (text[length - 1] == "\r" or _SUSPECT.match(text[length - 1])):
            length -= 1
        return max(length, least)

    def _clean(self, length: int) -> None:
        """Move the first `length` characters of the raw text to the held text, cleaned."""
        text, self._raw = self._raw[:length], self._raw[length:]
        if _SUSPECT.search(text):
            before = f"{self._document}\n{self._line}{self._held}"
            text = with_line_feeds(_ANSI.sub("", text))
            text = without_unsafe_characters(text, before, self._raw)
        self._held += text

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
