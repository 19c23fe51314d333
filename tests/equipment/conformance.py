"""Holds messages of the language server's protocol, of either side, to what they should be.

What LSP 3.18 has a message for is read by lsprotocol's types, which are made from the protocol's
meta model, and written again: a field that is missing, of the wrong type or not of the protocol
shows. What is ours (editors/PROTOCOL.md) is held to the structs below.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from lsprotocol import types
from lsprotocol.converters import get_converter

from assistant.cli.language_client import Message

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


class ChatText(_Strict, tag_field="kind", tag="text"):
    id: str
    text: str


class ChatThought(_Strict, tag_field="kind", tag="thought"):
    id: str
    text: str


class _Call(_Strict):
    id: str
    name: str
    arguments: dict[str, Any]


class ChatCall(_Strict, tag_field="kind", tag="call"):
    id: str
    call: _Call


class Chatted(_Strict):
    """The result of `underkeel.chat`."""

    id: str
    stop_reason: Literal["stop", "length", "tool_calls"]
    usage: dict[str, int]


class ChatModel(_Strict):
    """One of the results of `underkeel.models`."""

    id: str
    name: str
    family: str
    version: str
    max_input_tokens: int
    max_output_tokens: int
    tools: bool


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


class _Document(_Strict):
    uri: str
    version: int | None = None


class _Hint(_Strict):
    range: types.Range
    message: str
    severity: int | None = None


class _NextEditContext(msgspec.Struct):
    diagnostics: list[_Hint] = []


class NextEditParams(_Strict):
    """The parameters of a request for the next edit; `context` has more in Copilot's clients."""

    text_document: _Document
    position: types.Position
    context: _NextEditContext | None = None


class NextEdit(_Strict):
    text: str
    range: types.Range
    text_document: _Document
    command: types.Command


class NextEdits(_Strict):
    """The response to a request for the next edit."""

    edits: list[NextEdit]


class _ShownEdit(_Strict):
    command: types.Command


class NextEditShown(_Strict):
    """The parameters of the notification that a next edit became visible."""

    item: _ShownEdit


class Focused(_Strict):
    """The parameters of the notification that the user looks at a document."""

    text_document: _Document


_NEXT_EDIT = "textDocument/copilotInlineEdit"
_OWN: dict[str, Any] = {
    "underkeel/explanation": Delta | Done | Failed,
    "underkeel/status": Status,
    "underkeel/chat": ChatText | ChatThought | ChatCall,
    _NEXT_EDIT: NextEditParams,
    "textDocument/didShowInlineEdit": NextEditShown,
    "textDocument/didFocus": Focused,
}
_RESULTS: dict[str, Any] = {
    "underkeel.explain": Explained,
    "underkeel.models": list[ChatModel],
    "underkeel.chat": Chatted,
    "underkeel.countTokens": int,
    "underkeel.edit": Edited,
    "underkeel.status": Status,
}


class Conformance:
    """Checks the messages of one connection, in order."""

    def __init__(self) -> None:
        self._sent: dict[int | str, Message] = {}

    def sent(self, message: Message) -> None:
        """Remember a request, so that its answer can be checked."""
        if "method" in message and "id" in message:
            self._sent[message["id"]] = message

    def check(self, message: Message) -> None:
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
            if request["method"] == _NEXT_EDIT:
                msgspec.convert(message["result"], NextEdits)
                return
            _same(message, types.METHOD_TO_TYPES[request["method"]][1])
            kind = _RESULTS.get(str((request.get("params") or {}).get("command")))
            if kind is not None:
                msgspec.convert(message["result"], kind)
        elif method is not None:
            assert method.startswith(("underkeel/", "textDocument/did")), method


def wrong_messages(messages: Iterable[Message]) -> list[str]:
    """What of an editor's recorded messages is not of the protocol, with the reason.

    An editor may be able to do more than this version of the protocol has names for: what it says
    in `initialize` has to be readable, no more.
    """
    conformance = Conformance()
    problems = []
    for message in messages:
        if str(message.get("method")).startswith("scripted/"):
            continue
        try:
            if message.get("method") == types.INITIALIZE:
                _CONVERTER.structure(message, types.InitializeRequest)
            else:
                conformance.check(message)
        except Exception as error:
            problems.append(f"{message}: {error!r}")
    return problems


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
