"""Constrained decoding: what it guarantees, what it costs, and two libraries compared.

    python tests/benchmarks/constrained.py [--calls 200] [--save]

Three parts, on the dense starter model in this process:

- `calls`: tool calls over 20 schemas, constrained and free (same prompts, greedy). Valid is a call
  of the offered function, as the answer's parser reads it, whose arguments match the schema
  (jsonschema).
- `rate`: tokens a second of constrained and free answers by turns, without drafts.
- `grammars`: time a token of llguidance and of llama.cpp's grammar sampler on the model's whole
  vocabulary, and for which JSON schemas each lets valid JSON through and stops invalid JSON.

Prints JSON; `--save` keeps it in tests/benchmarks/results/constrained.json.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1] / "equipment")]

from head import head, publish  # noqa: E402

RESULT = HERE.parent / "results/constrained.json"
MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
MOST_TOKENS = 64


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}  # fmt: skip


_SHORT = _text(maxLength=30)
TOOLS: dict[str, tuple[dict[str, Any], str]] = {
    "weather": (_object(city=_SHORT, unit={"enum": ["C", "F"]}), "the weather in {}"),
    "add": (_object(a={"type": "number"}, b={"type": "number"}), "the sum of {n} and 7"),
    "read_file": (_object(path=_SHORT), "the file docs/{}.md"),
    "list_folder": (_object(path=_SHORT, depth=_whole(1, 5)), "the folder src/{}, two levels"),
    "search": (_object(query=_SHORT, limit=_whole(1, 50)), "five pages about {}"),
    "set_alarm": (_object(time=_text(pattern="^[0-2][0-9]:[0-5][0-9]$")), "an alarm at {n}:30"),
    "book_table": (_object(name=_SHORT, people=_whole(1, 12)), "a table for {n} people, name {}"),
    "translate": (_object(text=_SHORT, to={"enum": ["de", "fr", "ja"]}), "'{}' in French"),
    "send_mail": (_object(to=_text(format="email"), subject=_SHORT), "a mail to {}@example.com"),
    "create_event": (_object(title=_SHORT, date=_text(format="date")), "'{}' on May {n}, 2027"),
    "convert": (_object(amount={"type": "number"}, to=_text(pattern="^[A-Z]{3}$")),
                "{n} EUR in USD"),
    "toggle": (_object(device=_SHORT, on={"type": "boolean"}), "the lamp {} off"),
    "tag": (_object(tags={"type": "array", "items": _SHORT, "minItems": 1, "maxItems": 3}),
            "the tags {} and sea"),
    "paint": (_object(color=_text(pattern="^#[0-9a-f]{6}$")), "the wall {}-colored"),
    "route": (_object(start=_object(x=_whole(0, 99), y=_whole(0, 99)), mode={"const": "walk"}),
              "the way from x {n}, y 4 to {}"),
    "rate": (_object(title=_SHORT, stars=_whole(1, 5)), "four stars for {}"),
    "play": (_object(song=_SHORT, volume={"anyOf": [_whole(0, 10), {"const": "max"}]}),
             "the song {} at volume {n}"),
    "log": (_object(level={"enum": ["info", "warning", "error"]}, message=_SHORT),
            "the warning {}"),
    "resize": (_object(width=_whole(1, 4096), height=_whole(1, 4096)), "{n}00 by 300 points"),
    "note": (_object(body=_SHORT, pin={"type": ["boolean", "null"]}), "a note that says {}"),
}  # fmt: skip
WORDS = ("Paris", "harbor", "keel", "Oslo", "anchor", "tide", "Lima", "compass", "reef", "sail")


def requests(count: int) -> list[tuple[str, dict[str, Any], str]]:
    """Function, schema and what the user says, by turns over all functions' words."""
    found = []
    for at in range(count):
        name = list(TOOLS)[at * len(TOOLS) // count]
        schema, request = TOOLS[name]
        word = WORDS[at % len(WORDS)]
        request = request.replace("{n}", str(2 + at % 9)).format(word)
        found.append((name, schema, f"Call {name} for {request}."))
    return found


class Caller:
    """Asks for tool calls in the model's own chat template."""

    def __init__(self, bench: Any) -> None:
        from assistant.daemon.http import chat_template, tool_calls

        self.bench = bench
        self.template = bench.model.facts.chat_template
        self.family = tool_calls.family_of(self.template)
        self._render = chat_template.render
        ids = (bench.model.tokenise(text, special=True) for text in self.family.control)
        self.visible = tuple(found[0] for found in ids if len(found) == 1)

    def ask(
        self, name: str, schema: dict[str, Any], said: str, *, constrained: bool, drafts: bool
    ) -> Any:
        from assistant.daemon.http.tool_calls import grammar

        function = {"name": name, "description": "", "parameters": schema}
        pieces = self._render(
            self.template,
            [{"role": "user", "content": said}],
            tools=[{"type": "function", "function": function}],
        )
        ids = [
            token for piece in pieces for token in self.bench.model.tokenise(piece, special=True)
        ]
        constraint = grammar.of_tools(self.family, {name: schema}, required=True, parallel=False)
        asked = self.bench.ask(
            ids,
            MOST_TOKENS,
            constraint=constraint if constrained else None,
            visible_tokens=self.visible,
            speculate=drafts,
        )
        heard = self.bench.heard[asked]
        while heard.done is None and heard.error is None:
            self.bench.runner.step()
        if heard.error is not None:
            raise heard.error
        return heard

    def valid(self, text: str, name: str, schema: dict[str, Any]) -> bool:
        import jsonschema  # type: ignore[import-untyped]  # comes with schemathesis

        from assistant.daemon.http.tool_calls.parser import AnswerParser, Kind

        parser = AnswerParser(self.family, {name: schema})
        pieces = [*parser.feed(text), *parser.finish()]
        names = [piece.name for piece in pieces if piece.kind is Kind.CALL]
        written = "".join(piece.text for piece in pieces if piece.kind is Kind.ARGUMENTS)
        try:
            jsonschema.validate(json.loads(written), schema)
        except (ValueError, jsonschema.ValidationError):
            return False
        return names == [name]


def calls(caller: Caller, count: int) -> dict[str, Any]:
    """Valid calls, constrained and free."""
    valid = {"constrained": 0, "free": 0}
    invalid_free: dict[str, int] = {}
    for name, schema, said in requests(count):
        for kind in valid:
            heard = caller.ask(name, schema, said, constrained=kind == "constrained", drafts=True)
            right = caller.valid(heard.text, name, schema)
            valid[kind] += right
            if kind == "free" and not right:
                invalid_free[name] = invalid_free.get(name, 0) + 1
            if kind == "constrained" and not right:
                print(f"INVALID {name}: {heard.text!r}", file=sys.stderr)
    return {
        "calls": count,
        "schemas": len(TOOLS),
        "valid": valid,
        "invalid_when_free": invalid_free,
    }


def rate(caller: Caller, rounds: int) -> dict[str, Any]:
    """Decoded tokens a second, by turns; each answer once before, so that its prompt is cached."""
    tokens = {"constrained": 0, "free": 0}
    took_ms = {"constrained": 0.0, "free": 0.0}
    ratios = []
    asked = requests(len(TOOLS))
    for at in range(rounds):
        name, schema, said = asked[at % len(asked)]
        rates = {}
        for kind in tokens if at % 2 else reversed(tokens):
            constrained = kind == "constrained"
            timings = caller.ask(name, schema, said, constrained=constrained, drafts=False).timings
            if timings.generated_tokens > 4:
                tokens[kind] += timings.generated_tokens - 1
                took_ms[kind] += timings.decode_ms
                rates[kind] = (timings.generated_tokens - 1) / timings.decode_ms
        if len(rates) == 2:
            ratios.append(rates["constrained"] / rates["free"])
    per_second = {kind: round(1000 * tokens[kind] / took_ms[kind], 2) for kind in tokens}
    return {
        "rounds": rounds,
        "tokens": tokens,
        "tokens_per_second": per_second,
        "ratio": round(per_second["constrained"] / per_second["free"], 3),
        "median_ratio_of_a_pair": round(statistics.median(ratios), 3),
    }


COVERAGE: dict[str, tuple[Any, Any, Any]] = {
    "enum": ({"enum": ["a", 1, None]}, 1, 2),
    "const": ({"const": {"a": [1]}}, {"a": [1]}, {"a": [2]}),
    "integer range": (_whole(3, 17), 12, 18),
    "exclusive range": ({"type": "integer", "exclusiveMinimum": 3}, 4, 3),
    "number range": ({"type": "number", "minimum": 0.5, "maximum": 1.5}, 0.75, 1.75),
    "multipleOf": ({"type": "integer", "multipleOf": 5}, 15, 16),
    "minLength": (_text(minLength=3), "abc", "ab"),
    "maxLength": (_text(maxLength=3), "abc", "abcd"),
    "pattern": (_text(pattern="^a[0-9]+$"), "a12", "b12"),
    "pattern without anchors": (_text(pattern="[0-9]x"), "a1xb", "axb"),
    "format date": (_text(format="date"), "2026-11-28", "yesterday"),
    "format date-time": (_text(format="date-time"), "2026-11-28T10:00:00Z", "noon"),
    "format uuid": (_text(format="uuid"), "123e4567-e89b-12d3-a456-426614174000", "123"),
    "format email": (_text(format="email"), "a@b.org", "ab"),
    "format ipv4": (_text(format="ipv4"), "127.0.0.1", "localhost"),
    "array items": ({"type": "array", "items": {"type": "integer"}}, [1, 2], [1, "a"]),
    "minItems": ({"type": "array", "minItems": 2}, [1, 2], [1]),
    "maxItems": ({"type": "array", "items": {"type": "null"}, "maxItems": 1}, [None], [None, None]),
    "prefixItems": ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False,
                     "minItems": 2}, [1, 2], [2, 1]),
    "required": (_object(a=_SHORT), {"a": "x"}, {}),
    "additionalProperties false": (_object(a=_SHORT), {"a": "x"}, {"a": "x", "b": 1}),
    "additionalProperties typed": ({"type": "object", "additionalProperties": {"type": "integer"}},
                                   {"k": 1}, {"k": "v"}),
    "patternProperties": ({"type": "object", "patternProperties": {"^n": {"type": "integer"}},
                           "additionalProperties": False}, {"n1": 1}, {"n1": "x"}),
    "anyOf": ({"anyOf": [{"const": 1}, {"const": "a"}]}, "a", "b"),
    "oneOf": ({"oneOf": [{"const": 1}, {"const": "a"}]}, 1, 2),
    "allOf": ({"allOf": [_whole(0, 20), {"minimum": 10}]}, 15, 5),
    "type list": ({"type": ["integer", "null"]}, None, "x"),
    "$defs": ({"$defs": {"a": _whole(1, 3)}, "type": "array", "items": {"$ref": "#/$defs/a"}},
              [1], [4]),
    "recursion": ({"$defs": {"t": {"type": "object", "properties": {"n": {"$ref": "#/$defs/t"}},
                                   "additionalProperties": False}}, "$ref": "#/$defs/t"},
                  {"n": {"n": {}}}, {"n": 1}),
    "nested object": (_object(a=_object(b=_whole(1, 9))), {"a": {"b": 3}}, {"a": {"b": 10}}),
}  # fmt: skip


