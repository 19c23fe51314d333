"""llama-server's own protocol (llama.cpp, tools/server/README.md)."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from assistant.engine.remote.dialect import (
    Ask,
    Gauge,
    Piece,
    Prompt,
    count_of,
    decode,
    decode_object,
    fields,
    ids_of,
    objects,
    read_gauges,
    text_of,
    unsupported,
)
from assistant.engine.remote.failures import failure_in_stream
from assistant.engine.remote.openai import read_native
from assistant.engine.remote.transport import Transport
from assistant.engine.types import GenerateRequest, ModelInfo
from assistant.errors import RemoteError, UnderkeelError
from assistant.models.families import control_texts
from assistant.models.vocabulary import Vocabulary
from assistant.models.vocabulary_import import Words

_CONTROL = re.compile(r"<[|/]?[^<>\s]{1,40}[|]?>|\[/?[A-Z_]{3,40}\]|<\uff5c[^<>]{1,40}\uff5c>")
_MARK = b"\n"  # no control token has a line end
_BATCH = 50_000  # ids in one question about their bytes


class _Token(msgspec.Struct):
    id: int
    piece: str | list[int] = ""


class _Slot(msgspec.Struct):
    is_processing: bool = False
    n_ctx: int = 0
    n_prompt_tokens: int = 0


class LlamaServer:
    """Asks in token ids, reads timings and cache hits, heals tokens by a grammar."""

    name = "llama-server"
    heals = True
    warms = True
    most_stops = sys.maxsize

    def __init__(self, model: str = "") -> None:
        """`model`: the name to ask for, for a server that routes to several."""
        self._model = model

    async def describe(self, http: Transport) -> ModelInfo:
        told, listed = await asyncio.gather(http.get(self._of("/props")), http.get("/v1/models"))
        props = decode_object(told, http.server)
        entries = objects(decode_object(listed, http.server).get("data"))
        entry = next((one for one in entries if self._model in {"", text_of(one.get("id"))}), {})
        n_ctx = count_of(fields(props.get("default_generation_settings")).get("n_ctx"))
        if not n_ctx:
            raise self._no_model(http.server, [text_of(one.get("id")) for one in entries])
        meta = fields(entry.get("meta"))
        first, plain = await asyncio.gather(
            self._ids(http, {"content": "x", "add_special": True}),
            self._ids(http, {"content": "x"}),
        )
        add_bos = len(first) > len(plain) and first[1 : len(plain) + 1] == plain  # and not EOS
        path = text_of(props.get("model_path"))
        name = self._model or text_of(entry.get("id")) or path
        return ModelInfo(
            name=name.rpartition("/")[2].removesuffix(".gguf"),
            path=path,
            n_vocab=count_of(meta.get("n_vocab")),
            n_ctx=n_ctx,
            n_ctx_train=count_of(meta.get("n_ctx_train")),
            n_params=count_of(meta.get("n_params")),
            size_bytes=count_of(meta.get("size")),
            n_seq_max=max(count_of(props.get("total_slots")), 1),
            add_bos=add_bos,
            bos=first[0] if add_bos else -1,
            chat_template=text_of(props.get("chat_template")),
            tool_template=text_of(props.get("chat_template_tool_use")),
            special_tokens=tuple(
                (name, text)
                for name in ("bos_token", "eos_token")
                if (text := text_of(props.get(name)))
            ),
        )

    def _no_model(self, server: str, names: list[str]) -> RemoteError:
        if self._model and self._model in names:
            return RemoteError(
                f"the server has not loaded {self._model}", subject=server, advice="Load it there"
            )
        if names:
            shown = ", ".join(names[:20])
            what = f"has no model {self._model!r}" if self._model else "serves several models"
            return RemoteError(
                f"the server {what}",
                subject=server,
                advice=f"Name one under [remote]: model = ...; it has: {shown}",
            )
        return RemoteError("the server has no model", subject=server, advice="Load one there")

    def _of(self, path: str) -> str:
        """A path for the named model, on a server that routes to several (case S6)."""
        return f"{path}?{urlencode({'model': self._model})}" if self._model else path

    def _body(self, body: dict[str, Any]) -> dict[str, Any]:
        return body | {"model": self._model} if self._model else body

    async def words(self, http: Transport, info: ModelInfo) -> Words | None:
        """Its whole vocabulary: each id's bytes, and which of them plain text never becomes."""
        if not info.n_vocab:
            return None
        tokens: list[bytes] = []
        for start in range(0, info.n_vocab, _BATCH):
            ids = list(range(start, min(start + _BATCH, info.n_vocab)))
            body = self._body({"content": ids, "with_pieces": True})
            pieces = decode(await http.post("/tokenize", body), dict[str, list[_Token]]).get(
                "tokens", []
            )
            tokens += [
                one.piece.encode()
                if isinstance(one.piece, str)
                else bytes(n & 0xFF for n in one.piece)
                for one in pieces
            ]
        control, user = await self._kinds(http, tokens)
        return Words(
            name=info.name,
            tokens=tokens,
            control=control,
            user=user,
            bos=info.bos,
            add_bos=info.add_bos,
        )

    async def _kinds(
        self, http: Transport, tokens: Sequence[bytes]
    ) -> tuple[frozenset[int], frozenset[int]]:
        """Ids of control tokens, and of those that plain text becomes as a whole."""
        known = control_texts()
        likely: list[tuple[int, str]] = []
        for token, content in enumerate(tokens):
            text = content.decode("utf-8", "replace")
            if text in known or _CONTROL.fullmatch(text):
                likely.append((token, text))
        if not likely or _MARK not in tokens:
            return frozenset(), frozenset()
        mark = tokens.index(_MARK)
        special, plain = await asyncio.gather(
            self._each(http, likely, mark, special=True),
            self._each(http, likely, mark, special=False),
        )
        control = {token for token, _ in likely if special[token] == [token] != plain[token]}
        # A word that comes of merges becomes others beside other signs; a user's token does not.
        signs = [(token, f"={text}=") for token, text in likely if plain[token] == [token]]
        beside = await self._each(http, signs, mark, special=False) if signs else {}
        user = {token for token, _ in signs if token in beside[token]}
        return frozenset(control), frozenset(user)

    async def _each(
        self, http: Transport, likely: Sequence[tuple[int, str]], mark: int, *, special: bool
    ) -> dict[int, list[int]]:
        """What each text becomes by itself: one question, the texts kept apart by `mark`."""
        content: list[Any] = []
        for _, text in likely:
            content += [text, mark]
        found: dict[int, list[int]] = {token: [] for token, _ in likely}
        order = iter(found.values())
        group = next(order)
        for token in await self._ids(http, {"content": content, "parse_special": special}):
            if token == mark:
                group = next(order, [])
            else:
                group.append(token)
        return found

    async def tokenise(self, http: Transport, text: str, *, special: bool) -> list[int] | None:
        return await self._ids(http, {"content": text, "parse_special": special})

    async def detokenise(self, http: Transport, tokens: Sequence[int]) -> str | None:
        answer = await http.post("/detokenize", self._body({"tokens": list(tokens)}))
        return text_of(decode_object(answer, http.server).get("content"))

    def ask(self, request: GenerateRequest, prompt: Prompt, words: Vocabulary | None) -> Ask:  # noqa: ARG002
        sampling = request.sampling
        body: dict[str, Any] = {
            "prompt": list(prompt.ids) if prompt.ids is not None else prompt.text,
            "n_predict": request.max_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": sampling.repeat_last_n,
            "seed": sampling.seed,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            "stop": list(request.stop),
            "cache_prompt": request.cache,
            "return_tokens": True,
            "stream": True,
        }
        if request.must_start_with:
            body["grammar"] = f"root ::= {_literal(request.must_start_with)} [^\\x00]*"
        if sampling.logit_bias:
            body["logit_bias"] = [list(pair) for pair in dict(sampling.logit_bias).items()]
        body |= self._constraint(request)
        return Ask("/completion", self._body(body))

    def _constraint(self, request: GenerateRequest) -> dict[str, Any]:
        """Fields that keep the answer to the request's schema or grammar.

        Raises:
            RequestError: the server cannot apply it.
        """
        constraint = request.constraint
        if constraint is None:
            return {}
        if request.must_start_with:
            raise unsupported(self.name, "must_start_with together with a grammar or a schema")
        if constraint.json_schema:
            return {"json_schema": decode(constraint.json_schema.encode(), Any)}
        if constraint.gbnf:
            return {"grammar": constraint.gbnf}
        raise unsupported(self.name, "tool_choice")

    def read(self, data: bytes) -> Piece:
        if data.strip() in {b"", b"null"}:
            return Piece()  # sent to keep the connection
        event = decode_object(data)
        if event.get("error"):
            raise failure_in_stream(event["error"])
        return read_native(event)

    async def gauge(self, http: Transport) -> Gauge:
        """Its slots are each as long as its context: what counts is how many of them are taken."""
        try:
            slots = decode(await http.get(self._of("/slots")), list[_Slot], http.server)
        except UnderkeelError:
            slots = []  # started with --no-slots
        busy = [slot for slot in slots if slot.is_processing]
        waiting = 0
        try:
            found = read_gauges((await http.get(self._of("/metrics"))).decode("utf-8", "replace"))
            waiting = int(found.get("llamacpp:requests_deferred", 0))
        except UnderkeelError:
            pass  # started without --metrics
        return Gauge(
            running=len(busy), waiting=waiting, cells_used=sum(s.n_prompt_tokens for s in busy)
        )

    async def _ids(self, http: Transport, body: dict[str, Any]) -> list[int]:
        answer = await http.post("/tokenize", self._body(body))
        return ids_of(decode_object(answer, http.server).get("tokens"))


def _literal(text: str) -> str:
    """A text as llama.cpp's grammars write it (grammars/README.md)."""
    spelt = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(spelt.get(char, char) for char in text) + '"'
