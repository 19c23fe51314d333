"""HTTP as the daemon speaks it: bounded bodies, errors as JSON, answers that end with their client.

Foreign exceptions of msgspec and starlette are mapped into our tree here.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from assistant.daemon.http import request_fields
from assistant.daemon.http.ollama_api import OllamaBody
from assistant.daemon.http.response_formats import error_object, openai_error
from assistant.errors import (
    AccessError,
    EngineError,
    OverloadedError,
    RequestError,
    TooLargeError,
    TooSlowError,
    UnderkeelError,
)
from assistant.settings import DaemonSettings
from assistant.wire import CLIENT_HEADER, GenerateBody

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)
B = TypeVar("B", bound=GenerateBody | OllamaBody)

_LONGEST_NAME = 64

_BODY_LIMIT_S = 30.0
_LAST_WORDS_S = 5.0
ABORT = "underkeel.abort"
"""The key in an ASGI scope of a function that ends the connection at once."""


class Intake:
    """Bounds the bytes of all request bodies that are held at once, from the first one on."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0

    def hold(self) -> Held:
        return Held(self)


class Held:
    """What one request holds of an intake."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._bytes = 0

    def add(self, count: int) -> None:
        """Raises OverloadedError where all requests together would hold too much."""
        if self._intake.held_bytes + count > self._intake.most_bytes:
            raise OverloadedError("too much is being sent at once", advice="Try again in a second")
        self._bytes += count
        self._intake.held_bytes += count

    def release(self) -> None:
        """Safe to call twice."""
        self._intake.held_bytes -= self._bytes
        self._bytes = 0


class Json(Response):
    """A JSON answer; bytes are written by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def error_response(
    error: UnderkeelError,
    *,
    body_read: bool = False,
    write: Callable[[UnderkeelError], Any] = error_object,
    headers: Mapping[str, str] | None = None,
) -> Json:
    """
    Args:
        body_read: the request has come whole, so its connection can serve the next one.
        write: makes the object of the error.
        headers: more of them.
    """
    headers = dict(headers or {})
    if error.http_status in {429, 503}:
        headers["Retry-After"] = "1"
    if not body_read and isinstance(error, TooLargeError | TooSlowError | OverloadedError):
        # What is left of the body must not be waited for.
        headers["Connection"] = "close"
    return Json(write(error), status_code=error.http_status, headers=headers)


def unexpected(error: BaseException) -> UnderkeelError:
    """What is reported of an exception that nobody foresaw; the log keeps the rest."""
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return UnderkeelError(
        f"unexpected {type(error).__name__} in the daemon", advice="Run: underkeel logs"
    )


