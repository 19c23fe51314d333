"""What requests may say, and what becomes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.daemon.http.request_schemas import (
    ChatBody,
    TextCompletionBody,
    generate_request,
    prompt_parts,
)
from assistant.engine.types import ModelInfo
from assistant.errors import ContextFullError, RequestError
from assistant.wire import BudgetNow, CompletionRequest, GenerateBody

MODEL = ModelInfo(name="m", n_vocab=256, n_ctx=100)


@given(st.lists(st.one_of(st.integers(0, 255), st.text(min_size=1)), min_size=1, max_size=30))
def test_prompt_parts_keep_order_and_content(prompt: list[int | str]) -> None:
    texts = [item for item in prompt if isinstance(item, str)]
    if len(prompt) > 1 and len(texts) == len(prompt):
        with pytest.raises(RequestError):
            prompt_parts(tuple(prompt))
        return
    flat: list[int | str] = []
    for part in prompt_parts(tuple(prompt)):
        flat += [part] if isinstance(part, str) else part
    assert flat == prompt


@given(
    n_prompt=st.integers(1, 150),
    n_predict=st.integers(-1, 200),
    budget=st.one_of(st.none(), st.integers(0, 150)),
)
def test_a_request_never_exceeds_context_or_budget(
    n_prompt: int, n_predict: int, budget: int | None
) -> None:
    body = CompletionRequest(prompt=(1,) * n_prompt, max_tokens=n_predict)
    now = None if budget is None else BudgetNow(tokens=budget)
    try:
        request = generate_request(body, [1] * n_prompt, MODEL, now, request_limit_ms=1000)
    except ContextFullError:
        over_budget = budget is not None and n_prompt > budget
        no_room = n_prompt + (n_predict != 0) > MODEL.n_ctx
        assert over_budget or no_room
        return
    assert len(request.prompt) + request.max_tokens <= MODEL.n_ctx
    assert budget is None or len(request.prompt) <= budget
    assert n_predict < 0 or request.max_tokens <= n_predict


def test_budget_error_says_why() -> None:
    now = BudgetNow(tokens=3, level=2, reason="another program took 6 GiB")
    with pytest.raises(ContextFullError, match="took 6 GiB"):
        generate_request(CompletionRequest(prompt=""), [1] * 4, MODEL, now, request_limit_ms=0)


def test_time_limit_is_the_lower_of_both() -> None:
    def limit(asked: int, most: int) -> int:
        body = CompletionRequest(prompt="", time_limit_ms=asked)
        return generate_request(body, [1], MODEL, None, request_limit_ms=most).time_limit_ms

    assert [limit(0, 0), limit(5, 0), limit(0, 7), limit(5, 7), limit(9, 7)] == [0, 5, 7, 5, 7]


def test_seeds_are_random_only_where_none_was_given() -> None:
    def seed(**given: Any) -> int:
        body = CompletionRequest(prompt="", **given)
        request = generate_request(body, [1], MODEL, None, request_limit_ms=0)
        return request.sampling.seed

    assert seed(seed=42) == 42
    assert len({seed(), seed(seed=-1), seed(seed=2**32 - 1)}) == 3


@pytest.mark.parametrize(
    ("kind", "body", "name"),
    [
        (CompletionRequest, {"prompt": "a", "logit_bias": {5000000: 2}}, "vocabulary"),
        (TextCompletionBody, {"prompt": "a", "echo": True, "logprobs": 2}, "logprobs together"),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2},
            "top_logprobs without logprobs",
        ),
        (ChatBody, {"messages": [{"role": "u"}], "response_format": {"type": "x"}}, "format"),
    ],
)
def test_what_is_not_served_is_refused(
    kind: type[GenerateBody], body: dict[str, object], name: str
) -> None:
    with pytest.raises(RequestError, match=name):
        generate_request(msgspec.convert(body, kind), [1], MODEL, None, request_limit_ms=0)


def test_message_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = msgspec.convert({"messages": [{"role": "user", "content": parts}]}, ChatBody)
    assert body.messages[0].text() == "ab"
    parts[0]["type"] = "image_url"
    body = msgspec.convert({"messages": [{"role": "user", "content": parts}]}, ChatBody)
    with pytest.raises(RequestError, match="only text"):
        body.messages[0].text()


@pytest.mark.parametrize("tells", [True, False])
def test_tokens_that_nobody_tells_are_refused_by_name(tells: bool) -> None:
    """S14: a server of texts reports no ids; an empty list would be no answer."""
    model = msgspec.structs.replace(MODEL, server="http://there", tells_tokens=tells)
    plain = CompletionRequest(prompt="x", max_tokens=4)
    wanted = msgspec.structs.replace(plain, return_tokens=True)
    assert generate_request(plain, [1], model, None, request_limit_ms=0).prompt == (1,)
    if tells:
        assert generate_request(wanted, [1], model, None, request_limit_ms=0).prompt == (1,)
        return
    with pytest.raises(RequestError, match="return_tokens"):
        generate_request(wanted, [1], model, None, request_limit_ms=0)
