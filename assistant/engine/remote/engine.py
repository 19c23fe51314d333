"""The engine that sends requests to a server; the same contract as the one that holds a model.

A remote server has its own queue, but not our priorities. So requests yield here, before they enter
that queue: one answer for each document, and ghost text before everything else. The kind of server
is found out from the server itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from assistant.engine.remote.dialect import (
    Answered,
    Ask,
    Dialect,
    Gauge,
    Piece,
    Prompt,
    find_vocabulary,
    unsupported,
)
from assistant.engine.remote.llama_server import LlamaServer
from assistant.engine.remote.openai import (
    NO_LIST,
    VLLM,
    OpenAI,
    listed_models,
    named_entry,
    stop_ids,
)
from assistant.engine.remote.transport import Transport, wait_for_key
from assistant.engine.types import (
    Counting,
    Delta,
    Done,
    EngineStats,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
    Priority,
    Progress,
    StopReason,
    StopTexts,
)
from assistant.errors import (
    ContextFullError,
    EngineError,
    LoadError,
    RemoteError,
    RequestError,
    UnderkeelError,
)
from assistant.models import token_estimate, vocabulary
from assistant.settings import RemoteSettings


@dataclass(eq=False)
class Lane:
    """One request in flight. `left` is set when it is to end."""

    request: GenerateRequest
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Lanes:
    """The requests in flight at one server.

    Attributes:
        parallel: how many the server answers at once; 0 where nobody knows.
    """

    def __init__(self, parallel: int = 0) -> None:
        self.parallel = parallel
        self._lanes: list[Lane] = []

    def __len__(self) -> int:
        return len(self._lanes)

    @contextmanager
    def enter(self, request: GenerateRequest) -> Iterator[Lane]:
        """Take a lane; requests that must yield to this one are cancelled."""
        lane = Lane(request)
        for other in self._giving_way(request):
            other.left.set()
        self._lanes.append(lane)
        try:
            yield lane
        finally:
            self._lanes.remove(lane)

    def _giving_way(self, request: GenerateRequest) -> list[Lane]:
        same = [
            lane
            for lane in self._lanes
            if request.document and lane.request.document == request.document
        ]
        full = bool(self.parallel) and len(self._lanes) - len(same) >= self.parallel
        if request.priority is Priority.BACKGROUND or not full:
            return same
        idle = [lane for lane in self._lanes if lane.request.priority is Priority.BACKGROUND]
        return [*same, *(lane for lane in idle if lane not in same)]


_BY_OWNER = {"llamacpp": "llama-server", "underkeel": "llama-server", "vllm": "vllm"}


async def dialect_for(remote: RemoteSettings, http: Transport) -> Dialect:
    """The dialect that the settings name, or that the server's list of models shows.

    Raises:
        RemoteError: the server cannot be reached, or answers with something else.
    """
    kind = remote.kind
    if kind == "auto":
        try:
            listed = listed_models(await http.get("/v1/models"), http.server)
        except NO_LIST:
            listed = []
        entry = named_entry(listed, remote.model)
        owners = [one.owned_by.lower() for one in (entry, *listed) if one is not None]
        owner = next(filter(None, owners), "")
        kind = _BY_OWNER.get(owner, "openai")  # type: ignore[assignment]
    if kind == "llama-server":
        return LlamaServer(remote.model)
    if kind == "vllm":
        return VLLM(remote.model, remote.n_ctx)
    return OpenAI(remote.model, remote.n_ctx)


log = logging.getLogger(__name__)

# Fields that improve an answer. A server may refuse them: then the request is sent without.
_OPTIONAL = ("stream_options", "seed", "return_token_ids", "add_special_tokens", "min_p", "top_k")
_NEW_LIMIT = "max_completion_tokens"
"""OpenAI's newer name of `max_tokens`, which some models insist on."""
_GAUGE_S = 1.0
_GAUGE_OLD_S = 10.0


