"""From a request's text to the token ids of its prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from assistant.daemon.http import chat_template, infill
from assistant.daemon.http.request_schemas import (
    ChatBody,
    InfillBody,
    TokenizeBody,
    prompt_parts,
)
from assistant.daemon.supervisor.engine_supervisor import ModelHost
from assistant.engine.types import ModelInfo
from assistant.errors import ModelError
from assistant.models import vocabulary
from assistant.wire import ChatMessage, PromptBody


@dataclass(frozen=True)
class Encoded:
    """A prompt as the engine wants it, the token ids that end its answer, and what was left out.

    `turns`: the conversation, where the engine's server writes it itself; the ids only count it.
    `of_text`: it can be encoded for any model; who sends token ids meant one.
    """

    ids: list[int]
    stop_tokens: tuple[int, ...] = ()
    cut: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    of_text: bool = True


class Encoder:
    """Encodes prompts for the model that `host` serves."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def text(self, prompt: PromptBody, model: ModelInfo) -> Encoded:
        """As llama-server does: a text alone may hold control tokens and gets its BOS; texts among
        token ids are plain, and the ids are taken as they are."""
        parts = prompt_parts(prompt)
        alone = len(parts) == 1
        ids: list[int] = []
        for part in parts:
            if isinstance(part, str):
                ids += await self._host.tokenise(part, special=alone)
            else:
                ids += part
        if alone and isinstance(parts[0], str) and model.add_bos and ids[:1] != [model.bos]:
            ids.insert(0, model.bos)
        return Encoded(ids, of_text=all(isinstance(part, str) for part in parts))

    async def chat(self, body: ChatBody, model: ModelInfo) -> Encoded:
        """A conversation in the model's own template."""
        messages = [message.message() for message in body.messages]
        if model.writes_chat and not model.chat_template:
            said = "\n".join(message.content for message in messages)
            turns = tuple((message.role, message.content) for message in messages)
            return Encoded(await self._host.tokenise(said), turns=turns)
        bos = await self._host.detokenise([model.bos]) if model.bos >= 0 else ""
        loop = asyncio.get_running_loop()
        pieces = await loop.run_in_executor(
            chat_template.EXECUTOR, _render, body, messages, model, bos
        )
        ids: list[int] = []
        for piece in pieces:
            ids += await self._host.tokenise(piece, special=True)
        if model.add_bos and ids[:1] != [model.bos]:
            ids.insert(0, model.bos)
        return Encoded(ids)

    async def infill(self, body: InfillBody, model: ModelInfo, room_tokens: int) -> Encoded:
        """A place in a file to fill, in the layout of the model's family."""
        ids, stop, cut = await asyncio.to_thread(infill.infill_ids, body, model, room_tokens)
        return Encoded(ids, stop, cut)

    async def tokens(self, body: TokenizeBody, model: ModelInfo) -> list[int]:
        """POST /tokenize."""
        ids = [model.bos] if body.add_special and model.add_bos else []
        for part in prompt_parts(body.content) if body.content else []:
            if isinstance(part, str):
                ids += await self._host.tokenise(part, special=body.parse_special)
            else:
                ids += part
        return ids


def _render(body: ChatBody, messages: list[ChatMessage], model: ModelInfo, bos: str) -> list[str]:
    """Reads the vocabulary for its control tokens, if it is one that can be read here."""
    control: Collection[str] = ()
    eos = ""
    if model.vocabulary_path:
        with suppress(ModelError):
            words = vocabulary.load(model.vocabulary_path)
            control = words.special
            eos = words.decode([words.eos]) if words.eos >= 0 else ""
    return chat_template.render(
        model.chat_template,
        messages,
        control=control,
        bos=bos,
        eos=eos,
        options=body.chat_template_kwargs,
    )
