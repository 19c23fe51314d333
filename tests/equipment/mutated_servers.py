"""OpenAI-compatible servers that answer wrongly in every way that fuzzing finds: events and fields
changed, bytes flipped, compressed, cut, or never ended. Over real connections on loopback.
"""

# ruff: noqa: E501

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from assistant.engine.remote import RemoteEngine
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec
from assistant.errors import UnderkeelError
from assistant.settings import RemoteSettings

Kind = Literal["auto", "llama-server", "vllm", "openai"]
KINDS: tuple[Kind, ...] = ("openai", "vllm", "llama-server", "auto")
_LIMIT_S = 10.0
_MOST_TEXT = 128 << 20

Json = dict[str, Any]
_ODD: tuple[Any, ...] = (None, True, False, 0, -1, 1.5, 2**63, 1e308, "", "x", "\ud800", [], {}, [None],
                         {"text": []}, [[[]]], "4096", "-5", "\x00\x1b[2J", "é" * 500, {"": {"": None}})  # fmt: skip
_RAW = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-0",
    b"1" * 400,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xff\xfe",
    b"",
)
_LINES = (b": a comment\n", b"event: message\n", b"id: 7\n", b"retry: 1\n", b"data\n", b"data:\n\n", b"\n\n",
          b"data: [DONE]\n\n", b"data: null\n\n", b"data: []\n\n", b"data: 5\n\n", b"data: {}\n\n", b"\xef\xbb\xbf",
          b"data: \xc3\x28\n\n", b"\x00", b"DATA: x\n\n", b"data: {\"error\": null}\n\n")  # fmt: skip
_ERRORS: tuple[Any, ...] = ("out of memory", {"message": "gone", "code": 500}, {"message": None}, ["x"], 5, {}, True,
           {"message": {"a": 1}}, {"message": "maximum context length is 4096", "code": "400"}, {"code": 10**30})  # fmt: skip


@dataclass(frozen=True)
class Script:
    """One answer: what is written in pieces, and whether the connection is then reset."""

    pieces: tuple[bytes, ...]
    reset: bool


def _events(rng: random.Random) -> list[Json]:
    words = rng.choices(
        ["def ", "f", "(n):", "\n", " return", "é", "😀", "", " n"], k=rng.randint(0, 6)
    )
    reason = rng.choice(["stop", "length", "abort", None])
    kind = rng.randrange(4)
    if kind == 0:
        found = [{"content": word, "tokens": [rng.randrange(300)], "stop": False} for word in words]
        timings = {
            "cache_n": 2,
            "prompt_n": 3,
            "prompt_ms": 1.5,
            "predicted_n": 2,
            "predicted_ms": 2,
        }
        return [*found, {"content": "", "stop": True, "stop_type": "eos", "timings": timings}]
    last: Json = {"choices": [{"text": "", "finish_reason": reason}]}
    if kind == 1:
        found = [{"choices": [{"delta": {"content": word}, "index": 0}]} for word in words]
        last = {"choices": [{"delta": {}, "finish_reason": reason}]}
    else:
        found = [{"id": "c", "choices": [{"text": word, "token_ids": [1]}]} for word in words]
    details = {"cached_tokens": 1}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": details}
    return [*found, last, {"choices": [], "usage": usage}]


