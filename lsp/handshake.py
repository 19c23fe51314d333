"""Answers `initialize` before the libraries are imported; they load while the editor opens files.

The answer depends on little of what a client can do, so it needs neither pygls nor lsprotocol's
types. The request then goes on to pygls, under another id, and its own answer is dropped. A test
compares the two answers.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from typing import Any, BinaryIO

from assistant import __version__

NAME = "underkeel"
PROTOCOL_VERSION = 1
ANSWERED = f"{NAME}/initialize"
"""The id of a request for `initialize` that was answered here."""

_ENCODINGS = {"utf-8", "utf-16", "utf-32"}
_CODE_ACTION_KINDS = (
    "underkeel.explain",
    "quickfix.underkeel.explain",
    "quickfix.underkeel.fix",
    "refactor.rewrite.underkeel.document",
    "refactor.rewrite.underkeel.tests",
    "refactor.rewrite.underkeel.edit",
)
_COMMANDS = (
    "underkeel.accepted",
    "underkeel.status",
    "underkeel.explain",
    "underkeel.edit",
    "underkeel.models",
    "underkeel.chat",
    "underkeel.countTokens",
    "underkeel.acceptNextEdit",
    "underkeel.rejectNextEdit",
)
_INCREMENTAL = 2  # TextDocumentSyncKind
_MOST_HEADERS = 32
_MOST_LINE_BYTES = 1024
_MOST_BODY_BYTES = 16 << 20


def _one_each(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "?" * (error.end - error.start), error.end


_ONE_EACH = "underkeel.one-each"
"""Bytes that are not UTF-8 become one character of one byte each, as editors count them."""
codecs.register_error(_ONE_EACH, _one_each)


class Source:
    """A stream whose first bytes are known already; what pygls reads of its stdin.

    An editor may give a socket as stdin. If it goes while messages to it are unread, reading says
    that the connection was reset; that is an end like any other.
    """

    def __init__(self, rest: BinaryIO, first: bytes = b"") -> None:
        self._rest = rest
        self._first = first

    def readline(self) -> bytes:
        """Up to and with the next line end."""
        line, end, self._first = self._first.partition(b"\n")
        if end:
            return line + end
        with contextlib.suppress(ConnectionError):
            line += self._rest.readline()
        return line

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer only at the end; what is not UTF-8 in them is `?`.

        An editor may have bytes in a document that are not text (a file in another encoding).
        Without the message, all that is edited later would be at wrong positions.
        """
        known, self._first = self._first[:count], self._first[count:]
        found = known
        if len(known) < count:
            with contextlib.suppress(ConnectionError):
                found += self._rest.read(count - len(known))
        try:
            found.decode()
        except UnicodeDecodeError:
            return found.decode(errors=_ONE_EACH).encode()
        return found


def answer(source: BinaryIO, sink: BinaryIO) -> Source:
    """Answer the client's first message if it is a request for `initialize`.

    Anything else is left to pygls. Blocks until the message has come.

    Returns:
        What pygls is to read: everything that the client has sent, with the answered request
        under the id `ANSWERED`.
    """
    head = b""
    length = -1
    for _ in range(_MOST_HEADERS):
        line = source.readline(_MOST_LINE_BYTES)
        head += line
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = int(value)
        if not line.strip():
            break
    if not head.endswith(b"\n") or not 0 <= length <= _MOST_BODY_BYTES:
        return Source(source, head)
    body = source.read(length)
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        message = None
    capabilities = _client_capabilities(message)
    if capabilities is None:
        return Source(source, head + body)
    _write(sink, {"id": message["id"], "result": initialize_result(capabilities)})
    message["id"] = ANSWERED
    body = json.dumps(message).encode()
    return Source(source, b"Content-Length: %d\r\n\r\n" % len(body) + body)


def initialize_result(client: dict[str, Any]) -> dict[str, Any]:
    """The `InitializeResult` for a client with these `ClientCapabilities`, as JSON.

    It is what pygls makes of the features that `lsp.server` registers.
    """
    sync: dict[str, Any] = {"openClose": True, "change": _INCREMENTAL, "save": False}
    synchronization = _part(_part(client, "textDocument"), "synchronization")
    for name in ("willSave", "willSaveWaitUntil"):
        if synchronization.get(name) is not None:
            sync[name] = False
    notebooks = {
        "notebookDocumentSync": {
            "notebookSelector": [{"notebook": "*", "cells": [{"language": "*"}]}]
        }
    }
    capabilities = {
        "positionEncoding": _encoding(_part(client, "general").get("positionEncodings")),
        "textDocumentSync": sync,
        **(notebooks if client.get("notebookDocument") is not None else {}),
        "codeActionProvider": {
            "codeActionKinds": list(_CODE_ACTION_KINDS),
            "resolveProvider": True,
        },
        "executeCommandProvider": {"commands": list(_COMMANDS)},
        "inlineCompletionProvider": {},
        "workspace": {
            "workspaceFolders": {"supported": True, "changeNotifications": True},
            "fileOperations": {},
        },
        "experimental": {NAME: {"version": PROTOCOL_VERSION}},
    }
    info = {"name": NAME, "version": __version__}
    return {"capabilities": capabilities, "serverInfo": info}


def _client_capabilities(message: Any) -> dict[str, Any] | None:
    """Of a well-formed request for `initialize`; None for any other message."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return None
    if message.get("method") != "initialize" or not isinstance(message.get("id"), int | str):
        return None
    params = message.get("params")
    found = params.get("capabilities") if isinstance(params, dict) else None
    return found if isinstance(found, dict) else None


def _encoding(offered: Any) -> str:
    """The client's first one that is supported."""
    names = offered if isinstance(offered, list) else []
    return next((name for name in names if name in _ENCODINGS), "utf-16")


def _part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    found = whole.get(name)
    return found if isinstance(found, dict) else {}


def _write(sink: BinaryIO, message: dict[str, Any]) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sink.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    sink.flush()
