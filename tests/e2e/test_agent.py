"""`underkeel acp` and `underkeel agent` as real processes, driven by the SDK's client, with a played
model behind a real daemon. The SDK validates every message by the protocol's schema."""

# ruff: noqa: ARG002, E501 - the client's signatures are the protocol's

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import acp
import pytest
from acp import schema
from acp.connection import StreamDirection, StreamEvent
from chatting import call, environment, large_context, played
from daemons import serving

CODE = "def area(w, h):\n    return w + h\n"


class Client:
    """An editor: remembers what it is shown, and answers as the test says."""

    def __init__(self, answer: Callable[[Any], str] = lambda _: "once") -> None:
        self.answer = answer
        self.updates: list[Any] = []
        self.asked: list[Any] = []
        self.seen = asyncio.Condition()

    def on_connect(self, conn: Any) -> None:
        pass

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        async with self.seen:
            self.updates.append(update)
            self.seen.notify_all()

    async def request_permission(
        self, session_id: str, tool_call: Any, options: list[Any], **_: Any
    ) -> schema.RequestPermissionResponse:
        async with self.seen:
            self.asked.append((tool_call, options))
            self.seen.notify_all()
        chosen = self.answer(tool_call)
        if chosen == "cancel":
            return schema.RequestPermissionResponse(
                outcome=schema.DeniedOutcome(outcome="cancelled")
            )
        return schema.RequestPermissionResponse(
            outcome=schema.AllowedOutcome(outcome="selected", option_id=chosen)
        )

    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"text": "shape.py:2: wrong sign"}

    async def ext_notification(self, method: str, params: dict[str, Any]) -> None:
        pass

    def kinds(self) -> list[str]:
        return [one.session_update for one in self.updates]

    def said(self) -> str:
        return "".join(
            one.content.text for one in self.updates if one.session_update == "agent_message_chunk"
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self.seen:
            await self.seen.wait_for(condition)


@asynccontextmanager
async def connected(client: Client, **capabilities: Any) -> AsyncIterator[tuple[Any, Any]]:
    sent: list[dict[str, Any]] = []
    editor: Any = client

    def watch(event: StreamEvent) -> None:
        if event.direction is StreamDirection.INCOMING:
            sent.append(event.message)

    async with acp.spawn_agent_process(
        editor, sys.executable, "-m", "assistant", "acp",
        env=environment(), use_unstable_protocol=True, observers=[watch],
    ) as (connection, process):  # fmt: skip
        await connection.initialize(
            protocol_version=1, client_capabilities=schema.ClientCapabilities(**capabilities)
        )
        yield connection, process
    for message in sent:
        if message.get("method") == "session/update":
            schema.SessionNotification.model_validate(message["params"])
        elif message.get("method") == "session/request_permission":
            schema.RequestPermissionRequest.model_validate(message["params"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    (made / "shape.py").write_text(CODE)
    return made


FIX = call("replace_text", path="shape.py", old="w + h", new="w * h")
PLAN = call("update_plan", items=[{"text": "Fix area", "status": "in_progress"}])


def test_a_session_in_an_editor(home: Path, played_model: Path, folder: Path) -> None:
    """New, prompt with approvals, list, load in a second process, undo, delete."""

    async def main() -> None:
        client = Client()
        script = [PLAN, call("diagnostics", path="shape.py"), call("read_file", path="shape.py"),
                  FIX, call("run_command", command="python3 -c 'print(6)'"), "It multiplies now."]  # fmt: skip
        async with serving(
            played(played_model, script), planner=lambda: large_context(played_model)
        ):
            async with connected(client, field_meta={"underkeel": {"diagnostics": True}}) as (
                agent,
                _,
            ):
                made = await agent.new_session(cwd=str(folder), mcp_servers=[])
                id_ = made.session_id
                assert [mode.id for mode in made.modes.available_modes] == ["ask", "edit", "auto"]
                await client.until(lambda: "available_commands_update" in client.kinds())
                done = await agent.prompt(session_id=id_, prompt=[acp.text_block("Fix area.")])
                assert done.stop_reason == "end_turn" and done.usage.input_tokens > 0
                await client.until(lambda: "session_info_update" in client.kinds())
            assert (folder / "shape.py").read_text() == CODE.replace("+", "*")
            assert client.said() == "It multiplies now."
            assert {"plan", "tool_call", "tool_call_update", "usage_update"} <= set(client.kinds())
            edit, command = (asked for asked, _ in client.asked)
            assert edit.kind == "edit" and edit.content[0].new_text == CODE.replace("+", "*")
            assert edit.locations[0].path.endswith("shape.py") and edit.locations[0].line == 2
            assert command.raw_input == {"command": "python3 -c 'print(6)'"}
            results = [u for u in client.updates if u.session_update == "tool_call_update"]
            assert "wrong sign" in results[1].content[0].content.text

            other = Client()
            async with connected(other) as (agent, _):
                listed = (await agent.list_sessions(cwd=str(folder))).sessions
                assert [(one.session_id, one.title) for one in listed] == [(id_, "Fix area.")]
                await agent.load_session(cwd=str(folder), session_id=id_, mcp_servers=[])
                await other.until(lambda: "It multiplies now." in other.said())
                assert other.kinds()[0] == "user_message_chunk"
                assert other.kinds().count("tool_call") == 5
                undone = await agent.ext_method("underkeel/undo", {"sessionId": id_})
                assert undone == {"message": "Restored: shape.py."}
                await agent._conn.send_request("session/delete", {"sessionId": id_})
                assert not (await agent.list_sessions()).sessions
            assert (folder / "shape.py").read_text() == CODE

    asyncio.run(main())


def test_modes_refusals_and_a_cancel(home: Path, played_model: Path, folder: Path) -> None:
    async def main() -> None:
        client = Client(lambda _: "reject")
        script = [FIX, "Refused.", FIX, call("run_command", command="sleep 600"), "Never said."]
        async with (
            serving(played(played_model, script), planner=lambda: large_context(played_model)),
            connected(client) as (agent, process),
        ):
            id_ = (await agent.new_session(cwd=str(folder), mcp_servers=[])).session_id
            done = await agent.prompt(session_id=id_, prompt=[acp.text_block("Fix area.")])
            assert done.stop_reason == "end_turn" and (folder / "shape.py").read_text() == CODE
            client.answer = lambda _: "once"
            await agent.set_session_mode(session_id=id_, mode_id="edit")
            running = asyncio.create_task(
                agent.prompt(session_id=id_, prompt=[acp.text_block("Again.")])
            )
            await client.until(lambda: len(client.asked) == 2)
            await agent.cancel(session_id=id_)
            assert (await asyncio.wait_for(running, 20)).stop_reason == "cancelled"
            assert (folder / "shape.py").read_text() != CODE
            # Wrong requests get an error that says what to do, and nothing breaks.
            for wrong in (
                agent.prompt(session_id="0" * 32, prompt=[acp.text_block("x")]),
                agent.new_session(cwd="relative", mcp_servers=[]),
                agent.set_session_mode(session_id=id_, mode_id="root"),
                agent.load_session(cwd=str(folder), session_id="../..", mcp_servers=[]),
                agent.prompt(session_id=id_, prompt=[acp.text_block(" ")]),
            ):
                with pytest.raises(acp.RequestError):
                    await wrong
            assert process.returncode is None

    asyncio.run(main())


def test_a_session_survives_a_killed_agent(home: Path, played_model: Path, folder: Path) -> None:
    async def main() -> None:
        script = [call("read_file", path="shape.py"), call("run_command", command="sleep 600"), FIX,
                  "Finished."]  # fmt: skip
        engine = played(played_model, script)
        async with serving(engine, planner=lambda: large_context(played_model)):
            client = Client()
            async with connected(client) as (agent, process):
                id_ = (await agent.new_session(cwd=str(folder), mcp_servers=[])).session_id
                await agent.set_session_mode(session_id=id_, mode_id="auto")
                running = asyncio.create_task(
                    agent.prompt(session_id=id_, prompt=[acp.text_block("Fix area.")])
                )
                await client.until(lambda: len(client.asked) == 1)
                process.kill()
                await asyncio.gather(running, return_exceptions=True)
            other = Client()
            async with connected(other) as (agent, _):
                await agent.resume_session(cwd=str(folder), session_id=id_, mcp_servers=[])
                done = await agent.prompt(session_id=id_, prompt=[acp.text_block("Continue.")])
                assert done.stop_reason == "end_turn"
            prompt = bytes(engine.asked[-1].prompt).decode()
            assert "Continue." in prompt, (other.said(), done.field_meta)
            assert (
                prompt.index("Fix area.") < prompt.index("return w + h") < prompt.index("Continue.")
            )
            assert (folder / "shape.py").read_text() != CODE

    asyncio.run(main())


def test_the_terminal_command(home: Path, played_model: Path, folder: Path) -> None:
    """Without a terminal, what needs approval is refused; edits run in mode edit; undo."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "assistant", "agent", *arguments,
            cwd=folder, env=environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, out.decode(), err.decode()

    async def main() -> None:
        script = [FIX, call("run_command", command="touch ran"), "It multiplies now.\x1b[2J"]
        async with serving(
            played(played_model, script), planner=lambda: large_context(played_model)
        ):
            code, out, _ = await run("Fix area.", "--mode", "edit", "--json")
            events = [json.loads(line) for line in out.splitlines()]
            assert code == 0, events
            assert events[-1]["event"] == "end" and events[-1]["reason"] == "done"
            assert [one["title"] for one in events if one["event"] == "refused"] == ["touch ran"]
            assert "w * h" in (folder / "shape.py").read_text()
            assert not (folder / "ran").exists() and "\x1b" not in out
            code, out, err = await run("--undo")
            assert code == 0 and "Restored: shape.py." in out, (out, err)
            assert (folder / "shape.py").read_text() == CODE
            code, _, err = await run("")
            assert code == 1 and "there is no task" in err

    asyncio.run(main())


def test_a_daemon_that_restarts_under_a_session(
    home: Path, played_model: Path, folder: Path
) -> None:
    """The turn waits for the next daemon, and continues."""

    async def main() -> None:
        client = Client()
        async with connected(client) as (agent, _):
            async with serving(
                played(played_model, [FIX, "First."]), planner=lambda: large_context(played_model)
            ):
                id_ = (await agent.new_session(cwd=str(folder), mcp_servers=[])).session_id
                await agent.prompt(session_id=id_, prompt=[acp.text_block("Fix area.")])
            async with serving(
                played(played_model, ["Second."]), planner=lambda: large_context(played_model)
            ):
                done = await agent.prompt(session_id=id_, prompt=[acp.text_block("And now?")])
                assert done.stop_reason == "end_turn"
        assert client.said() == "First.Second."

    asyncio.run(main())
