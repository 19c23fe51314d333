"""How model families write tool calls: as data, with a parser and a grammar made from it.

Here: the formats, read from `families.toml`, and how a model's is recognised.
"""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources
from typing import Literal

import msgspec

__all__ = [
    "AnswerShape",
    "Family",
    "Style",
    "families",
    "family_named",
    "family_of",
    "grammar",
    "parser",
    "takes_tools",
]

Style = Literal["json", "header", "tagged", "harmony"]


class AnswerShape(msgspec.Struct, frozen=True, kw_only=True):
    """What to expect in an answer.

    Attributes:
        separate: there may be reasoning.
        reasoning: the prompt has started it.
    """

    separate: bool = False
    reasoning: bool = False


class Family(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one family writes.

    Attributes:
        name: of the family.
        template: texts that its chat templates contain, all of them.
        style: of a call. "json": an object with name and arguments, or a list of them. "header":
            a header that names the function, then the arguments. "tagged": name and arguments in
            tags, one argument each. "harmony": a channel whose recipient is the function.
        open: texts that begin a call; close: texts that may follow one; drop: texts around calls
            that mean nothing. In every style but "harmony" a call may also come without them, as
            a JSON object or a list of objects.
        header: a regular expression for what stands between `open` and the arguments.
        name_open, name_close, key_open, key_close, value_open, value_close, end: the tags. Of
            `value_close` only the first belongs to the value; the others begin what comes next.
        around_value: what a model writes before and after each value, not part of it.
        repeats: several calls may stand within one pair of `open` and `close`.
        begin: what comes before the first call.
        write: a whole call, with {name}, {index}, {arguments}, or {call} for the JSON object,
            or {calls} for several of them with commas between.
        arguments_key: of the JSON object.
        id: the pattern of a call's id, with {name}, {index}, {nine} (nine letters and digits).
        reasoning: what stands before and after the reasoning.
        control: control tokens that an answer's text has to show.
        null_content: templates tell a turn that only calls by its content, which is null.
        content_open: what comes before the text for the user, where the format has such a mark.
    """

    name: str
    template: tuple[str, ...]
    style: Style
    open: tuple[str, ...]
    close: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    header: str = ""
    name_open: str = ""
    name_close: tuple[str, ...] = ()
    key_open: str = ""
    key_close: str = ""
    value_open: str = ""
    value_close: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    around_value: str = ""
    repeats: bool = False
    begin: str = ""
    write: str = ""
    arguments_key: str = "arguments"
    id: str = "call_{nine}"
    reasoning: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    content_open: str = ""
    null_content: bool = False

    def answer(self, template: str, prompt_end: str) -> AnswerShape:
        """How an answer to a prompt that ends with `prompt_end` is built."""
        if self.style == "harmony":
            return AnswerShape(separate=True)
        if not self.reasoning:
            return AnswerShape()
        opening, closing = self.reasoning
        separate = opening in template or closing in template
        return AnswerShape(separate=separate, reasoning=prompt_end.rstrip().endswith(opening))


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: tuple[Family, ...]


@functools.cache
def families() -> tuple[Family, ...]:
    """All families, in the order in which they are tried."""
    text = resources.files(__package__).joinpath("families.toml").read_text("utf-8")
    found = msgspec.convert(tomllib.loads(text), _Table).family
    if len({family.name for family in found}) != len(found):
        raise ValueError("families.toml names a family twice")
    return found


def family_named(name: str) -> Family:
    """Raises KeyError where there is none."""
    return {family.name: family for family in families()}[name]


@functools.lru_cache(maxsize=8)
def family_of(template: str) -> Family:
    """The family of a model by its chat template."""
    return next(one for one in families() if all(text in template for text in one.template))


_TOOLS = re.compile(r"\btools\b")


@functools.lru_cache(maxsize=8)
def takes_tools(template: str) -> bool:
    """Whether the template writes the tools into the prompt itself."""
    return _TOOLS.search(template) is not None