class LlamaGrammar:
    """llama.cpp's grammar sampler on one GBNF text."""

    def __init__(self, model: Any, gbnf: str) -> None:
        from assistant.llama.ggml import llama_cpp

        self._lib, self._n_vocab = llama_cpp, model.facts.n_vocab
        self._vocab = llama_cpp.llama_model_get_vocab(model.handle)
        self.sampler = llama_cpp.llama_sampler_init_grammar(self._vocab, gbnf.encode(), b"root")
        if not self.sampler:
            raise ValueError("the grammar is refused")

    def allowed(self, tokens: Any) -> Any:
        """Which of the tokens the grammar allows, as a mask."""
        import numpy as np

        from assistant.llama.context import _CANDIDATE

        rows = np.zeros(len(tokens), _CANDIDATE)
        rows["id"] = tokens
        array = self._lib.llama_token_data_array(
            data=ctypes.cast(rows.ctypes.data, ctypes.POINTER(self._lib.llama_token_data)),
            size=len(rows), selected=-1, sorted=False,
        )  # fmt: skip
        self._lib.llama_sampler_apply(self.sampler, ctypes.byref(array))
        return np.isfinite(rows["logit"])

    def accept(self, token: int) -> None:
        self._lib.llama_sampler_accept(self.sampler, token)

    def free(self) -> None:
        self._lib.llama_sampler_free(self.sampler)


