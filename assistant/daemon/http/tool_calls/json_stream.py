"""Reading JSON as it arrives, in pieces cut anywhere. Pure, linear, without recursion."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_MARK = re.compile(r'["{}\[\]]')
_STRING_MARK = re.compile(r'["\\]')
_SCALAR_END = re.compile(r"[\s,}\]]")
_BLANKS = " \t\r\n"
_LONGEST_KEY = 300


class Malformed(Exception):  # noqa: N818 (it is caught where it is raised, never shown)
    """The text is not what it has to be.

    Attributes:
        unread: how many characters before the reader's position were not read after all.
    """

    def __init__(self, unread: int = 0) -> None:
        super().__init__()
        self.unread = unread


class ValueScanner:
    """Finds the end of one JSON value. What is inside is not checked beyond its brackets."""

    def __init__(self) -> None:
        self._depth = 0
        self._kind = ""
        self._in_string = self._escaped = False

    def scan(self, text: str, at: int = 0) -> int:
        """Read on; the index after the value's end, or -1 where it goes on past `text`."""
        if not self._kind and at < len(text):
            first = text[at]
            if first in ",:}]" or first in _BLANKS:
                raise Malformed
            self._kind = {'"': "string", "{": "nested", "[": "nested"}.get(first, "scalar")
            if self._kind == "string":
                self._in_string, at = True, at + 1
        if self._kind == "scalar":
            found = _SCALAR_END.search(text, at)
            return found.start() if found else -1
        while at < len(text):
            if self._escaped:
                self._escaped, at = False, at + 1
                continue
            found = (_STRING_MARK if self._in_string else _MARK).search(text, at)
            if found is None:
                return -1
            at, mark = found.end(), found[0]
            if self._in_string:
                self._escaped = mark == "\\"
                self._in_string = self._escaped
            elif mark == '"':
                self._in_string = True
            else:
                self._depth += 1 if mark in "{[" else -1
            if not self._in_string and not self._depth:
                return at
        return -1


class ObjectScanner:
    """Reads one JSON object; yields the parts of its members' values as they come.

    Attributes:
        done: its closing brace was read.
        read: how many characters of the last text were read.
    """

    def __init__(self) -> None:
        self.done = False
        self.read = 0
        self._state = "open"
        self._key = ""
        self._value: ValueScanner | None = None

    def feed(self, text: str) -> Iterator[tuple[str, str, bool]]:
        """Yields (key, part of its value, whether that ends it).

        Raises:
            Malformed: it is no object.
        """
        at = 0
        while at < len(text) and not self.done:
            if self._state == "key":
                assert self._value is not None
                end = self._value.scan(text, at)
                piece = text[at:] if end < 0 else text[at:end]
                if len(self._key) + len(piece) > _LONGEST_KEY:
                    self.read = at + _LONGEST_KEY - len(self._key)
                    raise Malformed
                self._key += piece
                self.read = at = at + len(piece)
                if end >= 0:
                    self._key, self._state = _string(self._key), "colon"
                continue
            if self._state == "value":
                assert self._value is not None
                end = self._value.scan(text, at)
                part = text[at:] if end < 0 else text[at:end]
                at = len(text) if end < 0 else end
                if end >= 0:
                    self._state = "after"
                self.read = at
                if part or end >= 0:
                    yield self._key, part, end >= 0
                continue
            char, self.read = text[at], at
            if char in _BLANKS:
                at += 1
                continue
            at += self._punctuation(char)
        self.read = at

    def _punctuation(self, char: str) -> int:
        """Go on over a character between values; how many were read."""
        match self._state, char:
            case "open", "{":
                self._state = "first"
            case "first" | "next", '"':
                self._state, self._key, self._value = "key", "", ValueScanner()
                return 0
            case "colon", ":":
                self._state = "before"
            case "before", _ if char not in ",:}]":
                self._state, self._value = "value", ValueScanner()
                return 0
            case "after", ",":
                self._state = "next"
            case "first" | "after", "}":
                self.done = True
            case _:
                raise Malformed
        return 1


def _string(raw: str) -> str:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise Malformed from error
    if not isinstance(value, str):
        raise Malformed
    return value


def string_value(raw: str) -> str:
    """The text of a JSON string literal. Raises Malformed."""
    return _string(raw)
