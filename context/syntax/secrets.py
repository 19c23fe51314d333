"""Finds keys, passwords and tokens in a text, so that no prompt, index or log ever holds one.

Secrets are found on the whole text, and only then is the text cut: a part of a key does not look
like a key. So the text that prompts are made of is as long as the document, with `HIDDEN` in place
of each character of a secret (`ShownText`); what is cut out of it goes through `masked_runs`, which
leaves one `MASK` for each run. All patterns run in linear time.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

MASK = "..."
HIDDEN = "\uffff"
"""A code point that no text may hold (Unicode's noncharacter U+FFFF)."""

Span = tuple[int, int]

_LINES_APART = 4  # each piece of a value is at most so many lines below its name
_REACH_CHARS = 8192  # of a long line, on either side of an edit
_RUN = re.compile(f"{HIDDEN}[{HIDDEN}\n]*{HIDDEN}|{HIDDEN}")

# A name that says that what follows is secret, in lower case, and what each has in it: to look for
# that first is ten times as fast.
_IN_NAME = re.compile(r"pass|pwd|secret|secure|token|cred|auth|key|conn|dsn")
_NAME = re.compile(
    r"pass(?:wor[dt]|wd|phrase|code)|passwd|pwd|secret|token|credential|authorization"
    r"|(?:api|access|private|auth|encryption|signing|master|shared|account|client|service|_)[_-]?key"
    r"|key[_-]?data|connection[_-]?string|(?<![a-z0-9])auth\b|\bdsn\b|secure[_-]?string",
    re.ASCII,
)
_LONGEST_NAME = 24
_LOWER = {ord(char): ord(char) + 32 for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
# From there to the value: the rest of the name, what separates the two, and what may stand before
# the value (a type, a call, the scheme of a header). All parts are bounded.
_TO_VALUE = re.compile(
    r"""[\w$.-]{0,48}
    (?: \\?["'`]\s{0,2},[ \t]{0,4}                               # define('NAME', 'value')
      | \\?["'`]?[ \t]{0,2}\[?\]?[ \t]{0,16}
        (?: :?[ \t]{0,4}[\w\[\].|<>?*&]{1,32}[ \t]{0,4}=         # name: type = value
          | =>|:=|[?|+]{1,2}=|[=:]{1,3}|> )                      # also <name>value
      | \\?["']?[ \t]{1,4}value[ \t]{0,2}=                       # key="name" value="value"
      | \\?["']?[ \t\r]{0,4}\n[ \t-]{0,40}["']?value["']?[ \t]{0,2}[:=]
      | </key>[ \t\r]{0,4}\n[ \t]{0,40}<string>                    # property lists
      | \( | [ \t]{1,8}(?=["'])                                  # SecretStr("value"); #define
      | (?P<apart>[ \t]{1,4})(?=[^\s"'`])                       # --api-key value; netrc
    )
    [ \t]{0,16}
    (?: (?: [(\\|>]{0,2}-? | ["]{3}\\? | '{3}\\? )[ \t\r]{0,4}\n[ \t]{0,40} )?   # on the next line
    (?: (?:[A-Za-z_][\w.]{0,32})?[(\[{]{1,2}[ \t\r]{0,4}(?:\n[ \t]{0,40})?    # SecretStr("value")
        (?: ["'`][\w.@-]{1,64}["'`][,:]=?>?[ \t]{0,4} )? )?                      # ("user", "value")
    (?: [brufl@$]{0,2} (?P<quote>\\?["'`]{1,3}(?:\\["'`])?)
        (?:(?:basic|bearer|token|apikey)[ ]{1,2})?
        (?P<quoted>[^\s"'`\\]{8,512}) (?=\\?["'`])
      | (?:(?:basic|bearer|token|apikey)[ ]{1,2})? \{?
        (?P<bare>[^\s"'`\\,;()\[\]{}<>&|]{8,512}) (?=[\s"'`\\,;)\]}<&]|\Z) )
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
_HEXADECIMAL = re.compile(r"[0-9a-f]{32,128}|[0-9A-F]{32,128}")
_UPPER = re.compile(r"(?=(?:[A-Z]*[0-9]){3})[A-Z0-9]{20,512}={0,6}", re.ASCII)
# Names of what is a secret whatever it looks like; others may be of checksums or identifiers.
_APART = re.compile(r"[\w+/=-]{12,512}", re.ASCII)  # behind a blank, which prose has too
_FEWEST_DIGITS = 8  # different digits of a random hexadecimal number, at least
_SURE_NAME = re.compile(
    r"pass|pwd|secret|token|(?:api|access|private|encryption|signing|master)[_-]?key"
)
_WORD = re.compile(r"[A-Za-z]?[a-z]{2,}|[A-Z]{3,}")
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_HARD = re.compile(r"[^aeiouy]{5}", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\$\{|\{\{|\{[\w.!:]*\}|%\(|<[A-Za-z]|\$\(|^\$|x{4}|\*{3}|\.{3}|^your|example|changeme|placeholder",
    re.IGNORECASE,
)
_ENCODED = re.compile(r"^[A-Za-z0-9+/]{60,}={0,2}[ \t\r]*$", re.MULTILINE)

_BEGIN = re.compile(r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_LONGEST_BLOCK = 64 * 1024
_IN_BLOCK = re.compile(r"[A-Za-z0-9+/=]{16}")
_BLOCK_LINE = re.compile(
    r"[ \t\"'+,\\#/*>;|]{0,40}(?:[A-Za-z0-9+/=\\]{16,}|[A-Z][\w-]{1,40}: .{0,120}|)"
    r"[ \t\"'+,\\;\r]{0,40}$"
)


@cache
def _forms() -> tuple[tuple[tuple[str, ...], re.Pattern[str], bool], ...]:
    path = Path(__file__).with_name("secret_forms.toml")
    table = tomllib.loads(path.read_text(encoding="utf-8"))["forms"]
    return tuple(
        (tuple(row["hints"]), re.compile(row["pattern"], re.ASCII), row.get("random", False))
        for row in table.values()
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
        found = ((a + begin, b + begin) for a, b in _found(text[begin:end]))
        self._whole = text
        self._in_lines = _merged([*kept, *(one for one in found if first <= one[0] < last)])
        self._show()

    def _show(self) -> None:
        text = self._whole
        blocks = list(_blocks(text)) if "-----BEGIN" in text else []
        self.spans = _merged([*self._in_lines, *blocks]) if blocks else self._in_lines
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
    """Secrets that are on one line."""
    for hints, form, random in _forms():
        if any(hint in text for hint in hints):
            for found in form.finditer(text):
                if not random or looks_random(found.group()):
                    yield found.span()
    yield from _named(text)
    for found in _ENCODED.finditer(text):
        yield found.span()


def _named(text: str) -> Iterator[Span]:
    """Values that look random behind a name that says what they are."""
    lower = text.lower() if text.isascii() else text.translate(_LOWER)  # of the same length
    at = 0
    for hint in _IN_NAME.finditer(lower):
        if hint.end() <= at:
            continue
        begin = max(at, hint.start() - _LONGEST_NAME)
        name = _NAME.search(lower, begin, hint.end() + _LONGEST_NAME)
        if name is None:
            continue
        at = name.end()
        found = _TO_VALUE.match(text, at)
        if found is None:
            continue
        group = "quoted" if found["quoted"] else "bare"
        value = found[group]
        pieces, values = _pieces(text, hint.start(), found.end(group))
        whole = value + "".join(text[start:stop] for start, stop in pieces)
        if _PLACEHOLDER.search(whole):
            continue
        if _HEXADECIMAL.fullmatch(whole) and _SURE_NAME.search(name.group()):
            secret = len(set(whole)) >= _FEWEST_DIGITS and found["apart"] is None
        elif found["apart"] is not None:
            secret = _APART.fullmatch(whole) is not None and _bare_secret(whole)
        elif group == "quoted":
            secret = looks_random(whole)
        else:
            secret = _bare_secret(whole)
        if secret:
            yield found.span(group)
            yield from pieces
            yield from (one for one in values if looks_random(text[slice(*one)]))


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
    signs = sum(not (char.isalnum() or char in "_.-/:") for char in value)
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
    sign = any(not (char.isalnum() or char in "_-./: ") for char in value)
    if kinds + sign < (2 if len(value) >= 12 else 3):
        return False
    words = sum(
        len(word)
        for word in _WORD.findall(value)
        if len(word) >= 3 and _VOWEL.search(word) and not _HARD.search(word)
    )
    if len(value) >= 20 and kinds == 3 and value.isalnum():  # some syllables are there by chance
        return words * 4 < len(value) * 3
    return words * 5 < len(value) * 3


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
