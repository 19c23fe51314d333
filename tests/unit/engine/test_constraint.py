"""Grammars: what they allow, how they begin and end, and what hostile ones cost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import made_requests
import numpy as np
import pytest

from assistant.daemon.http import tool_calls
from assistant.daemon.http.tool_calls import grammar
from assistant.daemon.http.tool_calls.parser import AnswerParser, Kind
from assistant.engine.types import Constraint, Sampling
from assistant.engine.worker.constraint import Compiler, Guide
from assistant.errors import RequestError
from assistant.llama.context import Sampler

ROOT = Path(__file__).resolve().parents[3]
END = 256
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "unit", "days"],
}


def piece(token: int) -> bytes:
    """A vocabulary of bytes, with one token that ends an answer."""
    return bytes([token]) if token < END else b"<end>"


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(piece, END + 1, {END})


def guide(constraint: Constraint, compiler: Compiler) -> Guide:
    made = Guide(constraint, compiler.compile(constraint), compiler)
    deadline = time.monotonic() + 20
    while not made.ready() and time.monotonic() < deadline:
        time.sleep(0.001)
    return made


class Wanted(Sampler):
    """Wants to say a text, byte by byte, then to end."""

    def __init__(self, text: str) -> None:
        super().__init__(Sampling(temperature=0), END + 1)
        self.text = text.encode()
        self.at = 0

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        found = np.random.default_rng(self.at).random(END + 1).astype(np.float32)
        found[END] += 0.5
        found[self.text[self.at] if self.at < len(self.text) else END] = 9
        self.at += 1
        return found


def said(made: Guide, wants: str, most: int = 3000) -> str:
    """What is said where the model wants to say `wants`."""
    model, found = Wanted(wants), b""
    for _ in range(most):
        token = made.pick(model, model.logits(), piece, {END})
        if token == END:
            return found.decode("utf-8", "replace")
        found += piece(token)
        made.add(token, piece(token), {END})
        if made.finished:
            break
    return found.decode("utf-8", "replace")


def as_arguments(text: str, family: str) -> list[Any]:
    parser = AnswerParser(tool_calls.family_named(family), {"weather": SCHEMA})
    found: list[str] = []
    for part in [*parser.feed(text), *parser.finish()]:
        if part.kind is Kind.CALL:
            assert part.name == "weather"
            found.append("")
        elif part.kind is Kind.ARGUMENTS:
            found[part.index] += part.text
    return [json.loads(one) for one in found]


@pytest.mark.parametrize("family", [one.name for one in tool_calls.families()])
def test_a_required_call_is_valid_whatever_the_model_wants(family: str, compiler: Compiler) -> None:
    """The model wants nonsense; what comes is a call of the family, valid against the schema."""
    own = tool_calls.family_named(family)
    schema = SCHEMA
    if own.style == "tagged":  # a text in tags ends only where the model says so
        schema = SCHEMA | {"properties": SCHEMA["properties"] | {"city": {"enum": ["P", "Q"]}}}
    made = grammar.of_tools(own, {"weather": schema}, required=True, parallel=False)
    text = said(guide(made, compiler), 'no! {"x": ')
    (arguments,) = as_arguments(text, family)
    assert set(arguments) == {"city", "unit", "days"}
    assert arguments["unit"] in {"C", "F"} and 1 <= arguments["days"] <= 9


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "P", "unit": "C", "days": 3}}\n'


def test_texts_in_tags(compiler: Compiler) -> None:
    made = grammar.of_tools(
        tool_calls.family_named("qwen3-coder"), {"weather": SCHEMA}, required=True, parallel=False
    )
    text = (
        "<tool_call>\n<function=weather>\n<parameter=city>\n  a <b>\n\n</parameter>\n"
        "<parameter=unit>\nC\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert said(guide(made, compiler), text) == text
    assert as_arguments(text, "qwen3-coder") == [{"city": "  a <b>\n", "unit": "C", "days": 3}]


def test_free_text_stays_free_until_a_call_begins(compiler: Compiler) -> None:
    made = grammar.of_tools(
        tool_calls.family_named("hermes"), {"weather": SCHEMA}, required=False, parallel=True
    )
    text = 'Free { "text" } <tool_ca\n' + CALL + "</tool_call>\nand more"
    assert said(guide(made, compiler), text) == text
    wrong = CALL.replace("3", "77").replace('"C"', '"K"')
    found = said(guide(made, compiler), "Hm " + wrong)
    assert found.startswith("Hm <tool_call>")
    (arguments,) = as_arguments(found, "hermes")
    assert arguments["unit"] in {"C", "F"} and 1 <= arguments["days"] <= 9
    twice = CALL + "</tool_call>\n" + CALL + "</tool_call>"
    assert said(guide(made, compiler), twice) == twice


SPACES = [(": ", ", "), (":", ","), (": ", ",\n"), (": ", ",\n    ")]


@pytest.mark.parametrize(
    ("family", "spaces", "key"),
    [
        (one.name, SPACES[number % 4], ("arguments", "parameters", "input")[number % 3])
        for number, one in enumerate(tool_calls.families())
    ],
)
def test_a_call_in_plain_json_is_valid_too(
    family: str, spaces: tuple[str, str], key: str, compiler: Compiler
) -> None:
    """Small models often write a call without the marks of their family."""
    made = grammar.of_tools(
        tool_calls.family_named(family), {"weather": SCHEMA}, required=False, parallel=True
    )
    colon, comma = spaces
    head = f'{{"name"{colon}"weather"{comma}"{key}"{colon}'
    good = head + '{"city": "P", "unit": "C", "days": 3}}'
    assert said(guide(made, compiler), good) == good
    for wrong in ('{"town": "P"}}', '"P"}', '{"city": "P", "unit": "K", "days": 3}}', "null}"):
        found = said(guide(made, compiler), head + wrong)
        assert found.startswith(head)
        arguments = json.loads(found)[key]
        assert set(arguments) == {"city", "unit", "days"} and arguments["unit"] in {"C", "F"}
    for free in (
        '{"name": "weather", "age": 3}',
        '{"name": "other", "arguments": {"x": 1}}',
        '{"name": "weather"}',
    ):
        assert said(guide(made, compiler), free) == free


def test_one_call_only_where_parallel_calls_are_off(compiler: Compiler) -> None:
    made = grammar.of_tools(
        tool_calls.family_named("hermes"), {"weather": SCHEMA}, required=False, parallel=False
    )
    once = CALL + "</tool_call>"
    assert said(guide(made, compiler), once + "\n" + once) == once


def test_a_required_call_comes_after_the_reasoning(compiler: Compiler) -> None:
    made = grammar.of_tools(
        tool_calls.family_named("hermes"),
        {"weather": SCHEMA},
        required=True,
        parallel=False,
        reasoning=True,
    )
    text = "Let me { think }.\n</think>" + CALL + "</tool_call>"
    assert said(guide(made, compiler), text) == text


@pytest.mark.parametrize(
    ("schema", "wants"),
    [
        ({"type": "object"}, '{"a": [1, {"b": null}]}'),
        (SCHEMA, '{"city": "Zürich", "unit": "F", "days": 9}'),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 3}, "[1, 2, 3]"),
        ({"enum": ["a", 1, None]}, '"a"'),
        ({"type": "string", "pattern": "^[a-c]{3}$"}, '"abc"'),
        (
            {
                "$ref": "#/$defs/t",
                "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}},
            },
            "[[], [[]]]",
        ),
    ],
)
def test_schemas(schema: dict[str, Any], wants: str, compiler: Compiler) -> None:
    made = Constraint(grammar=grammar.of_schema(schema), at_once=True, ends=True)
    assert said(guide(made, compiler), wants) == wants
    json.loads(said(guide(made, compiler), "no"))


def test_gbnf(compiler: Compiler) -> None:
    text = 'root ::= "yes" | "no" tail?\ntail ::= " " [a-z]+ "!"\n'
    made = Constraint(grammar=grammar.of_gbnf(text), at_once=True, ends=True)
    assert said(guide(made, compiler), "no way!") == "no way!"
    assert said(guide(made, compiler), "maybe")[:2] in {"ye", "no"}


def _deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        found = {"type": "object", "properties": {"a": found}}
    return found


@pytest.mark.parametrize(
    "schema",
    [
        _deep(200),
        _deep(20_000),
        {"enum": [f"x{n}" for n in range(100_000)]},
        {"$ref": "http://example.com/schema.json"},
        {"type": "objekt"},
        {"properties": 3},
        {"allOf": [{"anyOf": [{"minimum": 10 * a + b} for b in range(10)]} for a in range(12)]},
        {"type": "string", "pattern": "(" * 2000},
        {"type": "integer", "multipleOf": 999_983},
        {"type": "number", "multipleOf": 0.999983},
        {"allOf": [{"multipleOf": 97}, {"anyOf": [{"multipleOf": 89}]}]},
        {"type": "integer", "const": -(2**63)},
        {"type": "integer", "enum": [-1e19]},
        {"properties": {"a": {"type": "integer", "enum": [-(10**30), True]}}},
        {"type": "string", "pattern": "[a" + "\\" * 3},
        {"properties": {f"p{n}": {"type": "string", "maxLength": 9999} for n in range(20_000)}},
    ],
)
def test_hostile_schemas_are_refused(schema: dict[str, Any], compiler: Compiler) -> None:
    """In a thread of its own, within llguidance's limits; the next one is compiled as usual."""
    with pytest.raises(RequestError):
        guide(Constraint(grammar=grammar.of_schema(schema), at_once=True, ends=True), compiler)
    good = Constraint(grammar=grammar.of_schema({"type": "null"}), at_once=True, ends=True)
    assert said(guide(good, compiler), "x") == "null"


