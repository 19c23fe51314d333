"""Made-up schemas, grammars and messages, and what becomes of them: only our own errors (fuzz)."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec

from assistant.daemon.http import chat_template, tool_calls
from assistant.daemon.http.chat_template import conversation
from assistant.daemon.http.ollama_api import OllamaChatBody
from assistant.daemon.http.request_fields import checked
from assistant.daemon.http.request_schemas import ChatBody
from assistant.daemon.http.responses_api import ResponsesBody
from assistant.daemon.http.tool_calls import grammar
from assistant.engine.types import Constraint
from assistant.engine.worker.constraint import Compiler
from assistant.errors import RequestError, UnderkeelError

END = 256
OURS = (UnderkeelError, msgspec.ValidationError)
"""What a request may raise: the reader of bodies reports the second as a RequestError."""

_WORDS = ["a", "city", "", "é", "<tool_call>", '"', "\\", "x" * 300, "$ref", "\n", "0"]
_TYPES = ["object", "array", "string", "integer", "number", "boolean", "null", "objekt", 3, None]
_KEYS = [
    *("type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "allOf", "not"),
    *("$ref", "$defs", "pattern", "format", "minLength", "maxLength", "minimum", "maximum"),
    *("minItems", "maxItems", "additionalProperties", "multipleOf", "uniqueItems", "prefixItems"),
    *("patternProperties", "dependentRequired", "x-guidance", "title", "if", "then"),
]


_GRAMMAR = ["root ::= ", "a", '"x"', "[a-z]", "(", ")", "*", "+", "?", "|", "\n", "a ::= ", "{3}"]

_TEMPLATE = [
    *("{{ ", " }}", "{% ", " %}", "{# ", " #}", "{%- ", " -%}", "for m in messages", "endfor"),
    *("if m", "else", "elif x is defined", "endif", "set x = 1", "x", "m.content", "messages"),
    *("messages[0]", "['role']", " | trim", " | tojson", " | list", " | length", " ~ ", " + "),
    *(
        "generation",
        "endgeneration",
        "break",
        "continue",
        "namespace(a=1)",
        "range(3)",
        "'",
        '"',
    ),
    *(
        "macro f(a)",
        "endmacro",
        "f(1)",
        "raise_exception('no')",
        "strftime_now('%Y')",
        "(",
        ")",
    ),
    *("loop.index", "caller()", "\n", "\x00", "\ud800", "é", "1e999", "-", "not ", "none"),
    *("{{ m.role }}", "{{ x }}", "{% if true %}", "{% endif %}", "{% for m in messages %}"),
    *("{% endfor %}", "{% generation %}", "{% endgeneration %}", "{{ messages | tojson }}"),
]
"""What made-up chat templates are put together from."""


class Maker:
    """Makes values from one random number generator."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def word(self) -> str:
        return "".join(self.rng.choices(_WORDS, k=self.rng.randint(0, 3)))

    def value(self, depth: int = 3) -> Any:
        """Any JSON value."""
        rng = self.rng
        kind = rng.randint(0, 6 if depth else 4)
        if kind == 5:
            return [self.value(depth - 1) for _ in range(rng.randint(0, 3))]
        if kind == 6:
            return {self.word(): self.value(depth - 1) for _ in range(rng.randint(0, 3))}
        return [None, True, rng.randint(-(2**70), 2**70), rng.uniform(-9, 9), self.word()][kind]

    def schema(self, depth: int = 3) -> Any:
        """Something near a JSON schema."""
        rng = self.rng
        if not depth or rng.random() < 0.1:
            return {"type": rng.choice(_TYPES)} if rng.random() < 0.9 else self.value(1)
        found: dict[str, Any] = {"type": rng.choice(_TYPES[:7])} if rng.random() < 0.7 else {}
        for key in rng.choices(_KEYS, k=rng.randint(0, 4)):
            found[key] = self._keyword(key, depth)
        return found

    def _keyword(self, key: str, depth: int) -> Any:
        rng = self.rng
        if rng.random() < 0.05:
            return self.value(1)
        if key in {"properties", "$defs", "patternProperties"}:
            return {self.word(): self.schema(depth - 1) for _ in range(rng.randint(0, 4))}
        if key in {"anyOf", "oneOf", "allOf", "prefixItems"}:
            return [self.schema(depth - 1) for _ in range(rng.randint(0, 3))]
        if key in {"items", "not", "additionalProperties", "if", "then"}:
            return self.schema(depth - 1)
        if key in {"enum", "required"}:
            return [self.value(1) for _ in range(rng.randint(0, 4))]
        if key == "$ref":
            return rng.choice(["#", "#/$defs/a", "#/nowhere", "http://example.com/x"])
        if key == "pattern":
            return "".join(
                rng.choices(["a", "[a-z]", "(", ")", "*", "{2,900}", "|", "\\d", "^"], k=6)
            )
        if key == "type":
            return rng.choice([*_TYPES, ["string", "null"]])
        return rng.choice([0, 1, 2, -1, 7, 0.5, 10**30, "date", "uuid", True])

    def grammar(self) -> str:
        """Something near GBNF."""
        rng = self.rng
        if rng.random() < 0.3:
            return "root ::= " + "".join(rng.choices([*_GRAMMAR, self.word()], k=8))
        rules = [f"{name} ::= {self._alternatives(2)}" for name in ("root", "a", "b")]
        return "\n".join(rules)

    def _alternatives(self, depth: int) -> str:
        rng = self.rng
        parts = []
        for _ in range(rng.randint(1, 3)):
            one = rng.choice(['"x"', "[a-z]", "[^\\n]", "a", "b", f'"{rng.randint(0, 99)}"'])
            if depth and rng.random() < 0.4:
                one = f"({self._alternatives(depth - 1)})"
            parts.append(one + rng.choice(["", "", "", "*", "+", "?", "{2,5}"]))
        return rng.choice([" ", " | "]).join(parts)

    def body(self, known: list[str]) -> dict[str, Any]:
        """Something near a request of one of the chat routes."""
        rng = self.rng
        turn = {
            "role": rng.choice(["user", "assistant", "tool", "system", "developer", self.word()]),
            "content": rng.choice([self.word(), None, [{"type": "text", "text": self.word()}]]),
            "tool_calls": [
                {"id": "c", "function": {"name": "f", "arguments": rng.choice(["{}", {}, "{"])}}
            ],
            "type": rng.choice(["message", "function_call", "function_call_output", "reasoning"]),
        }
        turns = [
            {key: value for key, value in turn.items() if rng.random() < 0.85}
            for _ in range(rng.randint(0, 4))
        ]
        tool = {"type": "function", "name": "f", "parameters": self.schema(2)}
        nested = {"type": "function", "function": {"name": "f", "parameters": self.schema(2)}}
        found: dict[str, Any] = {"messages": turns, "input": turns}
        found["tools"] = [rng.choice([tool, nested])]
        found["tool_choice"] = rng.choice(["auto", "required", {"type": "function", "name": "f"}])
        if rng.random() < 0.3:
            found[rng.choice(known)] = self.value(2)
        return {key: found[key] for key in found if key in known and rng.random() < 0.8}


