"""What a setting accepts: its meaning, unit and range, and whether an editor may change it. Pure.

A rule is the annotation of a field (`assistant.settings.fields`). The reader checks values with it,
and the reference page is written from it, so neither can differ from the other.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

import msgspec

_LONGEST_TEXT = 4096
_MOST_ENTRIES = 10_000
_LONGEST_QUOTE = 60
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Editor(StrEnum):
    """What the options of an editor may do to a setting.

    An editor takes options from the workspace, which is not trusted, so it can only make the user's
    settings stricter.
    """

    NEVER = "no"
    OFF = "switch off"
    ADD = "add entries"
    LOWER = "set; only lower it where your file sets it"
    RAISE = "set; only raise it where your file sets it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one setting means and accepts.

    Attributes:
        meaning: what it does, in a sentence.
        unit: of a number, for people.
        least, most: the range of a number, both included.
        special: values outside the range that are accepted too, each with its meaning.
        choices: the texts that are accepted (or the entries of a list); any text if empty.
        pattern: what a text (or each entry) must match; `form` describes it for people.
        blank: the meaning of an empty text; empty text is refused if this is empty.
        editor: what an editor's options may do to it.
    """

    meaning: str
    unit: str = ""
    least: float = 0
    most: float = math.inf
    special: tuple[tuple[float, str], ...] = ()
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    blank: str = ""
    editor: Editor = Editor.NEVER

    @property
    def accepted(self) -> str:
        """The accepted texts or numbers, for messages and for the reference page."""
        words = [f"{_number(value)} ({meaning})" for value, meaning in self.special]
        if self.blank:
            words.append(f'"" ({self.blank})')
        if self.choices:
            words.append(", ".join(f'"{choice}"' for choice in self.choices))
        elif self.form:
            words.append(self.form)
        elif self.most != math.inf:
            unit = f" {self.unit}" if self.unit else ""
            words.append(f"{_number(self.least)} to {_number(self.most)}{unit}")
        return ", or ".join(words)


def rule_of(field: msgspec.structs.FieldInfo) -> tuple[type, Rule]:
    """The plain type of a field (bool, int, float, str or tuple) and its rule."""
    kind, *notes = get_args(field.type)
    rule = next(note for note in notes if isinstance(note, Rule))
    plain = get_origin(kind) or kind
    return (str if plain is Literal else plain), rule


def checked(kind: type, rule: Rule, value: object) -> Any:
    """The value in the field's type.

    Raises:
        ValueError: it is of another type or outside the range; the text says what is accepted.
    """
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{quoted(value)} is not true or false")
        return value
    if kind in {int, float}:
        return _checked_number(kind, rule, value)
    if kind is str:
        return _checked_text(rule, value)
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError(f"{quoted(value)} is not a list of texts")
    if len(value) > _MOST_ENTRIES:
        raise ValueError(f"the list has {len(value)} entries, at most {_MOST_ENTRIES} are read")
    return tuple(_checked_text(rule, entry) for entry in value)


def _checked_number(kind: type, rule: Rule, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{quoted(value)} is not a number. Accepted: {rule.accepted}")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number. Accepted: {rule.accepted}")
    if kind is int and value != int(value):
        raise ValueError(f"{quoted(value)} is not a whole number. Accepted: {rule.accepted}")
    inside = rule.least <= value <= rule.most or any(value == one for one, _ in rule.special)
    if not inside:
        raise ValueError(f"{quoted(value)} is out of range. Accepted: {rule.accepted}")
    return int(value) if kind is int else float(value)


def _checked_text(rule: Rule, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not a text")
    if not value and rule.blank:
        return value
    if rule.choices and value not in rule.choices:
        raise ValueError(f"{quoted(value)} is unknown. Accepted: {rule.accepted}")
    if not value.strip():
        raise ValueError(f"{quoted(value)} is blank")
    if len(value) > _LONGEST_TEXT:
        raise ValueError(f"the text has {len(value)} characters, at most {_LONGEST_TEXT} are read")
    if _CONTROL.search(value):
        raise ValueError(f"{quoted(value)} has control characters or line ends")
    if value != value.strip():
        raise ValueError(f"{quoted(value)} has blanks at its start or end")
    if rule.pattern and not re.fullmatch(rule.pattern, value):
        raise ValueError(f"{quoted(value)} is not {rule.form}")
    return value


def stricter(rule: Rule, own: Any, other: Any, *, chosen: bool) -> Any:
    """The user's value after an editor's `other` is applied to it.

    Args:
        own: the value of the user's file, or the default.
        chosen: the user's file sets it. Other numbers may be set within their range.

    Raises:
        ValueError: `other` would loosen the user's setting; the text says why.
    """
    match rule.editor:
        case Editor.OFF:
            if other and not own:
                raise ValueError("an editor can only switch this off")
            return other
        case Editor.ADD:
            return tuple(dict.fromkeys((*own, *(one for one in other if not takes_back(one)))))
        case Editor.LOWER if chosen and other > own:
            raise ValueError("an editor can only lower what your file sets")
        case Editor.RAISE if chosen and other < own:
            raise ValueError("an editor can only raise what your file sets")
        case Editor.NEVER:
            raise ValueError("an editor cannot set this")
    return other


def takes_back(entry: str) -> bool:
    """Whether an entry undoes those before it, as in .gitignore, in place of adding to them."""
    return entry.startswith("!")


def quoted(value: object) -> str:
    """A value as in TOML, on one line and not too long, for a message."""
    text = str(value).lower() if isinstance(value, bool) else ascii(value)
    if isinstance(value, str) and value.isprintable():
        text = f'"{value}"'
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
