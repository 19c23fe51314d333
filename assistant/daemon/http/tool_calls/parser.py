"""Separates a model's answer into text, reasoning and tool calls, as it arrives.

The same pieces come, once joined, however the text is cut. Nothing of a mark that may still turn
out to open a call is passed on. Each character is looked at a bounded number of times, and what is
held back is bounded. Pure.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from assistant.daemon.http.tool_calls import Family
from assistant.daemon.http.tool_calls.json_stream import (
    Malformed,
    ObjectScanner,
    ValueScanner,
    string_value,
)

MOST_CALLS = 128
"""Calls in one answer; text that looks like more of them stays text."""

_MOST_HEADER = 1000
_MOST_UNSURE = 2000
_MOST_BRACKETS = 64
_FENCE = "```"
_FENCE_LABELS = {"", "json", "tool", "tool_call", "tool_code"}
_LABEL = re.compile(r"\w*")
_BARE_LINES = ("\n{", "\n[")
"""Where a call without marks may begin, after other text."""
_ARGUMENT_KEYS = {"arguments", "parameters", "input"}
_OTHER_KEYS = {"id", "type", "call_id", "index"}
_ALPHABET = string.ascii_letters + string.digits


class Kind(Enum):
    TEXT = auto()
    REASONING = auto()
    CALL = auto()
    ARGUMENTS = auto()


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: of the text, the reasoning, or the JSON of a call's arguments.
        index, id, name: of a call. CALL has all, and no text; ARGUMENTS has only the index.
    """

    kind: Kind
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""


@dataclass
class _CallSoFar:
    """The call that is being read.

    Attributes:
        raw: its text so far, while it may turn out to be no call; raw_opening: what began it.
        started: it was reported.
        held: parts of its arguments that cannot be reported yet.
        word: the JSON of its name so far.
        encoded: its arguments are a JSON string that holds the JSON.
        parameters: the arguments it has by now.
        bare: no mark of the family stands before it: it is a call only if it has arguments.
        inner: reads the object `function` that holds the name and the arguments.
    """

    raw: list[str] | None = None
    raw_size: int = 0
    raw_opening: str = ""
    name: str = ""
    id: str = ""
    started: bool = False
    held: list[str] = field(default_factory=list)
    word: str = ""
    word_ended: bool = False
    arguments_key: str = ""
    value_parts: int = 0
    encoded: bool = False
    encoded_parts: list[str] = field(default_factory=list)
    scanner: ObjectScanner = field(default_factory=ObjectScanner)
    value: ValueScanner = field(default_factory=ValueScanner)
    parameters: set[str] = field(default_factory=set)
    bare: bool = False
    inner: ObjectScanner | None = None