async def read_body(request: Request, kind: type[T], held: Held, *, limit_bytes: int) -> T:
    """The body as `kind`. It is counted in `held` until that is released.

    Raises:
        RequestError: it is not JSON of that kind, larger than `limit_bytes`, or too slow.
        OverloadedError: with all other bodies it would be too much.
    """
    try:
        async with asyncio.timeout(_BODY_LIMIT_S):
            data = await _collect(request, held, limit_bytes)
    except TimeoutError as error:
        raise TooSlowError(f"the request did not come within {_BODY_LIMIT_S:.0f} s") from error
    except ClientDisconnect as error:
        raise RequestError("the client went away") from error
    try:
        raw = msgspec.json.decode(data or b"{}")
        return msgspec.convert(request_fields.checked(raw, kind), kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise RequestError(f"the request is invalid: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the request is not JSON: {error}") from error


async def _collect(request: Request, held: Held, limit_bytes: int) -> bytes:
    too_large = TooLargeError(
        f"the request is larger than {limit_bytes} bytes", advice="Send less of the file"
    )
    with suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > limit_bytes:
            raise too_large
    data = bytearray()
    async for part in request.stream():
        held.add(len(part))
        data += part
        if len(data) > limit_bytes:
            raise too_large
    return bytes(data)


@asynccontextmanager
async def within(limit_s: float) -> AsyncIterator[None]:
    """Raises EngineError where the block takes longer."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise _late(limit_s) from error


def _late(limit_s: float) -> EngineError:
    return EngineError(
        f"the answer took longer than {limit_s:.0f} s",
        advice="Ask for fewer tokens, or raise daemon.request_limit_s",
    )


@dataclass(frozen=True)
class Framing:
    """How one API writes a stream and its errors.

    Attributes:
        event: the bytes of an item.
        end: what comes after the last one.
        error: the object of an error; error_event: the same within a stream.
    """

    event: Callable[[Any], bytes]
    error: Callable[[UnderkeelError], Any]
    error_event: Callable[[UnderkeelError], Any]
    end: bytes = b""
    media_type: str = "text/event-stream"


def _server_sent(item: Any) -> bytes:
    return b"data: " + msgspec.json.encode(item) + b"\n\n"


def _named_event(item: Any) -> bytes:
    return b"event: " + str(item["type"]).encode() + b"\n" + _server_sent(item)


def _stream_error(error: UnderkeelError) -> dict[str, Any]:
    written = openai_error(error)["error"]
    told = {"code": str(written["code"]), "message": written["message"], "param": None}
    return {"type": "error", "sequence_number": 0, **told}


def _message_only(error: UnderkeelError) -> dict[str, Any]:
    return {"error": str(error)}


NATIVE = Framing(_server_sent, error_object, error_object)
OPENAI = Framing(_server_sent, openai_error, openai_error, end=b"data: [DONE]\n\n")
RESPONSES = Framing(_named_event, openai_error, _stream_error)
OLLAMA = Framing(
    lambda item: msgspec.json.encode(item) + b"\n",
    _message_only,
    _message_only,
    media_type="application/x-ndjson",
)


class EventStream(Response):
    """Sends what `produce` yields, and stops producing when the client goes away.

    The first item decides between success and error, so the status is sent only after it. With
    `stream` the items go out one by one; without, the only item is the JSON answer.
    """

    def __init__(
        self,
        produce: Callable[[], AsyncGenerator[Any, None]],
        *,
        stream: bool,
        framing: Framing,
        limit_s: float,
        after: Callable[[], None] = lambda: None,
        more_headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """
        Args:
            limit_s: the longest an answer may take.
            after: called when the answer has ended, however it did.
            more_headers: called when the answer starts.
        """
        super().__init__()
        self._produce = produce
        self._stream = stream
        self._framing = framing
        self._limit_s = limit_s
        self._after = after
        self._more_headers = more_headers
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(scope, receive, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also when the server cancels us: whatever happens, the engine is set free.
            for task in (pump, gone):
                task.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)
            self._after()

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._limit_s), aclosing(self._produce()) as items:
                async for item in items:
                    if not self._stream:
                        self._started = True
                        headers = dict(self._more_headers())
                        await Json(item, headers=headers)(scope, receive, send)
                        return
                    await self._send(send, self._framing.event(item))
                if self._framing.end:
                    await self._send(send, self._framing.end)
        except Exception as raised:
            error = self._mapped(raised)
            if not self._started:
                answer = error_response(
                    error,
                    body_read=True,
                    write=self._framing.error,
                    headers=self._more_headers(),
                )
                await answer(scope, receive, send)
                return
            await self._finish(scope, send, error)
            return
        await self._finish(scope, send)

    async def _finish(self, scope: Scope, send: Send, error: UnderkeelError | None = None) -> None:
        """End the stream. A client that does not read its end loses the connection (case T15)."""
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                if not self._stream:
                    raise TimeoutError
                if error is not None:
                    content = self._framing.error_event(error)
                    await self._send(send, self._framing.event(content))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.info("a client stopped reading: its connection is closed")
            if ABORT in scope:
                scope[ABORT]()

    async def _send(self, send: Send, data: bytes) -> None:
        if not self._started:
            self._started = True
            media_type = self._framing.media_type.encode()
            headers = [(b"content-type", media_type), (b"cache-control", b"no-store")]
            more = self._more_headers().items()
            headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in more]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data, "more_body": True})

    def _mapped(self, error: Exception) -> UnderkeelError:
        if isinstance(error, UnderkeelError):
            return error
        return _late(self._limit_s) if isinstance(error, TimeoutError) else unexpected(error)


class Posts:
    """Endpoints of requests with a body: it is read within the limits, and counted until its answer
    is sent."""

    def __init__(
        self,
        intake: Intake,
        settings: Callable[[], DaemonSettings],
        headers: Callable[[], Mapping[str, str]],
    ) -> None:
        """`headers`: those of every answer that is streamed or may be."""
        self._intake = intake
        self._settings = settings
        self._headers = headers

    async def stream(
        self,
        request: Request,
        kind: type[B],
        produce: Callable[[B, str], AsyncGenerator[Any, None]],
        *,
        framing: Framing,
    ) -> Response:
        """An answer whose parts `produce` yields, given the body and the client's name.

        Args:
            framing: see `EventStream`.
        """
        held = self._intake.hold()
        try:
            body = await self._body(request, kind, held)
        except UnderkeelError as error:
            held.release()
            return error_response(error, write=framing.error)
        except BaseException:
            held.release()
            raise
        return EventStream(
            lambda: produce(body, _client(request)),
            stream=body.stream,
            framing=framing,
            limit_s=self._settings().request_limit_s,
            after=held.release,
            more_headers=self._headers,
        )

    async def whole(
        self, request: Request, kind: type[T], answer: Callable[[T, str], Awaitable[Any]]
    ) -> Response:
        """An answer in one piece."""
        held = self._intake.hold()
        try:
            body = await self._body(request, kind, held)
            async with within(self._settings().request_limit_s):
                return Json(await answer(body, _client(request)))
        finally:
            held.release()

    async def _body(self, request: Request, kind: type[T], held: Held) -> T:
        return await read_body(request, kind, held, limit_bytes=self._settings().max_body_bytes)


def _client(request: Request) -> str:
    """What a client calls itself, for a fair share of the queue."""
    return request.headers.get(CLIENT_HEADER, "")[:_LONGEST_NAME]


class TokenGate:
    """Lets through what came over a Unix socket, and over TCP only what shows the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._may_enter(scope):
            error = AccessError(
                "this address requires a token",
                advice="Send it as 'Authorization: Bearer ...'; it stands in the address file",
            )
            answer = error_response(error)
            answer.headers["WWW-Authenticate"] = "Bearer"
            answer.headers["Connection"] = "close"  # whatever body follows is not read
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_enter(self, scope: Scope) -> bool:
        server = scope.get("server")
        if server is not None and server[1] is None:  # the path of a Unix socket
            return True
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        if self._wanted is None or len(shown) != 1:
            return False
        return hmac.compare_digest(shown[0], self._wanted)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