def gbnf_of(schema: Any) -> str:
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    return str(json_schema_to_gbnf(json.dumps(schema)))


def llguidance_matches(compiler: Any, model: Any, schema: Any, text: str) -> bool:
    from assistant.daemon.http.tool_calls import grammar
    from assistant.engine.types import Constraint

    constraint = Constraint(grammar=grammar.of_schema(schema), at_once=True)
    matcher = compiler.compile(constraint).result()
    ids = model.tokenise(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def llama_matches(model: Any, schema: Any, text: str) -> bool:
    import numpy as np

    end = next(token for token in range(model.facts.n_vocab) if token in model.ends)
    matcher = LlamaGrammar(model, gbnf_of(schema))
    try:
        for token in model.tokenise(text):
            if not matcher.allowed(np.array([token], np.int32))[0]:
                return False
            matcher.accept(token)
        return bool(matcher.allowed(np.array([end], np.int32))[0])
    finally:
        matcher.free()


def coverage(compiler: Any, model: Any) -> dict[str, Any]:
    """Per library, the schemas that it refuses, or that stop valid or let through invalid JSON."""
    found: dict[str, dict[str, list[str]]] = {}
    libraries: dict[str, Callable[[Any, str], bool]] = {
        "llguidance": partial(llguidance_matches, compiler, model),
        "llama.cpp": partial(llama_matches, model),
    }
    for library, matches in libraries.items():
        rows: dict[str, list[str]] = {
            "right": [],
            "refused": [],
            "stops_valid": [],
            "passes_invalid": [],
        }
        for name, (schema, valid, invalid) in COVERAGE.items():
            try:
                passed = matches(schema, json.dumps(valid)), matches(schema, json.dumps(invalid))
            except Exception:  # whatever the converters raise
                rows["refused"].append(name)
                continue
            kind = "stops_valid" if not passed[0] else "passes_invalid" if passed[1] else "right"
            rows[kind].append(name)
        found[library] = rows
    return {
        "schemas": len(COVERAGE),
        **{name: {"right": len(rows.pop("right")), **rows} for name, rows in found.items()},
    }


def token_times(compiler: Any, model: Any) -> dict[str, Any]:
    """Milliseconds a token on the whole vocabulary, along one valid answer of each schema."""
    import numpy as np

    from assistant.daemon.http.tool_calls import grammar
    from assistant.engine.types import Constraint

    everything = np.arange(model.facts.n_vocab, dtype=np.int32)
    answer = {"city": "Reykjavik, Iceland", "unit": "C"}
    schema = TOOLS["weather"][0]
    ids = model.tokenise(json.dumps(answer))
    times: dict[str, list[float]] = {"llguidance check": [], "llguidance mask": [], "llama.cpp": []}
    for _ in range(3):
        matcher = compiler.compile(
            Constraint(grammar=grammar.of_schema(schema), at_once=True)
        ).result()
        other = LlamaGrammar(model, gbnf_of(schema))
        for token in ids:
            for name, work in {
                "llguidance check": partial(matcher.validate_tokens, [token]),
                "llguidance mask": matcher.compute_bitmask,
                "llama.cpp": partial(other.allowed, everything),
            }.items():
                started = time.perf_counter()
                work()
                times[name].append((time.perf_counter() - started) * 1000)
            matcher.consume_token(token)
            other.accept(token)
        other.free()
    return {
        name: {"median_ms": round(statistics.median(took), 4), "most_ms": round(max(took), 3)}
        for name, took in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()

    from importlib.metadata import version

    from running import running

    from assistant import paths
    from assistant.engine.worker.constraint import Compiler

    versions = {name: version(name) for name in ("llguidance", "llama-cpp-python", "jsonschema")}
    result = head("constrained", **versions) | {"model": MODEL, "most_tokens": MOST_TOKENS}
    with running(paths.models_dir() / MODEL, n_ctx=4096, n_batch=512) as bench:
        model, caller = bench.model, Caller(bench)
        compiler = Compiler(
            lambda token: model.piece(token, special=True), model.facts.n_vocab, model.ends
        )
        result["n_vocab"] = model.facts.n_vocab
        result["grammars"] = {
            "ms_per_token": token_times(compiler, model),
            "coverage": coverage(compiler, model),
        }
        if given.rounds:
            result["rate"] = rate(caller, given.rounds)
        if given.calls:
            result["calls"] = calls(caller, given.calls)
    publish(result, RESULT, save=given.save)


if __name__ == "__main__":
    main()
