"""The protocol's edge cases, message by message: the real server on a socket, a scripted model.

What the agent sends is validated by the SDK's schema.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from acp.connection import Connection
from acp_tap import wrong_messages
from scripted_model import Line, ScriptedModel, say, use

from assistant.agent.acp_client import Messages
from assistant.agent.acp_server import AcpAgent
from assistant.agent.conversation import SessionStore
from assistant.settings import Settings

LIMIT_BYTES = 1 << 16
FIX = use("replace_text", path="shape.py", old="w + h", new="w * h")
SLEEP = use("run_command", command="sleep 600")


class Wire:
    """A client that writes lines."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, folder: Path
    ) -> None:
        self.writer = writer
        self.folder = folder
        self.log: list[dict[str, Any]] = []
        self.answer: dict[str, Any] | None = {
            "outcome": {"outcome": "selected", "optionId": "once"}
        }
        self._reader = reader
        self._next = 0
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    def write(self, message: dict[str, Any]) -> None:
        self.log.append({"from": "client", "message": message})
        self.writer.write(json.dumps(message).encode() + b"\n")

    def start(self, method: str, params: object) -> int:
        self._next += 1
        self.write({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        return self._next

    def notify(self, method: str, **params: Any) -> None:
        self.write({"jsonrpc": "2.0", "method": method, "params": params})

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        return await self.response(self.start(method, params))

    async def response(self, id_: int) -> dict[str, Any]:
        def of_it(message: dict[str, Any]) -> bool:
            return message.get("id") == id_ and "method" not in message

        return await self.until(of_it)

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((one for one in self.received() if condition(one)), None)

        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: found() is not None)
        message = found()
        assert message is not None
        return message

    def received(self) -> list[dict[str, Any]]:
        return [one["message"] for one in self.log if one["from"] == "agent"]

    def updates(self, kind: str) -> list[dict[str, Any]]:
        shown = [
            one["params"]["update"] for one in self.received() if "update" in str(one.get("method"))
        ]
        return [one for one in shown if one["sessionUpdate"] == kind]

    async def asked(self) -> None:
        await self.until(lambda one: one.get("method") == "session/request_permission")

    async def session(self) -> str:
        made = await self.request("session/new", cwd=str(self.folder), mcpServers=[])
        id_: str = made["result"]["sessionId"]
        return id_

    def prompt(self, id_: str, *blocks: dict[str, Any], text: str = "Fix area.") -> int:
        parts = [*blocks] or [{"type": "text", "text": text}]
        return self.start("session/prompt", {"sessionId": id_, "prompt": parts})

    async def _read(self) -> None:
        async for line in self._reader:
            message = json.loads(line)
            async with self._news:
                self.log.append({"from": "agent", "message": message})
                self._news.notify_all()
            if message.get("method") == "session/request_permission" and self.answer is not None:
                self.write({"jsonrpc": "2.0", "id": message["id"], "result": self.answer})
            elif "id" in message and "method" in message and self.answer is None:
                error = {"code": -32601, "message": "no such method"}
                self.write({"jsonrpc": "2.0", "id": message["id"], "error": error})


@asynccontextmanager
async def served(folder: Path, model: ScriptedModel) -> AsyncIterator[Wire]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=LIMIT_BYTES)
    agent = AcpAgent(Settings(), SessionStore(folder.parent / "sessions"), lambda _: model)
    connection = Connection(agent.router(), Messages(reader, writer), listening=False)
    agent.client.connection = connection
    serving = asyncio.create_task(connection.main_loop())
    wire = Wire(*await asyncio.open_connection(sock=theirs, limit=1 << 20), folder)
    try:
        await wire.request("initialize", protocolVersion=1)
        yield wire
    finally:
        wire.writer.close()
        await asyncio.wait_for(serving, 20)
        await asyncio.wait_for(agent.aclose(), 20)
        await connection.close()
        wire._reading.cancel()
    log = folder.parent / "log.jsonl"
    log.write_text("".join(json.dumps(one) + "\n" for one in wire.log))
    assert not [one for one in wrong_messages(log) if one.startswith("agent")]


def play(
    tmp_path: Path, script: list[Line], test: Callable[[Wire, ScriptedModel], Awaitable[None]]
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "shape.py").write_text("def area(w, h):\n    return w + h\n")
    model = ScriptedModel(script)

    async def main() -> None:
        async with served(folder, model) as wire:
            await test(wire, model)

    asyncio.run(main())


