"""From a text to the ids of its prompt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
import tiny_models
from daemons import fake_model, until
from fake_engine import FakeEngine

from assistant.daemon.engine_supervisor import EngineSupervisor
from assistant.daemon.http.prompts import Encoder
from assistant.daemon.http.request_schemas import ChatBody, TokenizeBody
from assistant.daemon.loading import Loadable
from assistant.engine.local import LlamaEngine
from assistant.engine.types import LoadSpec, ModelInfo
from assistant.errors import RequestError
from assistant.memory.ladder import Rung
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


SAID = "{{ messages[0].content }}"
NAMED = [
    {"name": "default", "template": f"default:{SAID}"},
    {"name": "tool_use", "template": f"{{{{ tools[0].function.name }}}}:{SAID}"},
    {"name": "rag", "template": f"documents:{SAID}"},
]
UNSET = "{% if cls_token is defined %}no{% else %}unset{% endif %}"


@pytest.mark.parametrize(
    ("templates", "tools", "expected"),
    [
        (f"alone:{SAID}", False, "alone:hi"),
        (f"alone:{SAID}{{% if tools %}}{{{{ tools|length }}}}{{% endif %}}", True, "alone:hi1"),
        (NAMED, False, "default:hi"),
        (NAMED, True, "look:hi"),
        ([NAMED[0], NAMED[2]], False, "default:hi"),
        (NAMED[1:], True, "look:hi"),
        (NAMED[1:], False, "for conversations with tools only"),
        (NAMED[2:], False, "no chat template"),
        (
            f"{{{{ bos_token + eos_token + pad_token + unk_token }}}}{UNSET}:{SAID}",
            False,
            "<s></s></s><unk>unset:hi",
        ),
    ],
)
def test_the_template_that_the_model_has_for_a_conversation(
    tmp_path: Path, templates: str | list[dict[str, str]], tools: bool, expected: str
) -> None:
    """S4: Hugging Face's rule: `tool_use` where tools are given, else `default`; and the special
    tokens that the file names."""
    ids = {"padding": 2, "unknown": 0}
    file = tiny_models.sliding_window(tmp_path / "m.gguf", templates=templates, ids=ids)
    look = {"type": "function", "function": {"name": "look", "parameters": {}}}
    asked = {"messages": [{"role": "user", "content": "hi"}], "tools": [look] if tools else []}
    body = msgspec.convert(asked, ChatBody)

    async def main() -> str:
        spec = LoadSpec(path=str(file), n_ctx=512, n_threads=1)
        loadable = Loadable((Rung("plan", "plan", spec, {}),))
        supervisor = EngineSupervisor(LlamaEngine(), lambda: loadable)
        supervisor.start_load()
        await until(lambda: supervisor.info is not None)
        model = await supervisor.usable()
        try:
            found = await Encoder(supervisor).chat(body, model)
            return (await supervisor.detokenise(found.ids)).replace("\u2581", "")
        except RequestError as error:
            return str(error)
        finally:
            await supervisor.close()

    assert expected in asyncio.run(main())
