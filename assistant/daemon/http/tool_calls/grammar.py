"""Grammars for answers, in llguidance's Lark dialect: tool calls, JSON of a schema, GBNF. Pure.

What a client sends is bounded here; what llguidance makes of it is bounded by its own limits, in
the worker's thread for grammars.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from llguidance.gbnf_to_lark import gbnf_to_lark

from assistant.daemon.http.tool_calls import Family
from assistant.engine.types import Constraint
from assistant.errors import RequestError

MOST_SCHEMA_BYTES = 256 * 1024
MOST_GRAMMAR_CHARS = 64 * 1024
MOST_DEPTH = 48
"""Of a schema; llguidance's reader refuses what is nested deeper than 128."""
MOST_OPTIONAL = 1000
"""Optional properties of one object. The time to compile them grows with their square: 2,000 took
some 3 s. Of several objects together, the sum of the squares counts."""


MOST_STEP = 1000
"""Of `multipleOf`, and of the least common multiple of several: the grammar counts remainders, and
one of a million took more than 15 s."""

_ARGUMENT_KEYS = ("arguments", "parameters", "input")
_SPACINGS = ((": ", ", "), (":", ","), (": ", ",\n"), (": ", ",\n  "), (": ", ",\n    "))
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NUMBER_LIMIT = 2**63
"""llguidance 1.9.1 overflows its stack over an integer of -2**63 or less, which ends the worker."""


def of_schema(schema: Any) -> str:
    """JSON of a schema, and nothing else.

    Raises:
        RequestError: it is no schema, or too large or too deep.
    """
    written = _checked(schema)
    _check_optional([schema])
    return f"start: %json {written}"


def of_gbnf(text: str) -> str:
    """llama.cpp's grammar format.

    Raises:
        RequestError: it cannot be read, or is too long.
    """
    if len(text) > MOST_GRAMMAR_CHARS:
        raise RequestError(f"the grammar is longer than {MOST_GRAMMAR_CHARS} characters")
    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # the converter raises bare exceptions
        raise RequestError(f"the grammar cannot be read ({str(error)[:200]})") from error


def of_tools(
    family: Family,
    tools: Mapping[str, Mapping[str, Any]],
    *,
    required: bool,
    parallel: bool,
    reasoning: bool = False,
) -> Constraint:
    """Keeps calls to what the tools' schemas allow; text between them is free.

    Args:
        tools: the schema of each function's arguments.
        required: the answer is a call.
        parallel: there may be several; otherwise the answer ends with the first.
        reasoning: the prompt opens the reasoning: a required call comes after it.

    Raises:
        RequestError: a schema is too large or too deep.
    """
    rules: list[str] = []
    calls = [_call(family, name, tools[name], number, rules) for number, name in enumerate(tools)]
    rules.append("call: " + " | ".join(calls))
    opening = f"({_literal(family.begin)})? " if family.begin else ""
    whole = _call_list(family, parallel=parallel) if "{calls}" in family.write else "call"
    starts = [f"{opening}{whole}"]
    bare_triggers: list[str] = []
    if not required:
        for number, name in enumerate(tools):
            if rule := _bare_call(family, name, tools[name], number, rules):
                starts.append(rule)
                bare_triggers += _bare_openings(name)
    grammar = "\n".join(["start: " + " | ".join(starts), *rules])
    if len(grammar.encode()) > 4 * MOST_SCHEMA_BYTES:
        raise RequestError("the tools' schemas are too large together")
    _check_optional(list(tools.values()))
    marks = family.open if family.style != "tagged" else family.open[:1]
    after = (family.reasoning[1],) if required and reasoning and family.reasoning else ()
    unmarked = not family.write.startswith(family.open)
    return Constraint(
        grammar=grammar,
        at_once=required and not after,
        triggers=(*(() if unmarked and family.style != "tagged" else marks), *bare_triggers),
        after=after,
        ends=not parallel,
    )


def _call_list(family: Family, *, parallel: bool) -> str:
    before, after = family.write.split("{calls}")
    more = ' (", " call)*' if parallel else ""
    return f"{_literal(before)} call{more} {_literal(after)}"


def _call(
    family: Family, name: str, schema: Mapping[str, Any], number: int, rules: list[str]
) -> str:
    """The name of the rule of one function's call, which is added to `rules`."""
    rule = f"call_{number}"
    if family.style == "tagged":
        rules.append(f"{rule}: {_tagged(family, name, schema, rule, rules)}")
        return rule
    rules.append(f"{rule}_arguments: %json {_checked(_object(schema), lenient=True)}")
    if family.style == "json":
        opening = f'{{"name": {json.dumps(name)}, "{family.arguments_key}": '
        written = [_literal(opening), f"{rule}_arguments", '"}"']
        if "{call}" in family.write:
            before, after = family.write.split("{call}")
            written = [_literal(before), *written, _literal(after)]
    else:
        before, after = family.write.replace("{name}", name).split("{arguments}")
        head = [_literal(part) for part in before.split("{index}")]
        written = [" /[0-9]+/ ".join(head), f"{rule}_arguments", _literal(after)]
    rules.append(f"{rule}: {' '.join(part for part in written if part)}")
    return rule


def _bare_openings(name: str) -> list[str]:
    """How a call begins that is written as plain JSON, without the family's mark."""
    return [
        f'"name"{colon}{json.dumps(name)}{comma}"{key}"'
        for colon, comma in _SPACINGS
        for key in _ARGUMENT_KEYS
    ]


