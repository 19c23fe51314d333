"""A client of the language server that holds every message, of both sides, to the protocol.

What LSP 3.18 has a message for is read by lsprotocol's types, which are made from the protocol's
meta model, and written again: a field that is missing, of the wrong type or not of the protocol
shows. What is ours (editors/PROTOCOL.md) is held to the structs below.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
from lsprotocol import types
from lsprotocol.converters import get_converter

from assistant.cli.language_client import LanguageClient, Message, start_server

_CONVERTER = get_converter()


class _Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    pass


class Delta(_Strict, tag_field="kind", tag="delta"):
    id: str
    text: str


class Done(_Strict, tag_field="kind", tag="done"):
    id: str
    stop_reason: Literal["end", "limit", "cancelled"]


class Failed(_Strict, tag_field="kind", tag="error"):
    id: str
    text: str


class Explained(_Strict):
    """The result of `underkeel.explain`."""

    id: str
    text: str
    stop_reason: Literal["end", "limit", "cancelled"]


class Edited(_Strict):
    """The result of `underkeel.edit`."""

    applied: bool
    message: str


class Status(msgspec.Struct, rename="camel", kw_only=True):
    """The required fields of a status, and one that must be right where it is there."""

    state: Literal["starting", "loading", "ready", "busy", "error", "off"]
    message: str
    progress: float | None = None
    model: str | None = None


_OWN: dict[str, Any] = {"underkeel/explanation": Delta | Done | Failed, "underkeel/status": Status}
_RESULTS = {
    "underkeel.explain": Explained,
    "underkeel.edit": Edited,
    "underkeel.status": Status,
}

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
        self._sent: dict[int, Message] = {}
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
        if "method" in message and "id" in message:
            self._sent[message["id"]] = message
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
            self._checked(message)
        except Exception as error:
            self.problems.append(f"{direction}: {message}: {error!r}")

    def _checked(self, message: Message) -> None:
        message = {"jsonrpc": "2.0", **message}
        method = message.get("method")
        if method in _OWN:
            msgspec.convert(message["params"], _OWN[method])
        elif method in types.METHOD_TO_TYPES:
            _same(message, types.METHOD_TO_TYPES[method][0])
        elif method is None and "error" in message:
            _same(message, types.ResponseErrorMessage)
        elif method is None and message["id"] in self._sent:
            request = self._sent[message["id"]]
            if request["method"] == types.TEXT_DOCUMENT_CODE_ACTION:
                for item in message["result"] or ():
                    _check_action(item)
                return
            _same(message, types.METHOD_TO_TYPES[request["method"]][1])
            kind = _RESULTS.get((request.get("params") or {}).get("command"))
            if kind is not None:
                msgspec.convert(message["result"], kind)
        elif method is not None:
            assert method.startswith(("underkeel/", "textDocument/did")), method


def _same(message: Message, kind: Any) -> None:
    again = _CONVERTER.unstructure(_CONVERTER.structure(message, kind), kind)
    assert _slim(again) == _slim(message), f"read as {_slim(again)}"


def _check_action(item: Message) -> None:
    """In a list lsprotocol takes a code action that has a command for a command."""
    is_command = isinstance(item.get("command"), str)
    _same(item, types.Command if is_command else types.CodeAction)


def _slim(value: Any) -> Any:
    """Without fields that hold null, which means the same as their absence."""
    if isinstance(value, dict):
        return {name: _slim(item) for name, item in value.items() if item is not None}
    return [_slim(item) for item in value] if isinstance(value, list | tuple) else value


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