def random_id() -> str:
    """Nine letters and digits: what Mistral's templates insist on."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


class AnswerParser:
    """Parses one answer.

    Args:
        tools: the JSON schema of each function's arguments. Without any, no calls are looked for.
        reasoning: whether the prompt has started the reasoning already.
        separate: whether reasoning is separated from the text.
        new_id: makes the random part of a call's id.
    """

    def __init__(
        self,
        family: Family,
        tools: Mapping[str, Any],
        *,
        reasoning: bool = False,
        separate: bool = True,
        new_id: Callable[[], str] = random_id,
    ) -> None:
        self._family, self._tools, self._new_id = family, tools, new_id
        self._buffer = ""
        self._final = False
        self._pieces: list[Piece] = []
        self._open = family.open if tools else ()
        self._marks = (*self._open, *family.drop)
        self._separate = separate
        self.calls = 0
        self._state: Callable[[], bool]
        if family.style == "harmony":
            self._channel, self._body = "", Kind.TEXT
            self._state = self._harmony_header
        elif family.reasoning and separate:
            self._state = self._reasoning if reasoning else self._start
        else:
            self._state = self._answer_start
        self._written = False
        self._key = self._blanks = ""
        self._fenced = False
        self._call = _CallSoFar()

    def feed(self, text: str) -> list[Piece]:
        """The answer goes on with `text`; the pieces that are sure now."""
        self._buffer += text
        return self._run()

    def finish(self) -> list[Piece]:
        """The answer has ended."""
        self._final = True
        return self._run()

    def _run(self) -> list[Piece]:
        while self._state():
            pass
        found, self._pieces = self._pieces, []
        return found

    # What goes out.

    def _emit(self, kind: Kind, text: str) -> None:
        if text:
            self._pieces.append(Piece(kind, text))

    def _arguments(self, text: str) -> None:
        if text:
            self._pieces.append(Piece(Kind.ARGUMENTS, text, index=self.calls - 1))

    def _begin_call(self) -> None:
        """Report the call, once its name is known."""
        made = self._family.id.replace("{nine}", self._new_id()).replace("{name}", self._call.name)
        own = self._call.id or made.replace("{index}", str(self.calls))
        self._pieces.append(Piece(Kind.CALL, index=self.calls, id=own, name=self._call.name))
        self.calls += 1
        self._call.started, self._call.raw = True, None

    def _take(self, count: int) -> str:
        """Remove the buffer's first characters."""
        text, self._buffer = self._buffer[:count], self._buffer[count:]
        if self._call.raw is not None:
            self._call.raw.append(text)
            self._call.raw_size += len(text)
        return text

    def _skip_blanks(self) -> bool:
        """Drop white space; whether something follows it."""
        self._take(len(self._buffer) - len(self._buffer.lstrip()))
        return bool(self._buffer)

    def _until(self, marks: Sequence[str], kind: Kind, *, blanks: bool = False) -> str:
        """Emit what stands before the first of `marks`, and take it and the mark.

        Returns:
            The mark; "" where none has come whole. What may begin one is held back, and with
            `blanks` the white space before that too.
        """
        found = first_of(self._buffer, marks)
        if found is not None:
            at, mark = found
            text = self._take(at)
            self._take(len(mark))
            sure = text.rstrip() if blanks else text
            self._blanks = text[len(sure) :]
            self._emit(kind, sure)
            return mark
        keep = 0 if self._final else held_back(self._buffer, marks)
        cut = len(self._buffer) - keep
        if blanks and not self._final:
            cut = len(self._buffer[:cut].rstrip())
        self._emit(kind, self._take(cut))
        return ""

    # Reasoning and text.

    def _start(self) -> bool:
        opening = self._family.reasoning[0]
        text = self._buffer.lstrip()
        if text.startswith(opening):
            self._take(len(self._buffer) - len(text) + len(opening))
            self._state = self._reasoning_start
            return True
        if opening.startswith(text) and not self._final:
            return False
        self._state = self._answer_start
        return True

    def _reasoning_start(self) -> bool:
        if not self._skip_blanks():
            return False
        self._state = self._reasoning
        return True

    def _reasoning(self) -> bool:
        closing = self._family.reasoning[1]
        if not self._until([closing], Kind.REASONING, blanks=True):
            return False
        self._state = self._after_reasoning
        return True

    def _after_reasoning(self) -> bool:
        if not self._skip_blanks():
            return False
        self._state = self._answer_start
        return True

    def _answer_start(self) -> bool:
        """Whether the answer begins with a call without marks: a JSON object, or a list of them."""
        if not self._open:
            self._state = self._text
            return True
        text = self._buffer.lstrip()
        if not text and not self._final:
            return False
        if not self._final and any(mark.startswith(text) for mark in self._marks):
            return False
        if text.startswith(("{", "[")) and not text.startswith(self._marks):
            self._begin_reading(unsure=True, bare=True)
            self._state = self._json_item
        else:
            self._state = self._text
        return True

    def _text(self) -> bool:
        if not self._open:
            self._emit(Kind.TEXT, self._take(len(self._buffer)))
            return False
        family = self._family
        brackets = {mark[0] for mark in self._marks}
        lines = [line for line in _BARE_LINES if line[1] not in brackets]
        marks = [*self._marks, _FENCE, *lines]
        if self.calls >= MOST_CALLS:
            self._emit(Kind.TEXT, self._take(len(self._buffer)))
            return False
        mark = self._until(marks, Kind.TEXT, blanks=True)
        if not mark:
            return False
        if mark in family.drop:
            return True
        bare = mark not in self._open
        self._begin_reading(unsure=True, bare=bare)
        assert self._call.raw is not None
        self._fenced = mark == _FENCE
        if mark in _BARE_LINES:
            mark, self._buffer = mark[0], mark[1] + self._buffer
        self._call.raw_opening = self._blanks + mark
        self._call.raw.append(self._call.raw_opening)
        if bare:
            self._state = self._fence_label if self._fenced else self._json_item
            return True
        if family.style == "tagged" and mark == family.name_open:
            self._state = self._name_after_tag
            return True
        self._state = {
            "json": self._json_item,
            "header": self._header,
            "tagged": self._tag,
        }[family.style]
        return True

    def _fence_label(self) -> bool:
        """What a fenced block says that it holds."""
        found = _LABEL.match(self._buffer)
        size = found.end() if found else 0
        most = max(map(len, _FENCE_LABELS))
        if size == len(self._buffer) <= most and not self._final:
            return False
        if size > most or self._buffer[:size].lower() not in _FENCE_LABELS:
            return self._give_up()
        self._take(size)
        self._state = self._json_item
        return True

    def _begin_reading(self, *, unsure: bool, bare: bool = False) -> None:
        """A call may begin here. `unsure`: what is read may turn out to be text."""
        self._call = _CallSoFar(raw=[] if unsure else None, bare=bare)

    def _give_up(self) -> bool:
        """It was no call: what seemed to begin one is text, and what follows is read again. Or it
        was one that breaks off."""
        if self._call.raw is not None:
            text = "".join(self._call.raw) + self._buffer
            opening = self._call.raw_opening or text[: len(text) - len(text.lstrip()) + 1]
            self._call.raw = None
            self._buffer = text[len(opening) :]
            self._emit(Kind.TEXT, opening)
            self._state = self._text
        else:
            self._state = self._after_call
        return True

    def _after_call(self) -> bool:
        """Between calls, and after the last one."""
        family = self._family
        while True:
            marks = [*family.close, *family.drop, *((_FENCE,) if self._fenced else ())]
            self._take(len(self._buffer) - len(self._buffer.lstrip()))
            mark = next((one for one in marks if self._buffer.startswith(one)), "")
            if not mark:
                break
            self._fenced = self._fenced and mark != _FENCE
            self._take(len(mark))
        if not self._buffer:
            return False
        if not self._final and any(mark.startswith(self._buffer) for mark in marks):
            return False
        as_json = family.style == "json" or self._call.bare
        more = as_json and self._buffer[0] in "{,;["
        if as_json and self._buffer[0] in "];":
            self._take(1)
            return True
        if self.calls < MOST_CALLS and more:
            self._begin_reading(unsure=True, bare=self._call.bare)
            self._state = self._json_item
        elif self.calls < MOST_CALLS and family.repeats and self._next_tag():
            pass
        else:
            self._state = self._text
        return True

    def _next_tag(self) -> bool:
        tag = self._family.name_open
        if not tag.startswith(self._buffer) and not self._buffer.startswith(tag):
            return False
        self._begin_reading(unsure=True)
        self._state = self._tag
        return True

    # Calls as JSON objects.

    def _json_item(self) -> bool:
        """Before the next object of a list, or the only one."""
        while self._skip_blanks() and self._buffer[0] in "[,":
            self._take(1)
            if self._call.raw_size > _MOST_BRACKETS:
                return self._give_up()
        if not self._buffer:
            return self._give_up() if self._final and self._call.raw is not None else False
        if self._buffer[0] != "{":
            return self._give_up()
        self._state = self._json_object
        return True

    def _json_object(self) -> bool:
        scanner = self._call.scanner
        text = self._buffer
        if self._call.raw is not None:
            text = text[: max(_MOST_UNSURE - self._call.raw_size, 0)]
            if not text and self._buffer:
                return self._give_up()
        try:
            for key, part, whole in scanner.feed(text):
                self._member(key, part, whole)
        except Malformed as error:
            if self._call.raw is None:
                self._take(scanner.read - error.unread)
            return self._give_up()
        self._take(scanner.read)
        if not scanner.done:
            if self._final and not self._buffer:
                return self._give_up()
            return bool(self._buffer)
        if not self._call.started:
            if not self._call.name or (self._call.bare and not self._call.arguments_key):
                return self._give_up()
            self._begin_call()
            self._arguments("".join(self._call.held) or "{}")
        self._state = self._after_call
        return True

    def _member(self, key: str, part: str, whole: bool, *, nested: bool = False) -> None:
        """A part of a member's value was read; `nested`: of the object under "function"."""
        opens = not nested and key == "function"
        if opens and (self._call.inner is not None or part.startswith("{")):
            self._call.inner = self._call.inner or ObjectScanner()
            inner = self._call.inner
            try:
                for inner_key, inner_part, inner_whole in inner.feed(part):
                    self._member(inner_key, inner_part, inner_whole, nested=True)
            except Malformed as error:
                raise Malformed(error.unread + len(part) - inner.read) from error
        elif key in _ARGUMENT_KEYS:
            if self._call.arguments_key in {"", key}:
                self._call.arguments_key = key
                self._argument_part(part, whole=whole)
        elif key in {"name", "function", "tool"} and not self._call.word_ended:
            if not self._call.word and not part.startswith('"'):
                raise Malformed(len(part))
            self._call.word, self._call.word_ended = self._call.word + part, whole
            if whole:
                self._call.name = string_value(self._call.word)
                if self._call.name not in self._tools:
                    raise Malformed
                if self._call.held:
                    self._begin_call()
                    self._arguments("".join(self._call.held))
                    self._call.held = []
        elif self._call.raw is not None and key not in _OTHER_KEYS:
            raise Malformed

    def _argument_part(self, part: str, *, whole: bool) -> None:
        first = not self._call.value_parts
        self._call.value_parts += 1
        if first:
            self._call.encoded = not part.startswith("{")
        if self._call.encoded:  # a JSON string that holds the JSON, or null
            self._call.encoded_parts.append(part)
            if not whole:
                return
            raw = "".join(self._call.encoded_parts)
            part = "{}" if raw == "null" else string_value(raw)
        if self._call.name:
            if not self._call.started:
                self._begin_call()
            self._arguments(part)
        else:
            self._call.held.append(part)

    # Calls with a header before their arguments.

    def _header(self) -> bool:
        """Up to the arguments' opening brace."""
        closing = first_of(self._buffer, self._family.close[-1:])
        brace = self._buffer.find("{")
        if brace < 0 and closing is None and not self._final:
            return self._give_up() if len(self._buffer) > _MOST_HEADER else False
        ends = [at for at in (brace, closing[0] if closing else -1) if at >= 0]
        at = min(ends, default=len(self._buffer))
        if at > _MOST_HEADER:
            return self._give_up()
        found = re.match(self._family.header, self._buffer[:at])
        if found is None:
            if "[" in self._buffer[:at] or at == brace:
                # The list of an older format of the same family.
                text = self._buffer.lstrip()
                if text[:1] in {"[", "{"}:
                    self._state = self._json_item
                    return True
            return self._give_up()
        self._call.name = found["name"]
        self._call.id = (found.groupdict().get("id") or "")[:100]
        self._take(at)
        self._begin_call()
        if at != brace:
            self._arguments("{}")
            self._state = self._after_call
            return True
        self._state = self._header_arguments
        return True

    def _header_arguments(self) -> bool:
        end = self._call.value.scan(self._buffer)
        self._arguments(self._take(len(self._buffer) if end < 0 else end))
        if end < 0:
            return False
        self._state = self._after_call
        return True

    # Calls with each argument in tags.

    def _expected(self, mark: str) -> bool | None:
        """Take `mark` after white space; None where it may still come."""
        self._skip_blanks()
        if self._buffer.startswith(mark):
            self._take(len(mark))
            return True
        return None if mark.startswith(self._buffer) and not self._final else False

    def _tag(self) -> bool:
        found = self._expected(self._family.name_open)
        if found is None:
            return False
        if not found:
            return self._give_up()
        self._state = self._name_after_tag
        return True

    def _name_after_tag(self) -> bool:
        if not self._family.name_open:
            self._skip_blanks()
        found = first_of(self._buffer, self._family.name_close)
        if found is None:
            if len(self._buffer) > _MOST_HEADER or self._final:
                return self._give_up()
            return False
        at, mark = found
        if at > _MOST_HEADER:
            return self._give_up()
        name = self._buffer[:at].strip().strip("\"'")
        if not name or any(char in name for char in "<>{} \n"):
            return self._give_up()
        self._call.name = name
        own = mark in self._family.end or mark == self._family.key_open
        self._take(at + (0 if own else len(mark)))
        self._begin_call()
        self._state = self._parameter
        return True

    def _parameter(self) -> bool:
        """Before the next argument, or the call's end."""
        family = self._family
        self._skip_blanks()
        marks = [family.key_open, *family.end, *family.close]
        mark = next((one for one in marks if self._buffer.startswith(one)), "")
        if not mark:
            if not self._final and any(one.startswith(self._buffer) for one in marks):
                return False
            self._end_arguments()
            return True
        if mark != family.key_open:
            self._take(len(mark))
            self._end_arguments()
            return True
        at = self._buffer.find(family.key_close, len(mark))
        if at > _MOST_HEADER or (at < 0 and (self._final or len(self._buffer) > _MOST_HEADER)):
            self._end_arguments()
            return True
        if at < 0:
            return False
        key = self._buffer[len(mark) : at].strip().strip("\"'")
        self._take(at + len(family.key_close))
        if key in self._call.parameters:  # said twice: the first holds
            self._key = ""
        else:
            self._key = key
        self._call.parameters.add(key)
        self._state = self._value_open if family.value_open else self._value_start
        return True

    def _end_arguments(self) -> None:
        self._arguments("}" if self._written else "{}")
        self._written = False
        self._state = self._after_call

    def _value_open(self) -> bool:
        found = self._expected(self._family.value_open)
        if found is None:
            return False
        if not found:
            self._end_arguments()
            return True
        self._state = self._value_start
        return True

    def _value_start(self) -> bool:
        """What a model writes before every value is no part of it."""
        around = self._family.around_value
        if around:
            if not self._buffer and not self._final:
                return False
            if self._buffer.startswith(around):
                self._take(len(around))
        self._call.held = []
        if self._key:
            self._arguments(", " if self._written else "{")
            self._arguments(json.dumps(self._key, ensure_ascii=False) + ": ")
            self._written = True
        if self._key and self._is_text(self._key):
            self._arguments('"')
            self._state = self._text_value
        else:
            self._state = self._json_value
        return True

    def _is_text(self, key: str) -> bool:
        schema = self._tools.get(self._call.name)
        properties = schema.get("properties") if isinstance(schema, dict) else None
        own = properties.get(key) if isinstance(properties, dict) else None
        return isinstance(own, dict) and own.get("type") == "string"

    def _value_marks(self) -> list[str]:
        around = self._family.around_value
        closing = self._family.value_close
        return [*([around + closing[0]] if around else []), *closing]

    def _text_value(self) -> bool:
        """A text is passed on as it comes."""
        text, ended = self._value_part()
        self._arguments(json.dumps(text, ensure_ascii=False)[1:-1])
        if not ended and not self._final:
            return False
        if ended:
            self._arguments('"')
            self._state = self._parameter
            return True
        return False

    def _json_value(self) -> bool:
        """Anything else is passed on once it is whole: it has to be JSON."""
        text, ended = self._value_part()
        self._call.held.append(text)
        if not ended:
            return False
        if self._key:
            self._arguments(_as_json("".join(self._call.held)))
        self._call.held = []
        self._state = self._parameter
        return True

    def _value_part(self) -> tuple[str, bool]:
        """The sure part of a value, and whether it has ended."""
        marks = self._value_marks()
        found = first_of(self._buffer, marks)
        if found is None:
            keep = 0 if self._final else held_back(self._buffer, marks)
            return self._take(len(self._buffer) - keep), False
        at, mark = found
        text = self._take(at)
        if mark.endswith(self._family.value_close[0]):
            self._take(len(mark))
        return text, True

    # The harmony format: every message has a header that names its channel and recipient.

    def _harmony_header(self) -> bool:
        text = self._buffer.lstrip()
        opens = text.startswith(("<|", "to="))
        if not opens and (self._final or not any(m.startswith(text) for m in ("<|", "to="))):
            self._body, self._state = Kind.TEXT, self._harmony_body
            return bool(self._buffer)
        at = self._buffer.find("<|message|>")
        if at > _MOST_HEADER or (at < 0 and len(self._buffer) > _MOST_HEADER):
            self._body, self._state = Kind.TEXT, self._harmony_body
            self._emit(Kind.TEXT, self._take(1))  # so that the same mark is not tried again
            return True
        if at < 0:
            if self._final:
                self._take(len(self._buffer))
            return False
        header = self._take(at)
        self._take(len("<|message|>"))
        to = re.search(r"to=(?:functions\.)?([^\s<]+)", header)
        if to is not None and self._open and self.calls < MOST_CALLS:
            self._begin_reading(unsure=False)
            self._call.name = to[1]
            self._begin_call()
            self._body = Kind.ARGUMENTS
        elif "analysis" in header and self._separate:
            self._body = Kind.REASONING
        else:
            self._body = Kind.TEXT
        self._written, self._state = False, self._harmony_body
        return True

    def _harmony_body(self) -> bool:
        marks = ["<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"]
        found = first_of(self._buffer, marks)
        keep = 0 if self._final or found else held_back(self._buffer, marks)
        text = self._take(found[0] if found else len(self._buffer) - keep)
        if self._body is Kind.ARGUMENTS:
            text = text if self._written else text.lstrip()
            self._written = self._written or bool(text)
            self._arguments(text)
        else:
            self._emit(self._body, text)
        if found is None and not (self._final and self._body is Kind.ARGUMENTS):
            return False
        if self._body is Kind.ARGUMENTS and not self._written:
            self._arguments("{}")
            self._written = True
        if found is None:
            return False
        if found[1] not in {"<|channel|>", "<|start|>"}:
            self._take(len(found[1]))
        self._state = self._harmony_header
        return True


def first_of(text: str, marks: Sequence[str]) -> tuple[int, str] | None:
    """The place of the first of `marks` in `text`, and which it is; the longest at one place."""
    found = [(at, -len(mark), mark) for mark in marks if (at := text.find(mark)) >= 0]
    if not found:
        return None
    at, _, mark = min(found)
    return at, mark


def held_back(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that may begin one of `marks`."""
    longest = max((len(mark) for mark in marks), default=0)
    for size in range(min(len(text), longest - 1), 0, -1):
        end = text[-size:]
        if any(mark.startswith(end) for mark in marks):
            return size
    return 0


_WORDS = {"True": True, "False": False, "None": None}


def _as_json(text: str) -> str:
    """A value as JSON; one that is none is a text."""
    text = text.strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(_WORDS.get(text, text), ensure_ascii=False)
    return text
