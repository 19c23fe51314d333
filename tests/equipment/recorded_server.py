"""A small real HTTP server that speaks as llama-server, vLLM and OpenAI's servers do.

What it answers was recorded from llama-server (llama-cpp-python 0.3.36's llama.cpp) and vLLM
0.32.0; tokens come of the starter model's vocabulary, which gives the ids that llama.cpp gives. It
can misbehave in every way that a server on a network does.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from assistant.models.vocabulary import Vocabulary, load

Json = dict[str, Any]


@dataclass
class Behaviour:
    """How the server fares.

    Attributes:
        statuses: answered to the next generating requests instead of an answer.
        cut_after: so many pieces, then the connection breaks; -1 for never.
        token_s: how long a token takes.
        key: wanted as a bearer token; empty for none.
        metrics: what /metrics says.
        slots: whether /slots and /tokenize are there.
        raw: the whole body of every answer, as it is sent; empty for the recorded one.
        models: the body of /v1/models; empty for no such route, None for the recorded one.
        refuses: a field that makes a request a bad one.
        bos, eos: the tokens that llama-server puts before and after a text; -1 for none.
        tells_words: whether llama-server says how large its vocabulary is.
    """

    statuses: list[int] = field(default_factory=list)
    cut_after: int = -1
    token_s: float = 0.0
    key: str = ""
    metrics: str = ""
    tokenises: bool = True
    retry_after: str = ""
    raw: bytes = b""
    models: bytes | None = None
    refuses: str = ""
    bos: int = -1
    eos: int = -1
    tells_words: bool = True


class RecordedServer:
    """Serves in a thread of its own until the block ends.

    Attributes:
        asked: the body of every generating request, in order, with its path under "path".
        named: the model in the query of each /props.
        hung_up: how many streams the client closed before their end.
        reply: the text of an answer.
    """

    def __init__(
        self,
        kind: str,
        vocabulary: Path,
        *,
        n_ctx: int = 4096,
        certificate: tuple[Path, Path] | None = None,
        reply: Callable[[Json], str] = lambda _: " fibonacci(n - 1)\n",
        port: int = 0,
    ) -> None:
        self.kind = kind
        self.words: Vocabulary = load(vocabulary)
        self.vocabulary = vocabulary
        self.n_ctx = n_ctx
        self.reply = reply
        self.behaviour = Behaviour()
        self.asked: list[Json] = []
        self.tokenised: list[Json] = []
        self.named: list[str] = []
        self.hung_up = 0
        self.model = "qwen2.5-coder-0.5b"
        config = uvicorn.Config(
            Starlette(routes=self._routes()),
            host="127.0.0.1",
            port=port,
            log_config=None,
            timeout_graceful_shutdown=1,
            ssl_certfile=str(certificate[0]) if certificate else None,
            ssl_keyfile=str(certificate[1]) if certificate else None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._scheme = "https" if certificate else "http"

    @property
    def port(self) -> int:
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def _routes(self) -> list[Route]:
        post = ["POST"]
        routes = [Route("/v1/models", self._models), Route("/metrics", self._metrics)]
        routes.append(Route("/v1/completions", self._completions, methods=post))
        routes.append(Route("/v1/chat/completions", self._chat, methods=post))
        if self.kind != "openai":
            routes.append(Route("/tokenize", self._tokenize, methods=post))
            routes.append(Route("/detokenize", self._detokenize, methods=post))
        if self.kind == "llama-server":
            routes.append(Route("/props", self._props))
            routes.append(Route("/slots", self._slots))
            routes.append(Route("/completion", self._completion, methods=post))
        return routes

    # What is reported.

    async def _models(self, request: Request) -> Response:
        if refused := self._locked(request):
            return refused
        if self.behaviour.models is not None:
            found = self.behaviour.models
            return Response(found, 200 if found else 404, media_type="application/json")
        entry: Json = {"id": self.model, "object": "model", "created": 1795546484}
        if self.kind == "llama-server":
            meta = {"vocab_type": 2, "n_vocab": self.words.size, "n_ctx": self.n_ctx}
            if not self.behaviour.tells_words:
                del meta["n_vocab"]
            meta |= {"n_ctx_train": 32768, "n_params": 630167424, "size": 485452288}
            entry |= {"owned_by": "llamacpp", "meta": meta}
        elif self.kind == "vllm":
            entry |= {"owned_by": "vllm", "root": "/nowhere/model", "max_model_len": self.n_ctx}
        else:
            entry |= {"owned_by": "somebody"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def _props(self, request: Request) -> Response:
        if refused := self._locked(request):
            return refused
        self.named.append(request.query_params.get("model", ""))
        return JSONResponse(
            {
                "default_generation_settings": {"n_ctx": self.n_ctx},
                "total_slots": 1,
                "model_path": "/nowhere/qwen2.5-coder-0.5b.gguf",
                "chat_template": "{{ messages[0].content }}",
            }
        )

    async def _slots(self, _: Request) -> Response:
        return JSONResponse([{"id": 0, "n_ctx": self.n_ctx, "is_processing": False}])

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse(self.behaviour.metrics)

    async def _tokenize(self, request: Request) -> Response:
        if not self.behaviour.tokenises:
            return Response(status_code=404)
        body = await request.json()
        self.tokenised.append(body)
        ids: list[int]
        if self.kind == "vllm":
            ids = self._special(body["prompt"])
            return JSONResponse({"count": len(ids), "max_model_len": self.n_ctx, "tokens": ids})
        content = body["content"]
        parts = content if isinstance(content, list) else [content]
        ids = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                special = body.get("parse_special", True)
                ids += self._special(part) if special else self.words.encode(part)
        if body.get("add_special"):
            around = [[one] if one >= 0 else [] for one in (self.behaviour.bos, self.behaviour.eos)]
            ids = [*around[0], *ids, *around[1]]
        if not body.get("with_pieces"):
            return JSONResponse({"tokens": ids})
        return JSONResponse({"tokens": [{"id": i, "piece": self._piece(i)} for i in ids]})

    def _piece(self, token: int) -> str | list[int]:
        content = self.words.decode_bytes([token])
        if content.startswith(b"[PAD"):
            return ""
        try:
            return content.decode()
        except UnicodeDecodeError:
            return list(content)

    def _special(self, text: str) -> list[int]:
        for mark, token in self.words.control.items():
            if mark in text:
                before, _, after = text.partition(mark)
                return [*self._special(before), token, *self._special(after)]
        return self.words.encode(text)

    async def _detokenize(self, request: Request) -> Response:
        body = await request.json()
        key = "prompt" if self.kind == "vllm" else "content"
        return JSONResponse({key: self.words.decode(body["tokens"])})

    # What is answered.

    def _locked(self, request: Request) -> Response | None:
        key = self.behaviour.key
        if not key or request.headers.get("authorization") == f"Bearer {key}":
            return None
        error = {"message": "Invalid API Key", "type": "authentication_error", "code": 401}
        return JSONResponse({"error": error}, 401)

    async def _asked(self, request: Request) -> tuple[Json, Response | None]:
        body = await request.json()
        if refused := self._locked(request):
            return body, refused
        self.asked.append(body | {"path": request.url.path})
        if self.behaviour.refuses in body:
            said = f"Unrecognized request argument: {self.behaviour.refuses}"
            if self.behaviour.refuses == "max_tokens":
                said += ". Use 'max_completion_tokens' instead."
            return body, JSONResponse({"error": {"message": said}}, 400)
        if self.behaviour.raw:
            kind = "application/json" if self.behaviour.raw[:1] == b"{" else "text/event-stream"
            return body, Response(self.behaviour.raw, media_type=kind)
        if self.behaviour.statuses:
            status = self.behaviour.statuses.pop(0)
            error = {"message": "the test wants it so", "type": "server_error", "code": status}
            headers = {"Retry-After": self.behaviour.retry_after or "0"}
            return body, JSONResponse({"error": error}, status, headers)
        prompt = body.get("prompt", [])
        if isinstance(prompt, list) and len(prompt) > self.n_ctx:
            return body, JSONResponse(self._too_long(len(prompt)), 400)
        return body, None

    def _too_long(self, count: int) -> Json:
        if self.kind == "llama-server":
            said = (
                f"request ({count} tokens) exceeds the available context size ({self.n_ctx} tokens)"
            )
            return {"error": {"code": 400, "message": said, "type": "exceed_context_size_error"}}
        said = f"This model's maximum context length is {self.n_ctx} tokens. However, your prompt"
        return {"error": {"message": said, "type": "BadRequestError", "code": 400}}

    def _text(self, body: Json) -> str:
        """The answer within the request's limits; a grammar's start is kept to."""
        text = self.reply(body)
        if grammar := body.get("grammar", ""):
            start = json.loads(grammar[grammar.index('"') : grammar.rindex('"') + 1])
            text = start + text
        for stop in body.get("stop", []):
            text = text.partition(stop)[0]
        return text

    async def _completion(self, request: Request) -> Response:
        body, refused = await self._asked(request)
        if refused:
            return refused
        n_prompt = len(body["prompt"])
        ids = self.words.encode(self._text(body))[: body["n_predict"]]

        async def events() -> AsyncIterator[Json]:
            for number, token in enumerate(ids, 1):
                yield {
                    "index": 0,
                    "content": self.words.decode([token]),
                    "tokens": [token],
                    "stop": False,
                    "id_slot": -1,
                    "tokens_predicted": number,
                    "tokens_evaluated": n_prompt,
                }
            timings = {"cache_n": 2, "prompt_n": n_prompt - 2, "prompt_ms": 10.0}
            timings |= {"predicted_n": len(ids), "predicted_ms": 20.0}
            whole = len(ids) < body["n_predict"]
            yield {
                "index": 0,
                "content": "",
                "tokens": [],
                "stop": True,
                "stop_type": "eos" if whole else "limit",
                "stopping_word": "",
                "timings": timings,
            }

        return self._stream(events(), marker=False)

    async def _completions(self, request: Request) -> Response:
        body, refused = await self._asked(request)
        return refused or self._openai(body, lambda text: {"text": text})

    async def _chat(self, request: Request) -> Response:
        body, refused = await self._asked(request)
        return refused or self._openai(body, lambda text: {"delta": {"content": text}})

    def _openai(self, body: Json, choice: Callable[[str], Json]) -> Response:
        most = body.get("max_tokens") or body["max_completion_tokens"]
        ids = self.words.encode(self._text(body))[:most]
        prompt = body.get("prompt", "")
        n_prompt = len(prompt) if isinstance(prompt, list) else len(self.words.encode(prompt))

        async def events() -> AsyncIterator[Json]:
            base = {"id": "cmpl-1", "object": "text_completion", "model": self.model}
            for number, token in enumerate(ids, 1):
                ended = number == len(ids)
                reason = None
                if ended:
                    reason = "length" if number == body["max_tokens"] else "stop"
                entry: Json = {
                    "index": 0,
                    "logprobs": None,
                    "finish_reason": reason,
                    "stop_reason": None,
                }
                if self.kind == "vllm":
                    entry["token_ids"] = [token]
                yield base | {"choices": [entry | choice(self.words.decode([token]))]}
            usage: Json = {"prompt_tokens": n_prompt, "completion_tokens": len(ids)}
            usage |= {"prompt_tokens_details": {"cached_tokens": 1}}
            yield base | {"choices": [], "usage": usage}

        return self._stream(events(), marker=True)

    def _stream(self, events: AsyncIterator[Json], *, marker: bool) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            ended = False
            try:
                count = 0
                async for event in events:
                    if count == self.behaviour.cut_after:
                        raise ConnectionError("the test cuts the connection")
                    await asyncio.sleep(self.behaviour.token_s)
                    yield f"data: {json.dumps(event)}\n\n".encode()
                    count += 1
                if marker:
                    yield b"data: [DONE]\n\n"
                ended = True
            finally:
                self.hung_up += not ended

        return StreamingResponse(lines(), media_type="text/event-stream")