class RemoteEngine:
    """One model of one server, as an `assistant.engine.types.ElasticEngine`.

    It uses no memory of this machine for a model, so there is none to give back.
    """

    def __init__(self, remote: RemoteSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is read or requested before `load`."""
        self._remote = remote
        self._clock = clock
        self._http: Transport | None = None
        self._dialect: Dialect | None = None
        self._info: ModelInfo | None = None
        self._words: vocabulary.Vocabulary | None = None
        self._estimate = token_estimate.Estimate()
        self._bos = ""  # what the server itself puts before a text
        self._lanes = Lanes(remote.parallel)
        self._refused: set[str] = set()
        self._totals = EngineStats()
        self._gauge, self._gauge_at_s = Gauge(), float("-inf")
        self._gauging: asyncio.Task[None] | None = None

    # The Engine contract.

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:  # noqa: ARG002
        """Find out the server's kind and model. `spec` is about this machine and is not used.

        Raises:
            SettingsError: the address, the key, the certificates or the tokenizer cannot be used.
            RemoteError: the server cannot be reached, or has no such model.
        """
        started = self._clock()
        http = await self._connected()
        dialect = await dialect_for(self._remote, http)
        info = await dialect.describe(http)
        if progress is not None:
            progress(0.5)
        found = await find_vocabulary(self._remote, dialect, http, info)
        self._words = await asyncio.to_thread(vocabulary.load, found) if found else None
        self._bos = ""
        if info.add_bos and not found:
            self._bos = await dialect.detokenise(http, [info.bos]) or ""
        self._dialect = dialect
        self._info = self._described(info, http, str(found or ""), started)
        self._lanes.parallel = self._remote.parallel or (
            info.n_seq_max if dialect.name == "llama-server" else 0
        )
        log.info(
            "remote kind=%s counting=%s n_ctx=%d", dialect.name, self._info.counting, info.n_ctx
        )
        if progress is not None:
            progress(1.0)
        return self._info

    async def describe(self) -> ModelInfo:
        if self._info is None:
            raise LoadError("the server is not connected yet", advice="Load first")
        return self._info

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        dialect, http = self._ready()
        if self._words is None:
            return self._estimated(text, special=special)
        if not special:
            return await asyncio.to_thread(self._words.encode, text)
        asked = await dialect.tokenise(http, text, special=True)
        return asked if asked is not None else _with_special(self._words, text)

    async def detokenise(self, tokens: Sequence[int]) -> str:
        self._ready()
        if self._words is None:
            return self._estimate.decode(tokens)
        try:
            return self._words.decode(tokens)
        except IndexError as error:
            raise RequestError("a token is not of the model's vocabulary") from error

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        dialect, http = self._ready()
        started = self._clock()
        if request.logprobs is not None:
            raise unsupported(dialect.name, "logprobs")
        if not request.max_tokens and not dialect.warms:
            yield Done(id=request.id, reason=StopReason.LENGTH)
            return
        with self._lanes.enter(request) as lane:
            answer = Answered(request, self._clock, started)
            ends = stop_ids(request, self._words)
            stops = StopTexts(request.stop if len(request.stop) > dialect.most_stops else ())
            asked = self._asked(request, dialect)
            if asked.must_start_with != request.must_start_with:
                yield answer.said(Piece(request.must_start_with))
            ask = dialect.ask(asked, self._prompt(request, asked), self._words)
            reason, ended = StopReason.CANCELLED, False
            pieces = self._pieces(http, dialect, ask, lane, started)
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        if isinstance(piece, StopReason):
                            reason = piece
                            break
                        last = answer.take(piece)
                        if request.max_tokens and (piece.text or piece.tokens):
                            if ends and not ends.isdisjoint(piece.tokens):
                                reason = StopReason.EOS
                                break
                            text, stop = stops.add(piece.text)
                            if text or piece.tokens:
                                yield answer.said(Piece(text, piece.tokens))
                            if stop:
                                reason = StopReason.STOP_TEXT
                                answer.take(Piece(reason=reason, stop_text=stop))
                                break
                        reason = last or reason
                        if last is not None and answer.complete:
                            break
                    else:
                        if reason is StopReason.CANCELLED and request.max_tokens:
                            raise RemoteError(
                                "the server ended its answer without a reason",
                                subject=http.server,
                                advice="See its log",
                            )
                ended = True
            except UnderkeelError as error:
                if reason is StopReason.CANCELLED:
                    raise
                ended = True  # the answer was whole before
                log.info("an error of kind %s after the end of an answer", error.code)
            finally:
                # Also after the caller has cancelled, or the server has failed.
                done = answer.done(reason if ended else StopReason.CANCELLED)
                self._totals = self._totals.after(done)
            if rest := stops.rest():
                yield answer.said(Piece(rest))
            yield done

    async def stats(self) -> EngineStats:
        """Our own counters, and the server's gauge of at most a second ago. Never waits for it."""
        info = self._info
        if info is None:
            return EngineStats()
        if self._clock() - self._gauge_at_s > _GAUGE_S and (
            self._gauging is None or self._gauging.done()
        ):
            self._gauging = asyncio.create_task(self._look())
        old = self._clock() - self._gauge_at_s > _GAUGE_OLD_S
        gauge = Gauge() if old else self._gauge
        return replace(
            self._totals,
            cells_total=info.n_ctx,
            running=len(self._lanes),
            waiting=gauge.waiting,
            free_share=gauge.free_share,
        )

    async def close(self) -> None:
        if self._gauging is not None:
            self._gauging.cancel()
            await asyncio.gather(self._gauging, return_exceptions=True)
        http, self._http, self._info = self._http, None, None
        if http is not None:
            await http.aclose()

    async def drop_idle(self) -> int:
        return 0

    async def touch(self) -> int:
        return 0

    async def reshape(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:  # noqa: ARG002
        return await self.describe()

    async def unload(self) -> None:
        """Does nothing: no model is in this machine's memory."""

    async def alive(self) -> bool:
        """Whether the server answers now; False while the circuit breaker blocks requests."""
        try:
            http = await self._connected()
            await dialect_for(replace(self._remote, kind="auto"), http)
        except EngineError:
            return False
        return True

    async def _connected(self) -> Transport:
        if self._http is None:
            key = await wait_for_key(self._remote)
            self._http = Transport(self._remote, key, clock=self._clock)
        return self._http

    def _ready(self) -> tuple[Dialect, Transport]:
        if self._info is None or self._dialect is None or self._http is None:
            raise LoadError("the server is not connected yet", advice="Load first")
        return self._dialect, self._http

    def _described(self, info: ModelInfo, http: Transport, found: str, started: float) -> ModelInfo:
        n_ctx = self._remote.n_ctx or info.n_ctx
        if not found:
            n_ctx -= int(n_ctx * token_estimate.MARGIN_SHARE)
        return replace(
            info,
            path="",
            server=http.server,
            n_ctx=n_ctx,
            n_vocab=self._words.size if self._words else 0,
            # A text gets the server's own BOS, whose id means another token of an estimate.
            add_bos=info.add_bos and bool(found),
            bos=info.bos if found else -1,
            vocabulary=found,
            counting=Counting.EXACT if found else Counting.ESTIMATE,
            family=self._remote.family,
            load_ms=(self._clock() - started) * 1000,
        )

    def _estimated(self, text: str, *, special: bool) -> list[int]:
        return _with_special(self._estimate, text) if special else self._estimate.encode(text)

    def _asked(self, request: GenerateRequest, dialect: Dialect) -> GenerateRequest:
        """The request for this server: without token healing, typed text goes into the prompt."""
        if request.must_start_with and not dialect.heals:
            return replace(request, must_start_with="")
        return request

    def _prompt(self, request: GenerateRequest, asked: GenerateRequest) -> Prompt:
        if request.turns:
            return Prompt(turns=request.turns)
        counter = self._words or self._estimate
        typed = request.must_start_with if not asked.must_start_with else ""
        ids = [*request.prompt, *(counter.encode(typed) if typed else ())]
        if self._words is not None:
            return Prompt(ids=ids)
        return Prompt(text=self._estimate.decode(ids).removeprefix(self._bos))  # one BOS (case S21)

    async def _pieces(
        self,
        http: Transport,
        dialect: Dialect,
        ask: Ask,
        lane: Lane,
        started: float,
    ) -> AsyncGenerator[Piece | StopReason, None]:
        """The pieces of the answer, and a stop reason if it is ended from our side."""
        limit_s = lane.request.time_limit_ms / 1000

        async def first() -> tuple[AsyncGenerator[bytes, None], bytes | None]:
            if "max_tokens" in self._refused:
                ask.body[_NEW_LIMIT] = ask.body["max_tokens"]
            body = {name: value for name, value in ask.body.items() if name not in self._refused}
            stream = http.stream(ask.path, body)
            try:
                return stream, await anext(stream, None)
            except (RequestError, RemoteError) as error:
                await stream.aclose()
                named = {name for name in _OPTIONAL if name in body and name in error.message}
                if _NEW_LIMIT in error.message and "max_tokens" in body:
                    named = {"max_tokens"}
                if not named and isinstance(error, RequestError) and not _names_field(error, body):
                    named = {name for name in _OPTIONAL if name in body}
                if not named or isinstance(error, ContextFullError):
                    raise
                log.info(
                    "the server refused fields; the request is sent again without %s",
                    ", ".join(named),
                )
                self._refused |= named
                return await first()
            except BaseException:
                await stream.aclose()
                raise

        left = asyncio.ensure_future(lane.left.wait())
        coming: asyncio.Future[Any] = asyncio.ensure_future(http.tried(first, limit_s))
        stream: AsyncGenerator[bytes, None] | None = None
        try:
            while True:
                remaining = max(started + limit_s - self._clock(), 0) if limit_s else None
                waited: set[asyncio.Future[Any]] = {left, coming}
                await asyncio.wait(waited, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    yield StopReason.CANCELLED if left.done() else StopReason.TIME
                    return
                result = coming.result()
                if stream is None:
                    assert isinstance(result, tuple)
                    stream, result = result
                if result is None:
                    return
                assert isinstance(result, bytes)
                yield dialect.read(result)
                if left.done():
                    yield StopReason.CANCELLED
                    return
                coming = asyncio.ensure_future(anext(stream, None))
        finally:
            left.cancel()
            coming.cancel()
            await asyncio.gather(left, coming, return_exceptions=True)
            if stream is not None:
                await stream.aclose()

    async def _look(self) -> None:
        try:
            dialect, http = self._ready()
            self._gauge = await dialect.gauge(http)
            self._gauge_at_s = self._clock()
        except EngineError as error:
            log.info("no gauge: %s", error.code)
            self._gauge_at_s = max(self._gauge_at_s, self._clock() - _GAUGE_OLD_S)


def _names_field(error: UnderkeelError, body: Mapping[str, Any]) -> bool:
    return any(name in error.message for name in body)


def _with_special(counter: vocabulary.Vocabulary | token_estimate.Estimate, text: str) -> list[int]:
    """Token ids of a text with its control tokens; for servers that do not tokenise."""
    ids: list[int] = []
    plain = 0
    texts = sorted(counter.special, key=len, reverse=True)
    at = 0
    while at < len(text):
        found = next((one for one in texts if one and text.startswith(one, at)), None)
        if found is None:
            at += 1
            continue
        ids += [*counter.encode(text[plain:at]), counter.special[found]]
        at = plain = at + len(found)
    return ids + counter.encode(text[plain:])