@pytest.mark.parametrize("method", ["session/cancel", "$/cancel_request"])
def test_a_cancel_right_behind_the_prompt_stops_it(tmp_path: Path, method: str) -> None:
    """In one write, before the turn runs; a cancel for nothing does no harm."""

    async def test(wire: Wire, model: ScriptedModel) -> None:
        id_ = await wire.session()
        wire.notify("session/cancel", sessionId=id_)
        wire.notify("session/cancel", sessionId="0" * 32)
        wire.notify("$/cancel_request", requestId=99)
        prompt = wire.prompt(id_)
        wire.notify(method, sessionId=id_, requestId=prompt)
        assert (await wire.response(prompt))["result"]["stopReason"] == "cancelled"
        assert (await wire.response(wire.prompt(id_)))["result"]["stopReason"] == "end_turn"

    play(tmp_path, [], test)


def test_requests_while_a_turn_runs(tmp_path: Path) -> None:
    async def test(wire: Wire, model: ScriptedModel) -> None:
        id_ = await wire.session()
        running = wire.prompt(id_)
        await wire.asked()
        assert "at work" in (await wire.response(wire.prompt(id_)))["error"]["message"]
        other = tmp_path / "other"
        other.mkdir()
        moved = await wire.request("session/load", sessionId=id_, cwd=str(other), mcpServers=[])
        assert "at work" in moved["error"]["message"]
        same = await wire.request("session/resume", sessionId=id_, cwd=str(wire.folder))
        assert same["result"]["modes"]["currentModeId"] == "ask"
        mode = await wire.request("session/set_mode", sessionId=id_, modeId="edit")
        assert mode["result"] == {}
        await wire.request("session/delete", sessionId=id_)
        assert (await wire.response(running))["result"]["stopReason"] == "cancelled"
        assert "not open" in (await wire.response(wire.prompt(id_)))["error"]["message"]
        assert not (await wire.request("session/list"))["result"]["sessions"]

    play(tmp_path, [SLEEP], test)


def test_a_session_is_loaded_from_another_folder(tmp_path: Path) -> None:
    """Its tools work there, also if it was open already; wrong folders and ids are refused."""

    async def test(wire: Wire, model: ScriptedModel) -> None:
        other = tmp_path / "a folder"
        other.mkdir()
        (other / "shape.py").write_text("other = w + h\n")
        id_ = await wire.session()
        await wire.response(wire.prompt(id_))
        for cwd, session_id in (
            ("a", id_),
            ("/no/such", id_),
            (str(other), "0" * 32),
            (str(other), ".."),
        ):
            found = await wire.request("session/load", sessionId=session_id, cwd=cwd, mcpServers=[])
            assert found["error"]["code"] == -32602
        await wire.request("session/load", sessionId=id_, cwd=f"{other}/", mcpServers=[])
        await wire.request("session/set_mode", sessionId=id_, modeId="auto")
        await wire.response(wire.prompt(id_))
        assert (other / "shape.py").read_text() == "other = w * h\n"
        assert "w + h" in (wire.folder / "shape.py").read_text()
        listed = await wire.request("session/list", cwd=f"{other}/")
        assert [one["sessionId"] for one in listed["result"]["sessions"]] == [id_]
        assert not (await wire.request("session/list", cwd=str(wire.folder)))["result"]["sessions"]

    play(tmp_path, [say("Nothing yet."), FIX], test)


def test_what_a_prompt_may_hold(tmp_path: Path) -> None:
    link: dict[str, Any] = {"type": "resource_link", "name": "s", "uri": "file:///w/my%20shape.py"}
    quoted = {"uri": "file:///w/a%C3%A4.py#L1-L2", "text": "x = 1"}
    refused: list[dict[str, Any]] = [
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
        {"type": "audio", "data": "aGk=", "mimeType": "audio/wav"},
        {"type": "resource", "resource": {"uri": "file:///w/x.bin", "blob": "aGk="}},
        {"type": "text", "text": " "},
        {"type": "hologram"},
    ]

    async def test(wire: Wire, model: ScriptedModel) -> None:
        id_ = await wire.session()
        for block in refused:
            assert (await wire.response(wire.prompt(id_, block)))["error"]["code"] == -32602
        empty = await wire.request("session/prompt", sessionId=id_, prompt=[])
        assert empty["error"]["code"] == -32602
        web: dict[str, Any] = {
            "type": "resource_link",
            "name": "p",
            "uri": "https://example.com/%20",
        }
        parts: list[dict[str, Any]] = [link, {"type": "resource", "resource": quoted}, web]
        await wire.response(wire.prompt(id_, *parts))
        text = model.prompts[0][-1]["content"]
        assert "(Attached: /w/my shape.py)" in text and "https://example.com/%20" in text
        assert "Attached text of /w/aä.py#L1-L2:\nx = 1" in text

    play(tmp_path, [], test)


