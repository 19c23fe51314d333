"""From a text to the ids of its prompt."""

from __future__ import annotations

import asyncio

import pytest
from daemons import fake_model, until
from fake_engine import FakeEngine

from assistant.daemon.engine_supervisor import EngineSupervisor
from assistant.daemon.http.prompts import Encoder
from assistant.daemon.http.request_schemas import TokenizeBody
from assistant.engine.types import ModelInfo
from assistant.wire import PromptBody


@pytest.mark.parametrize(
    ("prompt", "add_bos", "ids"),
    [
        ("ab", True, [1, 97, 98]),
        ("\x01ab", True, [1, 97, 98]),
        ("\x01\x01ab", True, [1, 1, 97, 98]),
        ("ab", False, [97, 98]),
        ((1, 97), True, [1, 97]),
        (("a", 98), True, [97, 98]),
    ],
)
def test_a_text_has_one_bos(prompt: PromptBody, add_bos: bool, ids: list[int]) -> None:
    """S21: one that begins with it gets no second one; ids are taken as they are."""

    async def main() -> list[int]:
        supervisor = EngineSupervisor(FakeEngine(), fake_model)
        supervisor.start_load()
        await until(lambda: supervisor.info is not None)
        model = ModelInfo(name="fake", add_bos=add_bos, bos=1)
        found = await Encoder(supervisor).text(prompt, model)
        await supervisor.close()
        return found.ids

    assert asyncio.run(main()) == ids


@pytest.mark.parametrize(
    ("content", "parse_special", "bos", "ids"),
    [
        ("ab", True, 1, [1, 97, 98]),
        ("\x01ab", True, 1, [1, 97, 98]),
        ("", True, 1, [1]),
        ("ab", True, -1, [97, 98]),
    ],
)
def test_tokens_have_one_bos(content: str, parse_special: bool, bos: int, ids: list[int]) -> None:
    """S21: what /tokenize returns is a prompt; a vocabulary may say to add a BOS and have none."""

    async def main() -> list[list[int]]:
        supervisor = EngineSupervisor(FakeEngine(), fake_model)
        supervisor.start_load()
        await until(lambda: supervisor.info is not None)
        model = ModelInfo(name="fake", add_bos=True, bos=bos)
        encoder = Encoder(supervisor)
        body = TokenizeBody(content=content, add_special=True, parse_special=parse_special)
        found = [await encoder.tokens(body, model)]
        if content:
            found.append((await encoder.text(content, model)).ids)
        await supervisor.close()
        return found

    assert asyncio.run(main()) in ([ids], [ids, ids])


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_plain_text_alone_holds_no_control_token(add_bos: bool) -> None:
    """A client that leaves the encoding to the engine sends its BOS itself, if any."""

    async def main() -> list[int]:
        supervisor = EngineSupervisor(FakeEngine(), fake_model)
        supervisor.start_load()
        await until(lambda: supervisor.info is not None)
        model = ModelInfo(name="fake", add_bos=add_bos, bos=1)
        found = await Encoder(supervisor).text(("ab",), model, plain=True)
        await supervisor.close()
        return found.ids

    assert asyncio.run(main()) == [97, 98]
