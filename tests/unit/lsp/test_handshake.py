"""The answer to `initialize` that does not wait for pygls."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from typing import Any

import pytest
from lsprotocol import types
from pygls.io_ import StdoutWriter

from lsp import handshake, server

Message = dict[str, Any]

CLIENTS: list[Message] = [
    {},
    {"general": {}},
    {"general": {"positionEncodings": []}},
    {"general": {"positionEncodings": ["utf-7"]}},
    {"general": {"positionEncodings": ["utf-7", "utf-32", "utf-8"]}},
    {"notebookDocument": {"synchronization": {}}},
    {"textDocument": {"synchronization": {}}},
    {"textDocument": {"synchronization": {"willSave": False, "didSave": True}}},
    {"textDocument": {"synchronization": {"willSave": True, "willSaveWaitUntil": None}}},
    {"experimental": {"underkeel": {"status": True}}, "window": {"workDoneProgress": True}},
]


def frame(message: Message | bytes) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def request(capabilities: Any, number: int | str = 1) -> Message:
    params = {"processId": None, "rootUri": None, "capabilities": capabilities}
    return {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": params}


def messages(raw: bytes) -> list[Message]:
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        length = int(head.split(b":")[1].split()[0])
        found.append(json.loads(raw[:length]))
        raw = raw[length:]
    return found


def pygls_answer(message: Message, number: int | str) -> tuple[Message, server.Server]:
    """What the whole server makes of a request, as it goes over the wire."""
    found = server.create(connect=lambda: pytest.fail("nothing may connect"))
    sink = io.BytesIO()
    found.protocol.set_writer(StdoutWriter(sink), include_headers=False)
    found.protocol.handle_message(found.protocol.structure_message({**message, "id": number}))
    written = sink.getvalue()
    return (json.loads(written) if written else {}), found


@pytest.mark.parametrize("capabilities", CLIENTS, ids=json.dumps)
def test_the_early_answer_is_the_one_of_pygls(capabilities: Message) -> None:
    answer, _ = pygls_answer(request(capabilities), 1)
    assert answer["result"] == handshake.initialize_result(capabilities)


def test_the_request_is_answered_once_and_passed_on() -> None:
    opened = frame({"jsonrpc": "2.0", "method": "initialized", "params": {}})
    sink = io.BytesIO()
    rest = handshake.answer(io.BytesIO(frame(request({}, "a")) + opened), sink)
    (answer,) = messages(sink.getvalue())
    assert (answer["id"], answer["result"]["serverInfo"]["name"]) == ("a", "underkeel")

    assert rest.readline().startswith(b"Content-Length: ")
    raw = rest.readline() + rest.read(1 << 20)
    passed = json.loads(raw[: raw.rindex(b"Content-Length")])
    assert passed == request({}, handshake.ANSWERED) and raw.endswith(opened)

    answer, passed_on = pygls_answer(passed, handshake.ANSWERED)
    assert answer == {}
    assert passed_on.client_capabilities == types.ClientCapabilities()


def test_what_pygls_cannot_read_is_shown() -> None:
    """Only the answer to the request is dropped: an error must not go unseen."""
    found = server.create(connect=lambda: pytest.fail("nothing may connect"))
    sink = io.BytesIO()
    found.protocol.set_writer(StdoutWriter(sink), include_headers=False)
    error = types.ResponseError(code=-32602, message="no such field")

    async def respond() -> None:
        found.protocol._send_response(handshake.ANSWERED, None, error)

    asyncio.run(respond())
    shown = json.loads(sink.getvalue())
    assert shown["method"] == "window/showMessage" and "no such field" in str(shown["params"])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"Content-Length: 12",
        b"Content-Length: x\r\n\r\n{}",
        b"Content-Length: 99999999999\r\n\r\n{}",
        b"Content-Length: -1\r\n\r\n{}",
        b"x" * 5000,
        b"A: b\r\n" * 100,
        frame(b"[" * 100_000),
        frame(b"\xff\xfe"),
        frame([]),  # type: ignore[arg-type]
        frame({"jsonrpc": "2.0", "id": 1, "method": "shutdown"}),
        frame({**request({}), "id": None}),
        frame({**request({}), "params": None}),
        frame(request("all")),
        frame({**request({}), "jsonrpc": "1.0"}),
    ],
)
def test_anything_else_is_left_to_pygls(raw: bytes) -> None:
    sink = io.BytesIO()
    rest = handshake.answer(io.BytesIO(raw + b"\nmore\n"), sink)
    assert sink.getvalue() == b""
    read = b""
    while line := rest.readline():
        read += line
    assert read == raw + b"\nmore\n"


def test_the_answer_waits_for_few_modules() -> None:
    """Neither asyncio nor pygls, lsprotocol or msgspec is imported before the answer."""
    code = (
        "import io, sys\n"
        "import lsp.__main__\n"
        "from lsp import handshake\n"
        f"handshake.answer(io.BytesIO({frame(request({}))!r}), io.BytesIO())\n"
        "print(len(sys.modules), *sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *names = found.stdout.split()
    assert not {"asyncio", "pygls", "lsprotocol", "attrs", "msgspec", "logging"} & {*names}
    assert int(count) < 120, count


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"s = '\xe9'", "s = '?'"),
        (b"\xff\xfea\x00", "??a\x00"),
        (b"a\xf0\x9f\x92 b", "a??? b"),
        (b"\xed\xa0\x80", "???"),
        ("\u00e9\U0001f6a2".encode(), "\u00e9\U0001f6a2"),
    ],
)
def test_bytes_that_are_no_text_do_not_cost_the_message(raw: bytes, read: str) -> None:
    """C13, C26: a Latin-1 file that is edited as UTF-8; each byte is one character, so positions
    stay right in every encoding."""
    body = b'{"text": "' + raw + b'"}'
    for known in (0, 12, len(body)):
        source = handshake.Source(io.BytesIO(body[known:]), body[:known])
        assert source.read(len(body)).decode() == f'{{"text": "{read}"}}'


_PREPARED = """
import asyncio, sys
from lsp import backend
from lsp.completion.prompts import Prompts
from lsp.served_model import estimated_fim
from lsp.site import Site

backend._import_all()
backend._prepare_prompts()
compiled = []
known = set(sys.modules)
import re
compile_pattern = re._compiler.compile
re._compiler.compile = lambda *given: compiled.append(given) or compile_pattern(*given)

async def first() -> None:
    prompts = Prompts()
    site = Site("a = 1\\n", "", "plaintext", uri="file:///a.txt")
    assert await prompts.ids(site, estimated_fim(), 256)
    await prompts.aclose()

asyncio.run(first())
late = {name for name in set(sys.modules) - known if name.split(".")[0] in {"context", "lsp"}}
print(sorted(late), len(compiled))
"""


def test_the_first_prompt_imports_and_compiles_nothing() -> None:
    """It was done while the model loaded; what a language's grammar needs is left."""
    ran = subprocess.run(
        [sys.executable, "-c", _PREPARED], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["[]", "0"]
