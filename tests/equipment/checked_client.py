"""A client of the language server that holds every message, of both sides, to the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from conformance import Conformance

from assistant.cli.language_client import LanguageClient, Message, start_server

# What an editor like VS Code says it can do; a test takes away what it wants missing.
CAPABILITIES: Message = {
    "general": {"positionEncodings": ["utf-16"]},
    "textDocument": {
        "inlineCompletion": {},
        "synchronization": {},
        "codeAction": {
            "codeActionLiteralSupport": {"codeActionKind": {"valueSet": ["", "quickfix"]}},
            "dataSupport": True,
            "resolveSupport": {"properties": ["edit"]},
        },
    },
    "workspace": {
        "applyEdit": True,
        "workspaceEdit": {
            "documentChanges": True,
            "resourceOperations": ["create"],
            "changeAnnotationSupport": {},
        },
    },
    "window": {"workDoneProgress": True, "showDocument": {"support": True}},
    "experimental": {"underkeel": {"status": True, "explanation": True}},
}


class CheckedClient(LanguageClient):
    """Answers what the server asks by `answers`, and checks all that goes through.

    Attributes:
        answers: what to answer to a server's request, by method.
        asked: the server's requests so far, with their parameters.
        seen: how many messages were checked, by direction.
    """

    def __init__(self, *given: Any) -> None:
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.seen = {"to the server": 0, "to the client": 0}
        self.problems: list[str] = []
        self._conformance = Conformance()
        super().__init__(*given)

    async def begin(self, capabilities: Message | None = None, **given: Any) -> Any:
        """Shake hands as an editor with these capabilities."""
        params = {"processId": None, "rootUri": None, **given}
        params["capabilities"] = CAPABILITIES if capabilities is None else capabilities
        result = await self.request("initialize", params)
        self.notify("initialized", {})
        return result

    async def execute(self, command: str, argument: Message) -> Any:
        """Run a server command, and wait for its result."""
        params = {"command": command, "arguments": [argument]}
        return await self.request("workspace/executeCommand", params)

    async def actions(self, uri: str, span: Message, **context: Any) -> list[Message]:
        """The code actions at a range."""
        params = {
            "textDocument": {"uri": uri},
            "range": span,
            "context": {"diagnostics": [], **context},
        }
        found: list[Message] = await self.request("textDocument/codeAction", params)
        return found

    def events(self, id_: str) -> list[Message]:
        """What was notified of an explanation."""
        return [
            params
            for method, params in self.told
            if method == "underkeel/explanation" and params["id"] == id_
        ]

    def _write(self, message: Message) -> None:
        self._conformance.sent(message)
        self._check("to the server", message)
        super()._write(message)

    def _take(self, message: Message) -> None:
        self._check("to the client", message)
        super()._take(message)

    def _answer(self, message: Message) -> None:
        self.asked.append((message["method"], message.get("params")))
        answer = self.answers.get(message["method"])
        if answer is None:
            super()._answer(message)
        else:
            self._write({"id": message["id"], "result": answer(message.get("params"))})

    def _check(self, direction: str, message: Message) -> None:
        self.seen[direction] += 1
        try:
            self._conformance.check(message)
        except Exception as error:
            self.problems.append(f"{direction}: {message}: {error!r}")


@asynccontextmanager
async def checked_server(
    env: dict[str, str], capabilities: Message | None = None, **given: Any
) -> AsyncIterator[CheckedClient]:
    """A language server with a client that has shaken hands; no message may have been wrong."""
    client = CheckedClient(await start_server(env))
    try:
        await client.begin(capabilities, **given)
        yield client
        await asyncio.sleep(0)
        assert not client.problems, "\n".join(client.problems)
        assert min(client.seen.values()) > 1
    finally:
        await client.stop()
