"""A played model that holds conversations, behind a real daemon and a real language server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from checked_client import CheckedClient, checked_server
from daemons import Daemon, fake_model, serving
from fake_engine import FakeEngine

from assistant.daemon.loading import Loadable
from assistant.engine.types import GenerateRequest, ModelInfo, Priority
from assistant.models import vocabulary

ROOT = Path(__file__).resolve().parents[2]
_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class ChattingEngine(FakeEngine):
    """The fake engine with a chat template that a person can read."""

    async def describe(self) -> ModelInfo:
        return msgspec.structs.replace(await super().describe(), chat_template=_TEMPLATE)

    @property
    def asked(self) -> list[GenerateRequest]:
        """What somebody waits for. Work ahead of the user may come before, between and after."""
        return [made for made in self.requests if made.priority is not Priority.BACKGROUND]

    @property
    def chats(self) -> list[str]:
        """The prompts of all conversations so far."""
        prompts = [request.prompt for request in self.requests]
        texts = [bytes(ids).decode() for ids in prompts if max(ids) < 256]
        return [text for text in texts if text.startswith("<system>")]


Test = Callable[[CheckedClient, ChattingEngine], Awaitable[None]]
Reply = Callable[[GenerateRequest], str] | str


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def call(tool: str, /, **given: Any) -> str:
    """A tool call as the played model writes it."""
    return f"<tool_call>\n{json.dumps({'name': tool, 'arguments': given})}\n</tool_call>"


def played(model: Path, script: list[str]) -> ChattingEngine:
    """A model that answers with these lines in order."""
    lines = iter(script)

    def reply(_: GenerateRequest) -> str:
        return next(lines, "Done.")

    return ChattingEngine(reply=reply, n_vocab=vocabulary.load(model).size)


def large_context(model: Path) -> Loadable:
    """The played engine's tokens are bytes, so a conversation takes four times its real tokens."""
    made = fake_model(str(model))
    ladder = tuple(
        dataclasses.replace(rung, spec=msgspec.structs.replace(rung.spec, n_ctx=32_768))
        if rung.spec is not None
        else rung
        for rung in made.ladder
    )
    return dataclasses.replace(made, ladder=ladder)


def play(
    model: Path,
    test: Test,
    reply: Reply,
    capabilities: dict[str, Any] | None = None,
    **given: Any,
) -> None:
    """Run a test with a client of a language server whose model answers `reply`.

    Args:
        given: for `initialize`.
    """

    async def main() -> None:
        engine = ChattingEngine(
            reply=reply if callable(reply) else lambda _: reply,
            n_vocab=vocabulary.load(model).size,
        )
        async with (
            serving(engine, planner=lambda: fake_model(str(model))) as daemon,
            checked_server(environment(), capabilities, **given) as client,
        ):
            await test(client, engine)
            await _settled(daemon)

    asyncio.run(main())


async def _settled(daemon: Daemon) -> None:
    """Nothing that was asked for is left running."""
    await daemon.idle()


def at(text: str, mark: str, end: str | None = None) -> dict[str, Any]:
    """The LSP range from the start of `mark` in `text` to the end of `end`, which may be far; a
    cursor where there is none."""
    start = text.index(mark)
    stop = start if end is None else text.index(end, start) + len(end)
    return {"start": _position(text, start), "end": _position(text, stop)}


def _position(text: str, offset: int) -> dict[str, int]:
    line_start = text.rfind("\n", 0, offset) + 1
    units = len(text[line_start:offset].encode("utf-16-le")) // 2
    return {"line": text.count("\n", 0, offset), "character": units}


def edited(text: str, edit: dict[str, Any]) -> str:
    """`text` after one text edit, as an editor makes it."""
    lines = text.split("\n")
    start, end = edit["range"]["start"], edit["range"]["end"]

    def offset(position: dict[str, int]) -> int:
        before = sum(len(line) + 1 for line in lines[: position["line"]])
        head = lines[position["line"]].encode("utf-16-le")[: 2 * position["character"]]
        return before + len(head.decode("utf-16-le"))

    new: str = edit["newText"]
    return text[: offset(start)] + new + text[offset(end) :]
