"""Schemas and grammars of requests: passed on to servers that apply them, refused for others."""

from __future__ import annotations

from typing import Any

import pytest

from assistant.engine.remote.dialect import Dialect, Prompt
from assistant.engine.remote.llama_server import LlamaServer
from assistant.engine.remote.openai import VLLM, OpenAI
from assistant.engine.types import Constraint, GenerateRequest
from assistant.errors import RequestError

SCHEMA = Constraint(grammar="start: %json {}", at_once=True, json_schema='{"type":"object"}')
GBNF = Constraint(grammar='start: "a"', at_once=True, gbnf='root ::= "a"')
CALLS = Constraint(grammar='start: "a"', at_once=True)
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
SERVERS: dict[str, Dialect] = {"llama-server": LlamaServer(), "vllm": VLLM(), "openai": OpenAI()}
PROMPTS = [Prompt(ids=[1]), Prompt(text="a"), Prompt(turns=(("user", "a"),))]


def request(constraint: Constraint, **more: Any) -> GenerateRequest:
    return GenerateRequest(id="r", prompt=(1,), max_tokens=8, constraint=constraint, **more)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("kind", "constraint", "sent"),
    [
        ("llama-server", SCHEMA, {"json_schema": {"type": "object"}}),
        ("llama-server", GBNF, {"grammar": 'root ::= "a"'}),
        ("vllm", SCHEMA, {"response_format": FORMAT}),
    ],
)
def test_passed_on(kind: str, constraint: Constraint, sent: dict[str, Any], prompt: Prompt) -> None:
    ask = SERVERS[kind].ask(request(constraint), prompt, None)
    assert ask.body.items() >= sent.items()


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("kind", "constraint", "names"),
    [
        ("llama-server", CALLS, "tool_choice"),
        ("vllm", GBNF, "grammar"),
        ("vllm", CALLS, "tool_choice"),
        ("openai", SCHEMA, "response_format, json_schema"),
        ("openai", GBNF, "grammar"),
        ("openai", CALLS, "tool_choice"),
    ],
)
def test_refused_by_name(kind: str, constraint: Constraint, names: str, prompt: Prompt) -> None:
    """A server never gets a request without its schema or grammar."""
    with pytest.raises(RequestError, match=f"not supported by a remote server .*: {names}"):
        SERVERS[kind].ask(request(constraint), prompt, None)


def test_token_healing_and_a_grammar_do_not_go_together() -> None:
    """llama-server takes one grammar."""
    with pytest.raises(RequestError, match="must_start_with"):
        LlamaServer().ask(request(GBNF, must_start_with="a"), Prompt(ids=[1]), None)