def _optional(count: int, **more: Any) -> dict[str, Any]:
    properties = {f"p{n}": {"type": "integer"} for n in range(count)}
    return {"type": "object", "properties": properties, **more}


@pytest.mark.parametrize(
    "schema",
    [
        _optional(2000),
        _optional(2000, required=[f"x{n}" for n in range(2000)]),
        _optional(2000, required=[[]] * 2000),
        {"anyOf": [_optional(800), _optional(800)]},
        {"properties": {"a": {"items": _optional(1500)}}},
        {"$defs": {"a": _optional(1001)}, "$ref": "#/$defs/a"},
    ],
)
def test_what_takes_long_to_compile_is_refused_before(schema: dict[str, Any]) -> None:
    """Time grows with the square of optional properties; in tools all schemas count together."""
    with pytest.raises(RequestError, match="optional properties"):
        grammar.of_schema(schema)
    family = tool_calls.family_named("hermes")
    with pytest.raises(RequestError, match="optional properties"):
        grammar.of_tools(family, {"f": schema}, required=False, parallel=True)
    grammar.of_schema(_optional(900))
    grammar.of_schema(_optional(3000, required=[f"p{n}" for n in range(3000)]))
    two = {name: _optional(800) for name in ("f", "g")}
    with pytest.raises(RequestError, match="optional properties"):
        grammar.of_tools(family, two, required=False, parallel=True)


