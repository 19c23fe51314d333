"""Several answers to one prompt, and probabilities of tokens, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemons import Daemon, serving
from fake_engine import DEFAULT_REPLY, FakeEngine
from msgspec.structs import replace
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from assistant.daemon.http.response_formats import Answer, ChatFormat, TextFormat
from assistant.engine.types import Delta, GenerateRequest, ModelInfo, TokenLogprob
from assistant.engine.worker.job import AnswerText
from assistant.engine.worker.token_generation import logprob_of

ASKED = {"messages": [{"role": "user", "content": "say"}], "max_tokens": 30}


class Templated(FakeEngine):
    """The fake engine with a chat template."""

    async def describe(self) -> ModelInfo:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        return replace(await super().describe(), chat_template=template)


def run(
    body: Callable[[Daemon], Awaitable[None]], engine: FakeEngine | None = None, **options: Any
) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(engine or Templated(), **options) as daemon:
            await body(daemon)

    asyncio.run(main())


async def post(daemon: Daemon, path: str, **body: Any) -> Any:
    answer = await daemon.http.post(path, json=body)
    if not body.get("stream"):
        assert answer.status_code == 200, answer.text
        return answer.json()
    data = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]


def test_several_choices_evaluate_their_prompt_once(home: Path) -> None:
    """Whole and streamed. The last token of a prompt is evaluated for each, to sample after it."""
    engine = Templated()

    async def body(daemon: Daemon) -> None:
        found = await post(daemon, "/v1/chat/completions", **ASKED, n=3, seed=7)
        ChatCompletion.model_validate(found)
        prompt, answered = len(engine.requests[0].prompt), len(DEFAULT_REPLY.encode()) + 1
        assert [one["index"] for one in found["choices"]] == [0, 1, 2]
        assert {one["message"]["content"] for one in found["choices"]} == {DEFAULT_REPLY}
        assert found["usage"]["prompt_tokens"] == prompt
        assert found["usage"]["completion_tokens"] == 3 * answered
        assert found["timings"]["prompt_n"] == prompt + 2
        assert [one.sampling.seed for one in engine.requests] == [7, 8, 9]
        assert len({one.id for one in engine.requests}) == 3

        options = {"stream": True, "stream_options": {"include_usage": True}}
        *events, last = await post(daemon, "/v1/completions", prompt="abc", n=2, **options)
        texts = {0: "", 1: ""}
        for event in events:
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        assert set(texts.values()) == {DEFAULT_REPLY} and len({one["id"] for one in events}) == 1
        assert last["choices"] == [] and last["usage"]["completion_tokens"] == 2 * answered
        counted = await daemon.service.supervisor.stats()
        assert counted is not None and counted.evaluated_tokens == prompt + 2 + 3 + 1

    run(body, engine)


@pytest.mark.parametrize("n", [0, 17, -1, 1.5])
def test_a_number_of_choices_out_of_bounds_is_refused(home: Path, n: float) -> None:
    async def body(daemon: Daemon) -> None:
        answer = await daemon.http.post("/v1/chat/completions", json=ASKED | {"n": n})
        assert answer.status_code == 400 and "`$.n`" in answer.json()["error"]["message"]

    run(body)


def test_log_probabilities_of_a_chat(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        more = {"logprobs": True, "top_logprobs": 2}
        found = await post(daemon, "/v1/chat/completions", **ASKED, **more)
        [choice] = ChatCompletion.model_validate(found).choices
        assert choice.logprobs and choice.logprobs.content
        assert "".join(one.token for one in choice.logprobs.content) == DEFAULT_REPLY
        first = choice.logprobs.content[0]
        assert (first.logprob, first.bytes) == (-0.5, [ord("r")])
        assert [(one.token, one.logprob) for one in first.top_logprobs] == [
            ("r", -0.5),
            ("s", -1.5),
        ]

        events = await post(daemon, "/v1/chat/completions", **ASKED, logprobs=True, stream=True)
        said = ""
        for event in events:
            [part] = ChatCompletionChunk.model_validate(event).choices
            assert part.logprobs is not None
            for one in part.logprobs.content or ():
                assert one.top_logprobs == []
                said += one.token
        assert said == DEFAULT_REPLY

    run(body)


def test_log_probabilities_in_the_older_shape_and_in_llama_servers(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        found = await post(daemon, "/v1/completions", prompt="a", logprobs=1)
        [choice] = Completion.model_validate(found).choices
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == list(DEFAULT_REPLY)
        assert choice.logprobs.text_offset == list(range(len(DEFAULT_REPLY)))
        assert (choice.logprobs.top_logprobs or [])[0] == {"r": -0.5}
        events = await post(daemon, "/v1/completions", prompt="a", logprobs=0, stream=True)
        parts = [event["choices"][0]["logprobs"] for event in events]
        assert [at for part in parts for at in part["text_offset"]] == choice.logprobs.text_offset
        assert all(part["top_logprobs"] is None for part in parts)
        found = await post(daemon, "/completion", prompt="a", n_probs=1)
        first = found["completion_probabilities"][0]
        assert first["id"] == ord("r") and first["top_logprobs"][0]["id"] == ord("r")

    run(body)


def answer(*logprobs: TokenLogprob) -> Answer:
    request = GenerateRequest(id="r", prompt=(1,), max_tokens=9, logprobs=1)
    made = Answer(request=request, model=ModelInfo(name="m"), id="r")
    text = b"".join(one.text for one in logprobs).decode()
    made.add(Delta(id="r", text=text, logprobs=logprobs))
    return made


def test_tokens_that_are_parts_of_a_character() -> None:
    """Their bytes are exact, and offsets count characters."""
    euro = [TokenLogprob(n, bytes([byte]), -1.0) for n, byte in enumerate("€".encode())]
    letter = TokenLogprob(9, b"a", -0.1, (TokenLogprob(9, b"a", -0.1),))
    found = TextFormat().whole([answer(*euro, letter)])["choices"][0]["logprobs"]
    assert found["tokens"] == [r"bytes:\xe2", r"bytes:\x82", r"bytes:\xac", "a"]
    assert found["text_offset"] == [0, 1, 1, 1]
    content = ChatFormat().whole([answer(*euro, letter)])["choices"][0]["logprobs"]["content"]
    assert bytes(byte for one in content for byte in one["bytes"]).decode() == "€a"


def test_log_probabilities_are_the_log_softmax() -> None:
    logits = np.array([1.0, 3.0, -np.inf, 2.0], np.float32)
    found = logprob_of(3, logits, 2, lambda token: bytes([97 + token]))
    sure = float(np.exp(found.top[0].logprob))
    assert [one.token for one in found.top] == [1, 3] and found.text == b"d"
    assert sure + sum(np.exp(logprob_of(n, logits, 0, bytes).logprob) for n in (0, 3)) == (
        pytest.approx(1.0)
    )
    assert logprob_of(2, logits, 0, lambda _: b"").logprob == -9999.0
    assert [one.token for one in logprob_of(0, logits, 20, lambda _: b"").top] == [1, 3, 0, 2]


def test_a_stop_text_has_no_log_probabilities() -> None:
    """What was held back and turned out to be the stop text is not part of the answer."""
    text = AnswerText(["END"])
    said: list[TokenLogprob] = []
    for number, word in enumerate([b"ab", b"cE", b"N", b"D"]):
        text.tokens.append(number)
        text.logprobs.append(TokenLogprob(number, word, -1.0))
        new, stop = text.add(word)
        if new and (delta := text.report("r", new, stopped=bool(stop))):
            said += delta.logprobs
    last = text.report("r", "", stopped=True)
    assert [one.text for one in said] == [b"ab", b"cE"]
    assert last is not None and last.logprobs == () and last.tokens == (2, 3)
