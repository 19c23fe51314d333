"""Fields of requests: null, integral floats, unknown and unsupported ones (S3, S13, S20)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from assistant.daemon.http.request_fields import checked
from assistant.daemon.http.request_schemas import (
    ChatBody,
    DetokenizeBody,
    InfillBody,
    TextCompletionBody,
    TokenizeBody,
)
from assistant.errors import RequestError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


def chat(**fields: Any) -> ChatBody:
    return msgspec.convert(checked(CHAT | fields, ChatBody), ChatBody)


@pytest.mark.parametrize(
    "name",
    [*sorted(set(ChatBody.__struct_encode_fields__) - {"messages"}), "no_such_field"],
)
def test_null_is_the_default(name: str) -> None:
    """S3: for every field there is, and for those that are not supported."""
    assert chat(**{name: None}) == chat()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "seed", "n", "top_k"])
def test_an_integral_float_is_an_integer(name: str) -> None:
    """S3."""
    value = getattr(chat(**{name: 1.0}), name)
    assert value == 1 and isinstance(value, int)
    for wrong in (1.5, float("inf"), True, "1"):
        with pytest.raises(msgspec.ValidationError):
            chat(**{name: wrong})


def test_integral_floats_in_lists_of_tokens() -> None:
    """S3."""
    assert msgspec.convert(
        checked({"tokens": [1.0, 2]}, DetokenizeBody), DetokenizeBody
    ).tokens == [
        1,
        2,
    ]
    body = msgspec.convert(checked({"prompt": [1.0, "a"]}, TextCompletionBody), TextCompletionBody)
    assert body.prompt == (1, "a")
    assert chat(temperature=1).temperature == 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ignore_eos", True),
        ("best_of", 2),
        ("functions", [{}]),
        ("function_call", {"name": "f"}),
        ("mirostat", 2),
        ("samplers", ["top_k"]),
        ("structured_outputs", {"json": {}}),
        ("guided_json", {"type": "object"}),
        ("typical_p", 0.5),
        ("dry_multiplier", 0.8),
        ("audio", {"voice": "x"}),
        ("verbosity", "low"),
        ("temprature", 0.5),
        ("lora", [{"id": 0}]),
        ("stop_token_ids", [1]),
        ("repetition_penalty", 1.1),
        ("min_tokens", 5),
        ("skip_special_tokens", False),
        ("add_generation_prompt", 1),
        ("thinking", {"type": "enabled"}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, value: object) -> None:
    """S13: also a misspelt one."""
    with pytest.raises(RequestError, match=f"not supported: {name}"):
        chat(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 0),
        ("frequency_penalty", 0.0),
        ("logprobs", False),
        ("best_of", 1),
        ("tool_choice", "auto"),
        ("functions", []),
        ("mirostat", 0),
        ("user", "someone"),
        ("metadata", {"a": "b"}),
        ("id_slot", -1),
        ("timings_per_token", True),
        ("repetition_penalty", 1),
        ("length_penalty", 1.0),
        ("min_tokens", 0),
        ("skip_special_tokens", True),
        ("add_generation_prompt", True),
        ("dry_sequence_breakers", ["\n", ":", '"', "*"]),
        ("adaptive_target", -1),
        ("tfs_z", 1),
    ],
)
def test_what_changes_no_answer_is_accepted(name: str, value: object) -> None:
    """S13: clients send defaults."""
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, "audio"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "function_call"),
        ({"role": "user", "content": "x", "weight": 1}, "weight"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "extra": 1}]}, "extra"),
    ],
)
def test_fields_of_messages_are_refused_by_name_too(message: dict[str, Any], name: str) -> None:
    """S13."""
    with pytest.raises(RequestError, match=rf"messages\[0\].*{name}"):
        chat(messages=[message])
    blank = {key: value for key, value in message.items() if key != name} | {name: None}
    if "extra" not in str(message):
        chat(messages=[blank])


def test_every_kind_of_body_is_checked() -> None:
    """S13: siblings of the chat."""
    bodies: list[tuple[type[msgspec.Struct], dict[str, Any]]] = [
        (InfillBody, {"input_prefix": "a", "input_suffix": "b"}),
        (TextCompletionBody, {"prompt": "a"}),
        (TokenizeBody, {"content": "a"}),
        (DetokenizeBody, {"tokens": [1]}),
    ]
    for kind, body in bodies:
        msgspec.convert(checked(body, kind), kind)
        with pytest.raises(RequestError, match="not supported: unknown"):
            checked(body | {"unknown": 1}, kind)
    extra = {"input_prefix": "", "input_suffix": "", "input_extra": [{"text": "a", "path": "b"}]}
    with pytest.raises(RequestError, match=r"input_extra\[0\].path"):
        checked(extra, InfillBody)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}},
        {"role": "user", "content": "x", "id": "msg_1", "timestamp": 1.5},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"a": 1}}]},
    ],
)
def test_bookkeeping_of_messages_is_accepted(message: dict[str, Any]) -> None:
    """S13: some clients send the same messages to every maker."""
    chat(messages=[message])


@pytest.mark.parametrize(
    ("value", "seed"),
    [
        (2**32, 0),
        (2**63 - 1, 2**32 - 1),
        (1e18, 10**18 % 2**32),
        (-5, 2**32 - 5),
        (-1, -1),
        (7.0, 7),
    ],
)
def test_seeds_of_64_bits(value: float, seed: int) -> None:
    """S3: as OpenAI's clients draw them."""
    assert chat(seed=value).seed == seed


@pytest.mark.parametrize(
    "value",
    [{"5": 1}, {"5": 1.0}, [[5, 1]], [[5.0, 1.0]]],
)
def test_biases_with_integral_floats(value: Any) -> None:
    """S3."""
    raw = checked(CHAT | {"logit_bias": value}, ChatBody)
    body = msgspec.convert(raw, ChatBody, str_keys=True)
    assert dict(body.logit_bias) == {5: 1.0}


def test_many_and_long_stop_strings() -> None:
    """S20."""
    body = chat(stop=[f"stop {n}" for n in range(17)] + ["x" * 300])
    assert body.stop is not None and len(body.stop) == 18
    with pytest.raises(msgspec.ValidationError):
        chat(stop=["x"] * 10_000)