def _bare_call(
    family: Family, name: str, schema: Mapping[str, Any], number: int, rules: list[str]
) -> str:
    """The rule of a call in plain JSON from its name on; empty where the name cannot be a rule's.

    Small models often leave the family's mark out, and `ToolCallParser` reads such calls too.
    """
    if not _PLAIN_NAME.fullmatch(name):
        return ""
    rule = f"bare_{number}"
    arguments = f"call_{number}_arguments"
    if family.style == "tagged":
        arguments = f"{rule}_arguments"
        rules.append(f"{arguments}: %json {_checked(_object(schema), lenient=True)}")
    written = re.sub(r"[.:-]", r"\\\g<0>", name)
    keys = "|".join(_ARGUMENT_KEYS)
    opening = f'/"name": ?"{written}",[ \\n]*"({keys})": ?/'
    rules.append(f'{rule}: {opening} {arguments} /[ \\n]*/ "}}"')
    return rule


def _tagged(
    family: Family, name: str, schema: Mapping[str, Any], rule: str, rules: list[str]
) -> str:
    around, end = family.around_value, family.end[0]
    newline = "" if end in family.close else "\n"
    opening = f"{family.open[0]}{newline}{family.name_open}{name}{family.name_close[0]}"
    if not family.name_close[0].endswith("\n"):
        opening += "\n"
    parts = [_literal(opening)]
    properties = _object(schema).get("properties") or {}
    if not isinstance(properties, dict):
        raise RequestError("the properties of a JSON schema are an object", subject=name)
    needed = schema.get("required")
    needed = needed if isinstance(needed, list) else []
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    for number, (key, given) in enumerate(properties.items()):
        own = given if isinstance(given, dict) else {}
        value = f"{rule}_{number}"
        between = "\n" if family.value_open else ""
        head = f"{family.key_open}{key}{family.key_close}{between}{family.value_open}{around}"
        closing = f"{around}{family.value_close[0]}"
        rules.append(f"{value}: {_literal(head)} {value}_value {_literal(chr(10))}")
        choices = own.get("enum", [own["const"]] if "const" in own else None)
        if own.get("type") == "string" and isinstance(choices, list):
            words = [_literal(str(one)) for one in choices]
            rules.append(f"{value}_value: ({' | '.join(words)}) {_literal(closing)}")
        elif own.get("type") == "string":
            rules.append(f"{value}_value[suffix={_literal(closing)}]: /(?s:.*)/")
        else:
            rules.append(f"{value}_value: {value}_json {_literal(closing)}")
            rules.append(f"{value}_json: %json {_checked(own | shared, lenient=True)}")
        parts.append(value if key in needed else f"{value}?")
    tail = "" if end in family.close else f"{newline}{family.close[0]}" if family.close else ""
    parts.append(_literal(end + tail))
    return " ".join(parts)


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of arguments: they are an object, whatever it leaves out."""
    found = dict(schema)
    if not {"type", "$ref", "anyOf", "oneOf", "allOf"} & found.keys():
        found["type"] = "object"
    if found.get("type") == "object":
        found.setdefault("properties", {})
        if not found["properties"]:
            found.setdefault("additionalProperties", True)
        else:
            found.setdefault("additionalProperties", False)
    return found


def _check_optional(schemas: Sequence[Any]) -> None:
    """Raises RequestError where compiling the schemas would take too long (`MOST_OPTIONAL`)."""
    squares = 0
    level: Sequence[Any] = [one for one in schemas if isinstance(one, dict)]
    while level:
        for one in level:
            properties = one.get("properties") if isinstance(one, dict) else None
            if isinstance(properties, dict):
                required = one.get("required")
                named = required if isinstance(required, list) else ()
                needed = {name for name in named if isinstance(name, str)}
                squares += len(properties.keys() - needed) ** 2
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
    if squares > MOST_OPTIONAL**2:
        raise RequestError(
            f"JSON schemas with more than {MOST_OPTIONAL} optional properties are not served",
            advice="Make properties required, or split the schema",
        )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _has_step(part: Any) -> bool:
    value = part.get("multipleOf") if isinstance(part, dict) else None
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _step(multiple_of: float) -> int:
    """How many remainders a number can have, whatever the decimal point: 25 for 0.25."""
    digits = Decimal(repr(multiple_of)).normalize().as_tuple().digits
    return int("".join(map(str, digits))) or 1


def _checked(schema: Any, *, lenient: bool = False) -> str:
    """A schema as JSON.

    Args:
        lenient: keywords that are not known are left out of account.
    """
    if not isinstance(schema, dict | bool):
        raise RequestError("a JSON schema is an object")
    too_deep = RequestError(f"a JSON schema is nested deeper than {MOST_DEPTH}")
    level: Sequence[Any] = [schema] if isinstance(schema, dict) else []
    depth, steps = 0, 1
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise too_deep
        inner = [
            child for one in level for child in (one.values() if isinstance(one, dict) else one)
        ]
        if any(isinstance(one, int | float) and abs(one) >= _NUMBER_LIMIT for one in inner):
            raise RequestError("a JSON schema has a number beyond 64 bits")
        steps = math.lcm(steps, *(_step(one["multipleOf"]) for one in level if _has_step(one)))
        if steps > MOST_STEP:
            raise RequestError(f"a JSON schema has a multipleOf beyond {MOST_STEP}")
        level = [child for child in inner if isinstance(child, dict | list)]
    if isinstance(schema, dict):
        if lenient:
            schema = {"x-guidance": {"lenient": True}} | schema
        else:
            schema = {key: value for key, value in schema.items() if key != "x-guidance"}
    written = msgspec.json.encode(schema).decode()
    if len(written) > MOST_SCHEMA_BYTES:
        raise RequestError(f"a JSON schema is larger than {MOST_SCHEMA_BYTES} bytes")
    return written