def _mutated(rng: random.Random, value: Any) -> Any:
    """A copy with one place of it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        copy, key = dict(value), rng.choice(list(value))
        action = rng.random()
        if action < 0.2:
            del copy[key]
        elif action < 0.3:
            copy[key + "s"] = copy.pop(key)
        elif action < 0.4:
            copy["error"] = rng.choice(_ERRORS)
        else:
            copy[key] = _mutated(rng, copy[key])
        return copy
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _mutated(rng, value[at]), *value[at + (rng.random() < 0.8) :]]
    return rng.choice(_ODD)


def _encoded(rng: random.Random, value: Any) -> bytes:
    try:
        data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except ValueError:
        data = b"{}"
    if rng.random() < 0.03:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(_RAW) + data[at:]
    return data


def _body(rng: random.Random) -> bytes:
    events = _events(rng)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        at = rng.randrange(len(events))
        events[at] = _mutated(rng, events[at])
    if rng.random() < 0.1:
        return _encoded(rng, rng.choice(events))  # it does not stream
    end = rng.choice([b"\n", b"\n", b"\n", b"\r\n", b"\r"])
    lines = [
        b"data:" + rng.choice([b" ", b"", b" "]) + _encoded(rng, one) + end + end for one in events
    ]
    lines += [b"data: [DONE]" + end + end] * rng.choice([0, 1, 1, 1, 2])
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_LINES))
    if rng.random() < 0.1:
        rng.shuffle(lines)
    return b"".join(lines)


def _damaged(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice([0, 0, 0, 0, 1, 2])):
        at = rng.randrange(len(data) + 1)
        action = rng.randrange(4)
        if action == 0:
            data = data[:at]
        elif action == 1:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif action == 2:
            data = data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:]
        else:
            data = data[:at] + data[at : at + 60] * rng.choice([2, 3, 200]) + data[at:]
    return data


def script(rng: random.Random, body: bytes | None = None) -> Script:
    """One answer with its head, transfer coding, compression and end; of `body` if given."""
    data = _damaged(rng, _body(rng) if body is None else body)
    if rng.random() < 0.004:
        data = b"data: " + b"x" * (17 << 20)  # an event that is too long
    status = rng.choice([b"200 OK"] * 30 + [b"201 Created", b"204 No Content", b"302 Found", b"400 Bad Request",
                        b"401 X", b"404 X", b"429 X", b"500 X", b"503 X", b"199 X", b"99999 X"])  # fmt: skip
    kind = rng.choice(
        [b"text/event-stream", b"application/json", b"", b"text/html; charset=nonsense"]
    )
    head = [b"HTTP/1.1 " + status, b"Content-Type: " + kind]
    if rng.random() < 0.1:
        head.append(
            b"Content-Encoding: "
            + rng.choice([b"gzip", b"gzip", b"gzip", b"deflate", b"br", b"nonsense"])
        )
        data = rng.choice(
            [gzip.compress(data), gzip.compress(data)[:-9], data, gzip.compress(b"\0" * (8 << 20))]
        )
    if rng.random() < 0.03:
        head.append(
            rng.choice(
                [
                    b"Retry-After: -5",
                    b"Location: //x",
                    b"X: " + b"y" * 200_000,
                    b"no colon",
                    b"\xff: \xff",
                ]
            )
        )
    framing = rng.random()
    if framing < 0.5:
        head.append(b"Transfer-Encoding: chunked")
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 6)))
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]
        coded = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
        coded.append(rng.choice([b"0\r\n\r\n"] * 8 + [b"", b"zz\r\n", b"5\r\nab"]))
        data = b"".join(coded)
    elif framing < 0.8:
        wrong = rng.choice([0] * 8 + [-3, 5])
        head.append(b"Content-Length: %d" % max(len(data) + wrong, 0))
    whole = b"\r\n".join(head) + b"\r\n\r\n" + data
    if rng.random() < 0.02:
        whole = rng.choice(
            [b"", b"\r\n\r\n", b"SSH-2.0-x\r\n", b"HTTP/9 200\r\n\r\n", whole[: rng.randrange(60)]]
        )
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.choice([0, 0, 1, 3, 20])))
    pieces = tuple(whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    return Script(pieces, reset=rng.random() < 0.1)


class Mutated:
    """A server that gives the scripts of `answers`, each once, to requests for an answer.

    Attributes:
        answers: by path, what is answered next; the recorded description where there is none.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Script] = {}
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            if "content-length: " in head:
                await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
            path = head.split(" ")[1].partition("?")[0]
            found = self.answers.get(path) or self.answers.get("*")
            if found is None or path not in _GENERATING | set(self.answers):
                found = Script((_plain(path),), reset=False)
            for piece in found.pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            if not found.reset:
                await writer.drain()
            else:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


_GENERATING = {"/v1/completions", "/v1/chat/completions", "/completion"}