def _tried(outcomes: Counter[str], wrong: list[str], what: str, use: Any, given: Any) -> None:
    try:
        use(given)
        outcomes[f"{what} used"] += 1
    except OURS:
        outcomes[f"{what} refused"] += 1
    except Exception as error:
        if len(wrong) < 20:
            wrong.append(f"{what}: {type(error).__name__}: {error!s:.200} for {given!r:.300}")


def fuzz(seed: int, count: int) -> dict[str, Any]:
    """Use `count` made-up schemas, grammars and messages, a third each.

    Returns:
        How many were used and refused, and what raised another error than ours.
    """
    maker, outcomes, wrong = Maker(seed), Counter[str](), list[str]()
    compiler = Compiler(lambda token: bytes([token]) if token < END else b"", END + 1, {END})
    kinds: list[type[Any]] = [ChatBody, ResponsesBody, OllamaChatBody]
    fields = {kind: [one.encode_name for one in msgspec.structs.fields(kind)] for kind in kinds}
    table = tool_calls.families()

    def compiled(text: str) -> None:
        compiler.compile(Constraint(grammar=text, at_once=True)).result()

    def as_schema(schema: Any) -> None:
        compiled(grammar.of_schema(schema))

    def as_tool(schema: Any) -> None:
        family = maker.rng.choice(table)
        tools = {"f": schema if isinstance(schema, dict) else {}}
        compiled(grammar.of_tools(family, tools, required=True, parallel=True).grammar)

    def as_grammar(text: str) -> None:
        compiled(grammar.of_gbnf(text))

    def as_body(given: tuple[type[Any], dict[str, Any]]) -> None:
        kind, raw = given
        body = msgspec.convert(checked(raw, kind), kind, str_keys=True)
        chat = body if kind is ChatBody else body.chat()
        if chat is not None:
            family = maker.rng.choice(table)
            takes_tools = maker.rng.random() < 0.5
            conversation(chat, chat.may_call(), family, takes_tools=takes_tools)

    for number in range(count):
        if number % 3 == 0:
            use = as_schema if number % 2 else as_tool
            _tried(outcomes, wrong, "schema", use, maker.schema())
        elif number % 3 == 1:
            _tried(outcomes, wrong, "grammar", as_grammar, maker.grammar())
        else:
            kind = maker.rng.choice(kinds)
            _tried(outcomes, wrong, "messages", as_body, (kind, maker.body(fields[kind])))
    return {
        "seed": seed,
        "requests": count,
        "outcomes": dict(sorted(outcomes.items())),
        "wrong": wrong,
    }


def fuzz_templates(seed: int, count: int) -> dict[str, Any]:
    """Render made-up chat templates.

    Returns:
        How many were rendered and refused, and what raised another error than ours.
    """
    rng, outcomes, wrong = random.Random(seed), Counter[str](), list[str]()
    said = [{"role": "user", "content": "x"}]
    for _ in range(count):
        template = "".join(rng.choices(_TEMPLATE, k=rng.randint(1, 12)))
        try:
            pieces = chat_template.render(template, said, special={"pad_token": "<pad>"})
            assert all(isinstance(piece, str) for piece in pieces)
            outcomes["rendered"] += 1
        except RequestError:
            outcomes["refused"] += 1
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error} {template!r}"[:300])
    return {
        "seed": seed,
        "templates": count,
        "outcomes": dict(sorted(outcomes.items())),
        "wrong": wrong[:20],
    }
