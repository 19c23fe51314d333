"""JSON and numbers of others, in files, requests and answers: errors of ours, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from daemons import Daemon, serving
from typer.testing import CliRunner

from assistant import paths
from assistant.agent import editing
from assistant.agent.conversation import SessionStore, ToolCall
from assistant.agent.loop import fingerprint
from assistant.agent.model import calls_in_text
from assistant.agent.tools import arguments_of, tools
from assistant.agent.workspace import Journal, ToolError
from assistant.cli import build_app
from assistant.client import events
from assistant.daemon.process import handover
from assistant.engine.remote.dialect import decode_object
from assistant.errors import UnderkeelError
from assistant.memory import rates
from assistant.models import hub, local_store
from assistant.wire import Status

DEEP = 100_000
JSON = {
    "nothing": b"",
    "half": b'{"a": ',
    "bytes that are no text": b'{"id": "\xff\xfe", "name": "\xff"}',
    "a name that is no text": b'{"\xff": 1}',
    "half a surrogate pair": b'{"id": "\\ud800", "name": "\\ud800", "arguments": "\\ud800"}',
    "lists in lists": b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "objects in objects": b'{"x":' * DEEP + b"1" + b"}" * DEEP,
    "an open list of lists": b"[" * DEEP,
    "a number of 6,000 digits": b'{"id": ' + b"9" * 6000 + b', "x": ' + b"9" * 6000 + b"}",
    "a number without end": b'{"id": 1e999, "x": 1e999, "n": -1e999}',
    "no number": b'{"id": NaN, "x": Infinity}',
    "the same name twice": b'{"id": 1, "id": "2"}',
    "another kind": b"[1, 2]",
    "null": b"null",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a zero byte": b'{"id": "\\u0000", "a": "\x00"}',
}


@pytest.fixture(params=list(JSON))
def content(request: pytest.FixtureRequest) -> bytes:
    return JSON[request.param]


def test_files_that_cannot_be_read_are_none(home: Path, tmp_path: Path, content: bytes) -> None:
    """The address, the record of a model, of a daemon, of rates and of sessions, and a journal."""
    paths.tcp_file().write_bytes(content)
    assert paths.find_tcp_address() is None
    for file, read in (
        (local_store._folder() / "m.json", lambda: local_store.read_origin("m")),
        (handover._served_record(), handover.take_served_record),
        (rates._record(), rates.stored_rates),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        assert read() is None
    store = SessionStore(tmp_path / "sessions")
    session = store.create((tmp_path,))
    kept = store.create((tmp_path,))
    kept.add_prompt("a question")
    (session.folder / "session.json").write_bytes(content)
    assert [one.id for one in store.list()] == [kept.record.id]
    with pytest.raises(UnderkeelError):
        store.load(session.record.id)
    (history,) = (one for one in kept.folder.iterdir() if one.suffix == ".jsonl")
    with history.open("ab") as lines:
        lines.write(content.replace(b"\n", b"") + b"\n")
    assert [turn.prompt for turn in store.load(kept.record.id).turns] == ["a question"]
    (tmp_path / "journal").write_bytes(content)
    assert Journal(tmp_path / "journal").changes == []


def test_answers_of_servers_are_read_or_refused(content: bytes) -> None:
    """Of the daemon, of a remote server, and of a hub."""
    reads: list[Callable[[], object]] = [
        lambda: events.decode(content, Status),
        lambda: events.error_of(500, content),
        lambda: decode_object(content),
    ]
    for read in reads:
        try:
            read()
        except UnderkeelError:
            continue

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client, suppress(UnderkeelError):
        hub._listing(client, "https://hub.example/api", "owner/repository")


def test_calls_of_models_are_read_or_refused(content: bytes) -> None:
    """By the agent: arguments, calls in the text, and comparing them with others."""
    text = content.decode("utf-8", "replace")
    for tool in tools().values():
        call = ToolCall(id="1", name=tool.name, arguments=text)
        assert fingerprint(call)
        with suppress(ToolError):
            arguments_of(call, tool)
    for written in (f"<tool_call>{text}</tool_call>", f"```json\n{text}\n```", text):
        calls_in_text(written, list(tools()))


@pytest.mark.parametrize("told", ["9" * 6000, "\u00b2", "\u0663", "-1", "1e3", "", " 5", "5,5"])
def test_a_length_that_is_none_is_an_error(told: str) -> None:
    """Of a file on a server, in a header."""
    headers = [(b"Content-Length", told.encode("utf-8"))]

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"GGUF"))

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        pytest.raises(UnderkeelError, match="how long"),
    ):
        hub._facts(client, "https://hub.example/m.gguf")


@pytest.mark.parametrize(
    "place", ["x:" + "9" * 6000, "x:1:" + "9" * 6000, "x:\u00b2:1", "a.py:0:0", "a.py:" + "9" * 9]
)
def test_places_with_any_numbers_are_errors(home: Path, tmp_path: Path, place: str) -> None:
    """On the command line."""
    (tmp_path / "a.py").write_text("a = 1\n")
    for command in ("complete", "context"):
        found = CliRunner().invoke(build_app(command), [command, f"{tmp_path}/{place}"])
        assert isinstance(found.exception, UnderkeelError | SystemExit), found.exception


NUMBERS = ["9" * 6000, "0", "-1", "1" * 10, "\u0663"]


@pytest.mark.parametrize("number", NUMBERS)
def test_patches_with_any_numbers_are_read(number: str) -> None:
    """By the agent: the place of a hunk is a hint, and may be nonsense."""
    patch = f"--- a/x\n+++ b/x\n@@ -{number},1 +{number},1 @@\n-a\n+b\n"
    (found,) = editing.parse_patch(patch)
    assert len(found.hunks) == 1


def test_every_route_answers_any_body(home: Path) -> None:
    """With 400 or better: never an internal error, and the daemon answers afterwards."""

    async def body(daemon: Daemon) -> None:
        description = (await daemon.http.get("/openapi.json")).json()
        routes = [
            path
            for path, methods in description["paths"].items()
            if "post" in methods and path not in {"/underkeel/stop", "/underkeel/model"}
        ]
        assert len(routes) > 8
        for path in routes:
            for name, content in JSON.items():
                answer = await daemon.http.post(path, content=content)
                assert answer.status_code < 500 or answer.status_code == 503, (path, name)
        assert (await daemon.http.get("/health")).status_code == 200

    async def main() -> None:
        async with asyncio.timeout(120), serving() as daemon:
            await body(daemon)

    asyncio.run(main())
