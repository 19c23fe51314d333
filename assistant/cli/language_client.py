"""The smallest editor there is: speaks LSP to our language server over its stdin and stdout."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from assistant.errors import DaemonError, RequestError

Message = dict[str, Any]

_METHOD_NOT_FOUND = -32601
_STOP_LIMIT_S = 5.0


class LanguageClient:
    """A client of one language server.

    Attributes:
        on_notification: called with the method and the params of each notification.
        told: all notifications so far, oldest first.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        on_notification: Callable[[str, Any], None] | None = None,
    ) -> None:
        self.on_notification = on_notification
        self.told: list[tuple[str, Any]] = []
        self.process = process
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._reader = asyncio.create_task(self._read())

    async def initialise(
        self,
        *,
        encodings: tuple[str, ...] = ("utf-8",),
        options: Any = None,
        progress: bool = True,
        experimental: Mapping[str, Any] | None = None,
    ) -> Any:
        """Initialise the server; returns its capabilities."""
        capabilities: Message = {
            "general": {"positionEncodings": list(encodings)},
            "textDocument": {"inlineCompletion": {}, "synchronization": {}},
            "window": {"workDoneProgress": progress},
        }
        if experimental is not None:
            capabilities["experimental"] = dict(experimental)
        result = await self.request(
            "initialize",
            {
                "processId": None,
                "rootUri": None,
                "capabilities": capabilities,
                "initializationOptions": options,
            },
        )
        self.notify("initialized", {})
        return result

    def open(self, uri: str, text: str, language: str, version: int = 1) -> None:
        """Open a document."""
        document = {"uri": uri, "languageId": language, "version": version, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})

    def send_completion(
        self,
        uri: str,
        line: int,
        character: int,
        *,
        invoked: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> tuple[int, asyncio.Future[Message]]:
        """Request ghost text at a position; returns the id of the request and its response."""
        params = {
            "textDocument": {"uri": uri},
            "position": {"line": line, "character": character},
            "context": {"triggerKind": 1 if invoked else 2, **(context or {})},
        }
        return self.send("textDocument/inlineCompletion", params)

    async def complete(
        self, uri: str, line: int, character: int, *, invoked: bool = False
    ) -> list[Message]:
        """The items at a position."""
        _, response = self.send_completion(uri, line, character, invoked=invoked)
        result = _result(await response)
        items: list[Message] = result["items"] if isinstance(result, dict) else result or []
        return items

    async def request(self, method: str, params: Any = None) -> Any:
        """Send a request and wait for its result.

        Raises:
            RequestError: the server answered with an error.
            DaemonError: the server ended.
        """
        return _result(await self.send(method, params)[1])

    def send(self, method: str, params: Any = None) -> tuple[int, asyncio.Future[Message]]:
        """Send a request; returns its id and the response that will come."""
        number = next(self._ids)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._write({"id": number, "method": method, "params": params})
        return number, future

    def cancel(self, number: int) -> None:
        """Cancel a request."""
        self.notify("$/cancelRequest", {"id": number})

    def notify(self, method: str, params: Any = None) -> None:
        """Send a notification."""
        self._write({"method": method, "params": params})

    async def stop(self) -> int:
        """Leave the server as the protocol says; kills one that does not go. Returns its code."""
        try:
            async with asyncio.timeout(_STOP_LIMIT_S):
                if self.process.returncode is None:
                    await self.request("shutdown")
                    self.notify("exit")
                return await self.process.wait()
        except (TimeoutError, RequestError, DaemonError, ConnectionError):
            if self.process.returncode is None:
                self.process.kill()
            return await self.process.wait()
        finally:
            self._reader.cancel()

    def _write(self, message: Message) -> None:
        if self.process.stdin is None or self.process.stdin.is_closing():
            raise _ended()
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async def _read(self) -> None:
        stream = self.process.stdout
        try:
            while stream is not None and (header := await stream.readuntil(b"\r\n\r\n")):
                length = int(header.partition(b"Content-Length:")[2].split()[0])
                self._take(json.loads(await stream.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(_ended())

    def _take(self, message: Message) -> None:
        if "method" not in message:
            future = self._waiting.pop(message["id"], None)
            if future is not None and not future.done():
                future.set_result(message)
        elif "id" in message:
            self._answer(message)
        else:
            self.told.append((message["method"], message.get("params")))
            if self.on_notification is not None:
                self.on_notification(message["method"], message.get("params"))

    def _answer(self, message: Message) -> None:
        if message["method"] == "window/workDoneProgress/create":
            self._write({"id": message["id"], "result": None})
        else:
            error = {"code": _METHOD_NOT_FOUND, "message": "this client cannot do that"}
            self._write({"id": message["id"], "error": error})


async def start_server(
    env: Mapping[str, str] | None = None, stderr: int | None = None
) -> asyncio.subprocess.Process:
    """Start `underkeel lsp`; the caller talks to the process and ends it."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lsp",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=env,
        limit=1 << 26,
    )


@asynccontextmanager
async def language_server(
    on_notification: Callable[[str, Any], None] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> AsyncIterator[LanguageClient]:
    """Run `underkeel lsp` for the length of the block, and be its client."""
    client = LanguageClient(await start_server(env, stderr), on_notification)
    try:
        yield client
    finally:
        await client.stop()


def _result(message: Message) -> Any:
    error = message.get("error")
    if error is not None:
        raise RequestError(error.get("message", "the language server refused the request"))
    return message.get("result")


def _ended() -> DaemonError:
    return DaemonError(
        "the language server has ended", advice="Run: underkeel lsp, and see what it says"
    )