def test_an_approval_that_changes_the_mode_is_shown(tmp_path: Path) -> None:
    """Both as a mode and as an option; so is a mode that the client sets as an option."""

    async def test(wire: Wire, model: ScriptedModel) -> None:
        wire.answer = {"outcome": {"outcome": "selected", "optionId": "always"}}
        id_ = await wire.session()
        await wire.response(wire.prompt(id_))
        assert [one["currentModeId"] for one in wire.updates("current_mode_update")] == ["edit"]
        await wire.request("session/set_config_option", sessionId=id_, configId="mode", value="ask")
        options = [
            one["configOptions"][0]["currentValue"] for one in wire.updates("config_option_update")
        ]
        assert options == ["edit", "ask"]
        wrong = await wire.request(
            "session/set_config_option", sessionId=id_, configId="x", value="y"
        )
        assert "no such option" in wrong["error"]["message"]

    play(tmp_path, [FIX], test)


def test_a_client_without_any_method(tmp_path: Path) -> None:
    """It cannot ask its user, so nothing is approved."""

    async def test(wire: Wire, model: ScriptedModel) -> None:
        wire.answer = None
        id_ = await wire.session()
        done = await wire.response(wire.prompt(id_))
        assert done["result"]["stopReason"] == "end_turn"
        assert "w + h" in (wire.folder / "shape.py").read_text()
        assert "refused this call" in str(model.prompts[-1])

    play(tmp_path, [FIX], test)


def test_a_client_that_leaves_in_a_turn(tmp_path: Path) -> None:
    """The command ends, and the step is on disk with the results so far."""

    async def test(wire: Wire, model: ScriptedModel) -> None:
        id_ = await wire.session()
        wire.prompt(id_)
        await wire.until(lambda one: "sleep" in str(one) and "permission" in str(one.get("method")))
        wire.writer.close()

    play(tmp_path, [use("read_file", path="shape.py"), SLEEP], test)
    store = SessionStore(tmp_path / "sessions")
    (turn,) = store.load(store.list()[0].id).turns
    assert [step.results[0].failed for step in turn.steps] == [False, True]


HOSTILE = [
    b"\xff\xfe", b"5", b"null", b"[]", b'"x"', b"{}", b"{", b"{" * 30_000, b"[" * 60_000,
    b'{"id": [], "result": 1}', b'{"id": 0, "error": "x"}', b'{"id": {}, "method": "initialize"}',
    b'{"id": 1.5, "method": "initialize"}', b'{"method": ["x"], "id": 7}', b'{"method": 5}',
    b'[{"jsonrpc": "2.0", "id": 1, "method": "session/list", "params": {}}]',
    b'{"id": 0, "result": 5}', b'{"id": "q", "result": null}', b"9" * 5000,
    b'{"method": "session/unknown"}', b'{"method": "_x/y", "params": 3}',
    b'{"method": "session/cancel", "params": [1]}', b'{"method": "$/cancel_request", "params": 1}',
    b'{"method": "$/cancel_request", "params": {"requestId": []}}',
    b'{"method": "session/cancel"}', b"x" * (3 * LIMIT_BYTES), b"\x00", b"\r",
]  # fmt: skip


def test_lines_that_are_no_messages_change_nothing(tmp_path: Path) -> None:
    async def test(wire: Wire, model: ScriptedModel) -> None:
        for line in HOSTILE:
            wire.writer.write(line + b"\n")
            await wire.writer.drain()
        for method, params in (
            ("session/unknown", {}), ("_x/y", 3), ("session/new", None), ("session/new", [1]),
            ("session/prompt", {"sessionId": 3}), ("session/list", {"cursor": "-1"}),
            ("session/new", {"cwd": "\0", "mcpServers": []}), ("session/fork", {}),
            ("_underkeel/undo", {"sessionId": 5}), ("authenticate", {"methodId": "x"}),
        ):  # fmt: skip
            found = await wire.response(wire.start(method, params))
            assert "error" in found or method == "session/list", found
        id_ = await wire.session()
        assert (await wire.response(wire.prompt(id_)))["result"]["stopReason"] == "end_turn"
        errors = [
            one["error"]["code"] for one in wire.received() if "error" in one and one["id"] is None
        ]
        assert errors.count(-32700) >= 5 and errors.count(-32600) >= 10

    play(tmp_path, [], test)