def description(path: str) -> Any:
    """What a sound server says of itself."""
    if path == "/v1/models":
        meta = {"n_vocab": 300, "n_ctx": 4096, "n_ctx_train": 4096}
        return {"data": [{"id": "m", "owned_by": "llamacpp", "max_model_len": 4096, "meta": meta}]}
    if path == "/props":
        settings = {"n_ctx": 4096}
        return {
            "default_generation_settings": settings,
            "total_slots": 1,
            "model_path": "/x/m.gguf",
        }
    return {"tokens": [1, 2, 3], "content": "x", "prompt": "x"}


def _plain(path: str) -> bytes:
    if path in {"/detokenize", "/slots", "/metrics"}:
        return b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    body = json.dumps(description(path)).encode()
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


@asynccontextmanager
async def mutated_server() -> AsyncIterator[Mutated]:
    server = Mutated()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 22)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield server


async def engine_for(server: Mutated, kind: Kind) -> RemoteEngine:
    """An engine that the server described itself to soundly."""
    server.answers.clear()
    engine = RemoteEngine(RemoteSettings(url=server.url, kind=kind, retries=0, model="m"))
    await engine.load(LoadSpec(path=""))
    return engine


async def answer_of(engine: RemoteEngine, server: Mutated, made: Script, *, chat: bool) -> str:
    """How an answer ended: "done", an error's code, or "WRONG" and what was not allowed."""
    server.answers = {"*": made}
    assert engine._http is not None
    engine._http._breaker.succeeded()  # each answer is judged for itself
    turns = (("user", "hello"),) if chat else ()
    request = GenerateRequest(id="r", prompt=(1, 2, 3), max_tokens=16, turns=turns)
    size, done = 0, False
    try:
        async with asyncio.timeout(_LIMIT_S):
            async for item in engine.generate(request):
                assert not done, "something follows the end"
                if isinstance(item, Delta):
                    size += len(item.text)
                    item.text.encode()
                done = isinstance(item, Done)
    except UnderkeelError as error:
        str(error).encode()
        return error.code
    except BaseException as error:
        return f"WRONG {type(error).__name__}: {error}"[:300]
    if not done or size > _MOST_TEXT:
        return f"WRONG end: done={done}, {size} characters"
    return "done"


async def load_of(server: Mutated, rng: random.Random) -> str:
    """As `answer_of`, of a server whose descriptions are mutated."""
    paths = ["/v1/models", "/props", "/tokenize", "/metrics", "/detokenize"]
    server.answers = {}
    for path in rng.sample(paths, rng.randint(1, 3)):
        value = description(path)
        for _ in range(rng.randint(0, 3)):
            value = _mutated(rng, value)
        body = _encoded(rng, value)
        sound = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        made = Script((sound,), reset=False)
        server.answers[path] = made if rng.random() < 0.6 else script(rng, body)
    settings = RemoteSettings(
        url=server.url, kind=rng.choice(KINDS), retries=0, model=rng.choice(["", "m"])
    )
    engine = RemoteEngine(settings)
    try:
        async with asyncio.timeout(_LIMIT_S):
            info = await engine.load(LoadSpec(path=""))
            assert info.n_ctx >= 0 and isinstance(info.name, str)
            await engine.tokenise("a <|x|>", special=True)
            await engine._look()
            await engine.stats()
    except UnderkeelError as error:
        str(error).encode()
        return error.code
    except BaseException as error:
        return f"WRONG {type(error).__name__}: {error}"[:300]
    finally:
        await engine.close()
    return "done"


async def fuzz(seed: int, count: int) -> dict[str, Any]:
    """`count` answers and descriptions, and how they ended; "wrong" has what was not allowed."""
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    async with mutated_server() as server:
        engines = [await engine_for(server, kind) for kind in KINDS]
        for number in range(count):
            if rng.random() < 0.15:
                end = await load_of(server, rng)
            else:
                engine, chat = rng.choice(engines), rng.random() < 0.4
                end = await answer_of(engine, server, script(rng), chat=chat)
            ends[end.partition(" ")[0]] += 1
            if end.startswith("WRONG"):
                wrong.append(f"{number}: {end}")
        for engine in engines:
            await engine.close()
    return {"streams": count, "seed": seed, "ends": dict(ends), "wrong": wrong}