def test_an_answer_that_has_ended_needs_no_grammar(compiler: Compiler) -> None:
    """A request that was cancelled while its grammar waits does not delay the next ones."""
    release = threading.Event()
    compiler._thread.submit(release.wait)
    constraint = Constraint(grammar=grammar.of_schema({"type": "null"}), at_once=True)
    waiting = compiler.compile(constraint)
    Guide(constraint, waiting, compiler).drop()
    release.set()
    assert waiting.cancelled()
    assert guide(constraint, compiler).ready()


@pytest.mark.parametrize("text", ["", "root", 'root ::= "a', "root ::= (((", "x" * 70_000, "\x00"])
def test_malformed_grammars_are_refused(text: str, compiler: Compiler) -> None:
    with pytest.raises(RequestError):
        guide(Constraint(grammar=grammar.of_gbnf(text), at_once=True), compiler)


def test_nothing_is_printed(compiler: Compiler, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither llguidance nor the converter writes to the terminal, whatever the grammar."""
    for text in ("start: (", "start: /(/", 'start: %json {"type": "nothing"}', 'start: "a" | "a"'):
        made = Constraint(grammar=text, at_once=True, ends=True)
        try:
            said(guide(made, compiler), "b")
        except RequestError:
            continue
    with pytest.raises(RequestError):
        grammar.of_gbnf("root ::= (")
    assert capfd.readouterr() == ("", "")


def test_made_up_schemas_grammars_and_messages_raise_only_our_own_errors() -> None:
    """`make fuzz` uses 10,000 of them."""
    found = made_requests.fuzz(seed=3, count=300)
    assert not found["wrong"], found["wrong"]
    assert all(found["outcomes"].get(f"{what} used") for what in ("schema", "messages"))


_IN_LITTLE_MEMORY = """
import resource, sys
from assistant.daemon.http.tool_calls import grammar
from assistant.engine.types import Constraint
from assistant.engine.worker.constraint import Compiler

def part(n):
    return {"type": "object", "properties": {f"k{n}": {"type": "string"}}, "required": [f"k{n}"]}

compiler = Compiler(lambda token: bytes([token]) if token < 256 else b"<end>", 257, {256})
compiler.compile(Constraint(grammar=grammar.of_schema({}))).result()
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), used + (256 << 20)))
for schema in (
    {"type": "string", "minLength": 10**6, "maxLength": 2 * 10**6},
    {"type": "array", "items": {"type": "integer"}, "minItems": 10**5, "maxItems": 10**6},
    {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    {"type": "string", "pattern": "^.*a.{200}$"},
    {"enum": ["x" * 20_000]},
    {"anyOf": [part(n) for n in range(200)]},
    {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(500)}},
    {"allOf": [{"anyOf": [part(9 * a + b) for b in range(4)]} for a in range(8)]},
):
    try:
        compiler.compile(Constraint(grammar=grammar.of_schema(schema))).result().compute_bitmask()
    except Exception as error:
        if type(error).__name__ != "RequestError":
            raise
print("compiled")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_large_grammars_take_bounded_memory() -> None:
    """Within 256 MiB they are compiled or refused: a process that needs more would abort."""
    code = [sys.executable, "-c", _IN_LITTLE_MEMORY]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
