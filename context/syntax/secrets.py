"""Finds keys, passwords and tokens in a text, so that no prompt, index or log ever holds one.

Secrets are found on the whole text, and only then is the text cut: a part of a key does not look
like a key. So the text that prompts are made of is as long as the document, with `HIDDEN` in place
of each character of a secret (`ShownText`); what is cut out of it goes through `masked_runs`, which
leaves one `MASK` for each run. All patterns run in linear time.
"""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MASK = "..."
HIDDEN = "\uffff"
"""A code point that no text may hold (Unicode's noncharacter U+FFFF)."""

Span = tuple[int, int]

_LINES_APART = 4  # each piece of a value is at most so many lines below its name
_REACH_CHARS = 8192  # of a long line, on either side of an edit
_RUN = re.compile(f"{HIDDEN}[{HIDDEN}\n]*{HIDDEN}|{HIDDEN}")

# Whose key it is, for those that are secret.
_OWNER_OF_KEY = re.compile(
    r"(?:api|access|private|auth|encryption|signing|master|shared|account|client|service|admin|tls|_)"
    r"[._-]?\Z"
)
_LONGEST_OWNER = 12
_LOWER = {ord(char): ord(char) + 32 for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_LOWER |= {upper: upper + 32 for upper in range(0x0410, 0x0430)}  # of Russian
# Full-width forms of ASCII, spaces that are not ASCII and typographic quotes.
_WIDE = re.compile("[\uff01-\uff5e\u3000\u00a0\u2018-\u201f]")
_NARROW = {0xFEE0 + code: code for code in range(0x21, 0x7F)}
_NARROW |= dict.fromkeys((0x3000, 0xA0), 0x20)
_NARROW |= dict.fromkeys(range(0x2018, 0x201C), 0x27) | dict.fromkeys(range(0x201C, 0x2020), 0x22)
# From there to the value: the rest of the name, what separates the two, and what may stand before
# the value (a type, a call, the scheme of a header). All parts are bounded.
_TO_VALUE = re.compile(
    r"""[\w$.-]{0,64}+
    (?: ["'],[ \t]{0,4}(?:\r?\n[ \t]{0,40})?["']value["'][ \t]{0,2}:   # "name": "sid", "value": "x"
      | \\?["'`]\s{0,2},[ \t]{0,4}                               # define('NAME', 'value')
      | ,[ \t]{0,2}(?=")                                        # {password, "value"}
      | \\{0,7}["'`]?[ \t]{0,2}\[?\]?[ \t]{0,16}
        (?: :?[ \t]{0,4}(?:as[ ]{1,4})?[\w\[\].|<>?*&]{1,32}[ \t]{0,4}=    # name: type = value
          | =>|:=|[?|+]{1,2}=|[=:]{1,3}|> )                      # also <name>value
        (?: [ \t]{1,4}(?:&[\w-]{1,32}|!!?\w{1,16}) (?=[ \t]) )?   # YAML: name: &anchor value
      | ["'][ \t]{0,4}\{[ \t\r]{0,4}\n(?:[^\n]{0,100}\n){0,2}?    # a variable of Terraform
        [ \t]{0,16}default[ \t]{0,16}=
      | \\?["']?[ \t]{1,4}value[ \t]{0,2}=                       # key="name" value="value"
      | \\?["']?[ \t\r]{0,4}\n[ \t-]{0,40}["']?value["']?[ \t]{0,2}[:=]
      | </key>[ \t\r]{0,4}\n[ \t]{0,40}<string>                    # property lists
      | \( | [ \t]{1,8}(?=["'])                                  # SecretStr("value"); #define
      | (?P<apart>[ \t]{1,4})(?=[^\s"'`])                       # --api-key value; netrc
    )
    [ \t]{0,16}
    (?: (?: [(\\|>]{0,2}-? | ["]{3}\\? | '{3}\\? )[ \t\r]{0,4}\n[ \t]{0,40} )?   # on the next line
    (?: (?:[A-Za-z_][\w.]{0,32})?[(\[{]{1,2}[ \t\r]{0,4}(?:\n[ \t]{0,40})?    # SecretStr("value")
        (?: ["'`][\w.@-]{1,64}["'`][ \t]{0,2}[,:]=?>?[ \t]{0,4}                  # ("user", "value")
          | [\w-]{1,64}[ \t]{0,8}[:=]>?[ \t]{0,4}(?=["']) )? )?                 # {user = "value"}
    (?: [brufl@$]{0,2}\#{0,2} (?P<quote>\\{0,7}["'`]{1,3}(?:\\["'`])?)
        (?:(?:basic|bearer|token|apikey)[ ]{1,2})?
        (?P<quoted>(?:base64:)?[A-Za-z0-9+/_-]{512,65536}={0,2} | [^\s"'`\\]{8,512})
        (?=\\{0,7}["'`])
      | b?"(?P<phrase2>(?:[^"\\\n]|\\.){8,256})" | b?'(?P<phrase>(?:[^'\\\n]|\\.){8,256})'
      | (?:(?:basic|bearer|token|apikey)[ ]{1,2})? \{?
        (?P<bare>[A-Za-z0-9+/]{512,65536}={0,2}
          | (?:[^\s"'`\\,;()\[\]{}<>&|]|&(?!amp;|[\w.-]{1,32}=)){8,512})
        (?=[\s"'`\\,;)\]}<&]|\Z) )
    """,
    re.IGNORECASE | re.ASCII | re.VERBOSE,
)
# What may follow the quote at the end of a value: its next piece, or the next value of a list.
_NEXT_PIECE = re.compile(
    r"""\\?["'`] [ \t]{0,8} (?: (?P<list>,) [ \t]{0,8} (?: [ \t\r]{0,4}\n[ \t]{0,64} )?
            (?: ["'`][\w.@-]{1,64}["'`][ \t]{0,4}[:=]>?[ \t]{0,4} )?
          | [+.&]{0,2} [ \t]{0,8} \\? [ \t\r]{0,4} (?: \n [ \t]{0,64} )?
            (?: [+.&]{1,2}[ \t]{1,8} )? )
        [brufl]{0,2} \\?["'`] (?P<quoted>[^\s"'`\\]{4,512}) (?=\\?["'`])
      | \\ \r? \n [ \t]{0,64} (?P<bare>[^\s"'`\\,;()\[\]{}<>&|]{4,512})
    """,
    re.VERBOSE,
)
_MOST_PIECES = 16
_HEXADECIMAL = re.compile(r"(?:0x)?(?:[0-9a-f]{16,512}|[0-9A-F]{16,512})")
_UUID = re.compile(r"(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})", re.IGNORECASE)
_UPPER = re.compile(r"(?=(?:[A-Z]*[0-9]){3})[A-Z0-9]{20,512}={0,6}", re.ASCII)
# Names of what is a secret whatever it looks like; others may be of checksums or identifiers.
_APART = re.compile(r"[\w+/=-]{12,512}", re.ASCII)  # behind a blank, which prose has too
_FEWEST_DIGITS = 8  # different digits of a random hexadecimal number, at least
_SURE_NAME = re.compile(
    r"pass|pwd|secret|token|psk|sess|sid|csrf|xsrf"
    r"|(?:api|access|private|encryption|signing|master|admin)[_-]?key"
)
_SESSION_NAME = re.compile(r"sess|sid|csrf|xsrf|salt")
_CHOSEN_NAME = re.compile(
    r"pass|pwd|secret|token|psk|[^\x00-\x7f]|contrase|senha|kennwort|clave|wachtw"
)
# What follows such a name where the value is about a secret and is none.
_ABOUT = re.compile(
    r"[\w.-]{0,40}(?:id|ids|hint|help|text|msg|message|label|title|prompt|error|regexp?|re|pattern|url"
    r"|uri|path|file|filename|name|type|kind|policy|rules?|description|desc|placeholder|version|arn)"
    r"(?![a-z])",
)
_WORD = re.compile(r"[A-Za-z]?[a-z]{2,}|[A-Z]{3,}")
_MIXED = re.compile(r"(?:[a-z]{0,4}[A-Z0-9])+[a-z]{0,4}")  # no word of more letters
_DIGITS = re.compile(r"[0-9]+")
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_HARD = re.compile(r"[^aeiouy]{5}", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\$\{|\{\{|%\(|\$\(|^\$|x{4}|\*{3}|\.{3}|^your|example|changeme|placeholder"
    r"|abcdefghijk|0123456789|^process\.env|^os\.environ|^ENV\[",
    re.IGNORECASE,
)
# What is filled in later; the rest of a value may be a password all the same.
_HOLE = re.compile(r"\{[\w.]*(?:![rsa])?(?::[\w.:!,<>^%+-]*)?\}|<[A-Za-z|][^<>]*>?")
_FEWEST_AROUND_HOLES = 6
# Regular expressions, which names of secrets are often searched for with.
_PATTERN = re.compile(r"\(\?|\[\^?[A-Za-z0-9]-[A-Za-z0-9]|\.\*|\\[dwsbDWSB]|[\])][+*?{]|%[sdr]\b")
_PATH = re.compile(r"(?:~|\.{1,2})?/[\w.-]{1,64}/[\w./~-]{0,256}\.\w{1,8}")
# Of what someone chose, and may be anything: what only stands for it.
_STANDS_FOR = re.compile(
    r"[$%<{\[(].*|[A-Z_]+|[.*x-]+|(?:my|the|your|a|some|new|old|user|db|root|test)?[_-]?"
    r"(?:pass(?:wor[dt]|wd|code|phrase)?|passwd|pwd|pw|secret|token|key|thing|pat)[_-]?\d?",
    re.IGNORECASE | re.DOTALL,
)
_ENCODED = re.compile(r"^[A-Za-z0-9+/]{60,}={0,2}[ \t\r]*$", re.MULTILINE)
_LEAST_DIFFERENT = 8  # characters of a line of base64

_RUN_OF_KEY = re.compile(r"[_-]([A-Za-z0-9]{28,512})", re.ASCII)
_PREFIX = re.compile(r"(?<![\w$./+-])[A-Za-z][A-Za-z0-9]{1,9}(?:[_-][A-Za-z][a-z]{1,8}){0,2}[_-]\Z")
_DIGEST = re.compile(r"(?i:sha|md5|blake|h1|integrity|crc|etag|hash)")

_COOKIES = re.compile(r"(?i:cookie)2?\\?[\"']?[ \t]{0,4}[:=,][ \t]{0,4}\\?[\"']?")
_COOKIE = re.compile(r"(?<![\w.-])[\w.-]{1,64}=([\w%.+/=~:|-]{16,4096})(?![(\[{])")
_LONGEST_COOKIES = 8192

_BEGIN = re.compile(r"-{4,5} ?BEGIN[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}")
_END = re.compile(r"-{4,5} ?END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}")
# PuTTY's private keys, https://the.earth.li/~sgtatham/putty/0.81/htmldoc/AppendixC.html
_PUTTY = re.compile(r"Private-Lines: (\d{1,3})[ \t\r]*\n")
_PUTTY_LINE = re.compile(r"[ \t]{0,40}([A-Za-z0-9+/]{1,64}={0,2})[ \t\r]{0,4}(?:\n|\Z)")
_LONGEST_BLOCK = 64 * 1024
_IN_BLOCK = re.compile(r"[A-Za-z0-9+/=]{16}")
_BLOCK_LINE = re.compile(
    r"[ \t\"'+,\\#/*>;|]{0,40}(?:[A-Za-z0-9+/=\\]{16,}|[A-Z][\w-]{1,40}: .{0,120}|)"
    r"[ \t\"'+,\\;\r]{0,40}$"
)


_WORD_OF_SHELL = (  # single and double quotes, escaped in another string or not; none
    r"""(?:\\{0,3}'([^'\n\\]{3,128})|\\{0,3}"([^"\n\\$]{3,128})|([^\s"'`\\|;&()<>\[\]{},$]{3,128}))"""
)


# To split a text into words: all bytes that are in no key become blanks.
_IN_KEYS = frozenset(string.ascii_letters + string.digits + "_-.+/=~%$:")
_SPLIT = bytes(byte if chr(byte) in _IN_KEYS else 0x20 for byte in range(256))
_SHORTEST_KEY = 15


@dataclass(frozen=True, eq=False)
class _Form:
    """One kind of key, as secret_forms.toml describes it."""

    pattern: re.Pattern[str]
    run: re.Pattern[str] | None
    random: bool
    literal: bool

    def is_secret(self, value: str) -> bool:
        if self.literal and _STANDS_FOR.fullmatch(value):
            return False
        if (self.literal or self.random) and _is_placeholder(value):
            return False
        if not self.random or looks_random(value) or _chosen(value):
            return True
        return _random_hexadecimal(value)


@dataclass(frozen=True)
class _Forms:
    """secret_forms.toml, by hints.

    Attributes:
        places: a word of each hint, the whole hint and its form.
        names, names_beyond_ascii: the pattern of each hint.
    """

    keys: tuple[tuple[str, _Form], ...]
    places: tuple[tuple[str, str, _Form], ...]
    names: dict[str, re.Pattern[str]]
    names_beyond_ascii: dict[str, re.Pattern[str]]


@cache
def _forms() -> _Forms:
    path = Path(__file__).with_name("secret_forms.toml")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    keys: list[tuple[str, _Form]] = []
    for row in table["keys"].values():
        key = _form(row, run=row["pattern"])
        keys += [(hint, key) for hint in row["hints"]]
    places: list[tuple[str, str, _Form]] = []
    for row in table["places"].values():
        place = _form(row, run=row.get("run"))
        for hint in row["hints"]:
            word = max(hint.encode().translate(_SPLIT).split() or [b""], key=len)
            places.append((word.decode(), hint, place))
    names, beyond = (
        {hint: re.compile(pattern, re.ASCII) for hint, pattern in table[part].items()}
        for part in ("names", "names_beyond_ascii")
    )
    return _Forms(tuple(keys), tuple(places), names, names | beyond)


def _form(row: dict[str, Any], run: str | None) -> _Form:
    return _Form(
        re.compile(row["pattern"].replace("WORD", _WORD_OF_SHELL), re.ASCII),
        re.compile(run, re.ASCII | re.MULTILINE) if run is not None else None,
        row.get("random", False),
        row.get("literal", False),
    )


def masked(text: str) -> str:
    """A whole text with each secret replaced by MASK; line ends stay."""
    return masked_runs(ShownText(text).text)


def masked_runs(shown: str) -> str:
    """A part of a `ShownText` with each run of HIDDEN replaced by MASK; line ends stay."""
    if HIDDEN not in shown:
        return shown
    return _RUN.sub(lambda found: MASK + "\n" * found.group().count("\n"), shown)


class ShownText:
    """A text without its secrets: as long as the text, HIDDEN for each character of a secret.

    Attributes:
        spans: where secrets are, in order, none touching another.
    """

    def __init__(self, text: str) -> None:
        self._search(text)

    def _search(self, text: str) -> None:
        self._whole = text
        self._in_lines = _merged(_found(text))
        self._has_blocks = _may_have_blocks(text)
        self._show()

    def edited(self, text: str, start: int, old_stop: int, new_stop: int) -> None:
        """Follow an edit: characters `start:old_stop` became `start:new_stop` of `text`.

        Only the lines around it are searched again.
        """
        moved = new_stop - old_stop
        if any(b - a > _REACH_CHARS // 2 for a, b in self._in_lines):
            self._search(text)
            return
        first = max(_lines_back(text, start, _LINES_APART), start - _REACH_CHARS)
        last = min(_lines_on(text, new_stop, _LINES_APART), new_stop + _REACH_CHARS)
        kept = [span for span in self._in_lines if span[0] < first]
        kept += [(a + moved, b + moved) for a, b in self._in_lines if a + moved >= last]
        begin = max(_lines_back(text, first, _LINES_APART), first - _REACH_CHARS)
        end = min(_lines_on(text, last, 1), last + _REACH_CHARS)
        around = text[begin:end]
        self._has_blocks = self._has_blocks or _may_have_blocks(around)
        found = ((a + begin, b + begin) for a, b in _found(around))
        self._whole = text
        self._in_lines = _merged([*kept, *(one for one in found if first <= one[0] < last)])
        self._show()

    def _show(self) -> None:
        text = self._whole
        self.spans = self._in_lines
        if self._has_blocks:
            self.spans = _merged([*self._in_lines, *_blocks(text), *_putty(text)])
        parts: list[str] = []
        at = 0
        for start, stop in self.spans:
            parts += [text[at:start], _hidden(text[start:stop])]
            at = stop
        self.text = "".join([*parts, text[at:]]) if parts else text


def _hidden(text: str) -> str:
    return "\n".join(HIDDEN * len(line) for line in text.split("\n"))


def _lines_back(text: str, offset: int, lines: int) -> int:
    """The start of the line that is `lines` above the one of `offset`."""
    for _ in range(lines):
        offset = max(text.rfind("\n", 0, offset), 0)
    return text.rfind("\n", 0, offset) + 1


def _lines_on(text: str, offset: int, lines: int) -> int:
    """The end of the line that is `lines` below the one of `offset`."""
    for _ in range(lines + 1):
        offset = text.find("\n", offset) + 1
        if not offset:
            return len(text)
    return offset


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _found(text: str) -> Iterator[Span]:
    """Secrets that are on one line.

    Most texts hold none. What each kind of secret has in it is looked for in the different words of
    the text, which are a third of it, or in its long words, a tenth; a pattern is searched for only
    where that is there.
    """
    split = set(text.encode("utf-8", "replace").translate(_SPLIT).split())
    words = b"\n".join(split).decode()
    long_words = b"\n".join([word for word in split if len(word) >= _SHORTEST_KEY]).decode()
    forms = {form for hint, form in _forms().keys if hint in long_words}
    forms |= {
        form
        for word, hint, form in _forms().places
        if word in words and (word is hint or hint in text)
    }
    for form in forms:
        if form.run is None or form.run.search(long_words):
            for found in form.pattern.finditer(text):
                group = found.lastindex or 0
                if form.is_secret(found[group]):
                    yield found.span(group)
    words = words.lower()
    yield from _named(text, words)
    if _ENCODED.search(long_words):
        for found in _ENCODED.finditer(text):
            if len(set(found.group())) >= _LEAST_DIFFERENT:
                yield found.span()
    if _RUN_OF_KEY.search(long_words):
        for found in _RUN_OF_KEY.finditer(text):
            start, stop = found.span(1)
            if _prefixed(text[max(start - 40, 0) : start]):
                value = found[1]
                if sum(map(str.isupper, value)) >= 3 and _kinds(value) == 3 and looks_random(value):
                    yield start, stop
    if "cookie" in words:
        yield from _in_cookies(text)


def _in_cookies(text: str) -> Iterator[Span]:
    end = 0
    for found in _COOKIES.finditer(text):
        if found.end() < end:
            continue
        end = min(_line_end(text, found.end()), found.end() + _LONGEST_COOKIES)
        for cookie in _COOKIE.finditer(text, found.end(), end):
            if looks_random(cookie[1]) or _random_hexadecimal(cookie[1]):
                yield cookie.span(1)


def _prefixed(before: str) -> bool:
    """Whether a key of a maker who puts its name in front may follow."""
    found = _PREFIX.search(before)
    return found is not None and _DIGEST.match(found.group()) is None


def _line_end(text: str, offset: int) -> int:
    found = text.find("\n", offset)
    return len(text) if found < 0 else found


def _random_hexadecimal(value: str) -> bool:
    return _HEXADECIMAL.fullmatch(value) is not None and len(set(value)) >= _FEWEST_DIGITS


def _names(lower: str, words: str) -> Iterator[Span]:
    """Names of secrets in a text in lower case, in order, none in another.

    Args:
        words: what holds each hint that the text holds.
    """
    forms = _forms()
    found: list[Span] = []
    for hint, pattern in (forms.names if lower.isascii() else forms.names_beyond_ascii).items():
        if hint not in words:
            continue
        at = lower.find(hint)
        while at >= 0:
            start, stop = at, at + len(hint)
            name = pattern.match(lower, at)
            if hint == "key":
                owner = _OWNER_OF_KEY.search(lower, max(at - _LONGEST_OWNER, 0), at)
                if owner is not None:
                    found.append((owner.start(), -stop))
                    name = None
            if name is not None:
                found.append((start, -name.end()))
            at = lower.find(hint, stop)
    end = 0
    for start, negative in sorted(found):  # the longest of those that start at one place
        if start >= end:
            end = -negative
            yield start, end


def _named(text: str, words: str) -> Iterator[Span]:
    """Values that look random behind a name that says what they are."""
    if text.isascii():
        lower = text.lower()
    else:
        if _WIDE.search(text):
            text = text.translate(_NARROW)
        lower = text.lower()
        if len(lower) != len(text):
            lower = text.translate(_LOWER)
        words = lower
    for start, at in _names(lower, words):
        found = _TO_VALUE.match(text, at)
        if found is None or found.lastgroup is None:
            continue
        group = next(one for one in _VALUES if found[one] is not None)
        pieces, values = _pieces(text, start, found.end(group))
        whole = found[group] + "".join(text[start:stop] for start, stop in pieces)
        if _stands_for_another(whole):
            continue
        about = _ABOUT.match(lower, at) is not None
        apart = found["apart"] is not None
        if group == "bare" and text[found.start(group) - 1] == ":" and _kinds(whole) != 3:
            continue  # image:tag, and the like
        if text[start - 2 : start] == "::" and _HEXADECIMAL.fullmatch(whole):
            continue  # the revision of a type
        upper = text[start:at].isupper()  # a variable of an environment
        if upper and group == "bare" and not about and len(whole) >= _LONG_TOKEN:
            secret = _random_hexadecimal(whole) and not apart
        else:
            secret = False
        if secret or _is_value(whole, lower[start:at], group, apart=apart, about=about):
            yield found.span(group)
            yield from pieces
            yield from (one for one in values if looks_random(text[slice(*one)]))


def _is_placeholder(value: str) -> bool:
    if _PLACEHOLDER.search(value) is not None:
        return True
    rest = _HOLE.sub("", value)
    return rest != value and not (
        len(rest) >= _FEWEST_AROUND_HOLES and _kinds(rest) == 3 and looks_random(rest)
    )


def _stands_for_another(value: str) -> bool:
    """Whether it is a placeholder, a regular expression or the path of a file."""
    return (
        value.count("|") > _MOST_BARS
        or _is_placeholder(value)
        or _PATTERN.search(value) is not None
        or _PATH.fullmatch(value) is not None
    )


_VALUES = ("quoted", "bare", "phrase", "phrase2")


def _is_value(value: str, name: str, group: str, *, apart: bool, about: bool) -> bool:
    """Whether `value` behind a name is a secret.

    Args:
        group: how it is written, of `_VALUES`.
        apart: only a blank is between the two.
        about: the name goes on, to say that the value is an identifier, a message or the like.
    """
    if about and (_UUID.fullmatch(value) or _HEXADECIMAL.fullmatch(value)):
        return False
    if _SURE_NAME.search(name) and not apart:
        if _HEXADECIMAL.fullmatch(value):
            return _random_hexadecimal(value)
        if _UUID.fullmatch(value):
            return len(set(value)) > _FEWEST_DIGITS
    if _SESSION_NAME.search(name) and len(value) >= _LONG_TOKEN and _random_hexadecimal(value):
        return True
    if _CHOSEN_NAME.search(name) and not about and _chosen(value):
        return True
    if apart:
        return _APART.fullmatch(value) is not None and _bare_secret(value)
    if group == "quoted" and not _SESSION_NAME.search(name):
        return looks_random(value)
    if group in {"bare", "quoted"}:
        return _bare_secret(value) or (
            not about and len(value) >= _LONG_TOKEN and value.isalnum() and looks_random(value)
        )
    return _kinds(value) == 3 and looks_random(value) and any(map(_is_sign, value))


_MOST_BARS = 2  # more are alternatives
_LONG_TOKEN = 32  # characters of lower case and digits only


def _is_sign(char: str) -> bool:
    return not (char.isalnum() or char in "_-./: ")


def _chosen(value: str) -> bool:
    """Whether a password has all that rules of passwords demand, whatever words are in it."""
    return (
        value.isascii()
        and value.isprintable()
        and _kinds(value) == 3
        and any(char in "!@#$%^&*?~+=" for char in value)
        and not any(char in " (){}[]<>|;" for char in value)
    )


def _pieces(text: str, start: int, end: int) -> tuple[list[Span], list[Span]]:
    """What follows the first piece of a value, which ends at `end`; its name is at `start`.

    Returns:
        The further pieces of the value, and the values after it in the same list.
    """
    pieces: list[Span] = []
    values: list[Span] = []
    for _ in range(_MOST_PIECES):
        found = _NEXT_PIECE.match(text, end)
        if found is None:
            break
        begin, end = found.span("quoted" if found["quoted"] else "bare")
        if text.count("\n", start, end) > _LINES_APART:
            break
        (values if values or found["list"] else pieces).append((begin, end))
    return pieces, values


def _bare_secret(value: str) -> bool:
    """Whether a value without quotes is one: in programs it may be a name or a call."""
    if _UPPER.fullmatch(value):
        return looks_random(value)
    kinds = _kinds(value)
    signs = sum(map(_is_sign, value))
    return looks_random(value) and kinds >= 3 and ("." not in value or signs > 0)


def _kinds(value: str) -> int:
    """How many of lower case, upper case and digits a value has."""
    return sum(any(map(test, value)) for test in (str.islower, str.isupper, str.isdigit))


def looks_random(value: str) -> bool:
    """Whether a value is no name and no phrase: of several kinds of characters, many of them
    different, and not mostly words that one can pronounce."""
    if len(set(value)) * 2 < min(len(value), 32):
        return False
    kinds = _kinds(value)
    sign = any(map(_is_sign, value))
    if kinds + sign < (2 if len(value) >= 12 else 3):
        return False
    if (
        kinds == 3
        and value.isalnum()
        and _MIXED.fullmatch(value)
        and len(_DIGITS.findall(value)) > 1
    ):
        return True
    words = sum(
        len(word)
        for word in _WORD.findall(value)
        if len(word) >= 3 and _VOWEL.search(word) and not _HARD.search(word)
    )
    if len(value) >= 20 and kinds == 3 and value.isalnum():  # some syllables are there by chance
        return words * 4 < len(value) * 3
    return words * 5 < len(value) * 3


def _may_have_blocks(text: str) -> bool:
    return "PRIVATE KEY" in text or "Private-Lines:" in text


def _blocks(text: str) -> Iterator[Span]:
    """Private keys in PEM's form, to their end, or as far as their lines go on."""
    at = 0
    while (begin := _BEGIN.search(text, at)) is not None:
        following = _BEGIN.search(text, begin.end(), begin.end() + _LONGEST_BLOCK)
        limit = following.start() if following else begin.end() + _LONGEST_BLOCK
        end = _END.search(text, begin.end(), min(limit, len(text)))
        at = end.end() if end is not None else _unfinished(text, begin.end(), limit)
        if at > begin.end():
            yield begin.start(), at


def _putty(text: str) -> Iterator[Span]:
    """The private part of PuTTY's keys."""
    for begin in _PUTTY.finditer(text):
        at = begin.end()
        for _ in range(int(begin[1])):
            line = _PUTTY_LINE.match(text, at)
            if line is None:
                break
            yield line.span(1)
            at = line.end()


def _unfinished(text: str, start: int, limit: int) -> int:
    """Where the lines of a block without an end stop looking like one; `start` if none does."""
    found = text.find("\n", start)
    stop = min(len(text) if found < 0 else found, limit)
    last = stop if _IN_BLOCK.search(text, start, stop) else start
    while stop < min(len(text), limit):
        found = text.find("\n", stop + 1)
        following = len(text) if found < 0 else found
        line = text[stop + 1 : min(following, stop + 400)]
        if not _BLOCK_LINE.match(line):
            break
        stop = following
        if _IN_BLOCK.search(line):
            last = stop
    return last
