"""`underkeel agent` works on a task in the terminal; `underkeel acp` serves an editor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant import paths, settings
from assistant.agent.commands import can_confine, plain
from assistant.agent.conversation import SessionStore, ToolCall
from assistant.agent.loop import Limits, Reason
from assistant.agent.mcp_servers import configured
from assistant.agent.model import DaemonModel
from assistant.agent.permissions import Mode, always_allows
from assistant.agent.session import AgentSession, Approval, Finished
from assistant.agent.tools import Access, Outcome, Planned
from assistant.cli.terminal import print_json, printable, say
from assistant.client.client import DaemonClient
from assistant.errors import RequestError

_MOST_DIFF_LINES = 200
_MESSAGE_BYTES = 50 << 20  # the longest message of a client


def register(app: typer.Typer) -> None:
    app.command("agent")(work)
    app.command("acp")(serve)


def work(  # noqa: PLR0917 - typer's parameters
    task: Annotated[str, typer.Argument(help="What is to be done, or a slash command.")] = "",
    mode: Annotated[
        Mode | None,
        typer.Option(help="What is changed without a question. Commands always ask."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="The workspace.")] = Path(),
    session: Annotated[str, typer.Option(help="Continue a session: its id, or 'last'.")] = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="Undo all changes of the session (default: the last).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Work on a task in this folder, with your approval.

    Without a terminal to ask in, whatever needs approval is refused. The exit code is 1 if the task
    was not finished.
    """
    if not folder.is_dir():
        raise RequestError("this is not a folder", subject=str(folder), advice="Name another one")
    if not task.strip() and not undo:
        raise RequestError("there is no task", advice='Run: underkeel agent "what is to be done"')
    if undo:
        task, session = "/undo", session or "last"
    finished = asyncio.run(_work(task, mode, folder.resolve(), session, as_json=as_json))
    if finished.stop.reason not in (Reason.DONE, Reason.QUESTION):
        raise typer.Exit(1)


def serve() -> None:
    """Serve an editor by the Agent Client Protocol, on stdin and stdout."""
    chosen, _ = settings.load()
    asyncio.run(_serve(chosen))


async def _serve(chosen: settings.Settings) -> None:
    import acp
    from acp.connection import Connection

    from assistant.agent.acp_client import Messages
    from assistant.agent.acp_server import AcpAgent

    # The SDK logs message bodies on errors; they may hold the user's code.
    logging.getLogger().addHandler(logging.NullHandler())
    paths.state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    await asyncio.to_thread(can_confine)
    agent = AcpAgent(chosen)
    with _own_stdout():
        try:
            reader, writer = await acp.stdio_streams(limit=_MESSAGE_BYTES)
        except ValueError as error:
            raise RequestError(
                "stdin and stdout must be pipes", advice="Start it from an ACP client"
            ) from error
        connection = Connection(agent.router(), Messages(reader, writer), listening=False)
        agent.client.connection = connection
        try:
            await connection.main_loop()
        finally:
            await agent.aclose()
            await asyncio.shield(connection.close())


@contextlib.contextmanager
def _own_stdout() -> Iterator[None]:
    """Whatever else prints must not end up between the messages."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    before, sys.stdout = sys.stdout, channel
    try:
        yield
    finally:
        sys.stdout = before


async def _work(
    task: str, mode: Mode | None, folder: Path, session_id: str, *, as_json: bool
) -> Finished:
    chosen, problems = settings.load()
    for problem in problems:
        say(f"underkeel: {problem}", err=True)
    store = SessionStore()
    if session_id == "last":
        records = [one for one in store.list() if one.roots[0] == str(folder)]
        if not records:
            raise RequestError("there is no session in this folder", subject=str(folder))
        session_id = records[0].id
    servers, wrong = configured(chosen.agent.mcp_servers)
    for line in wrong:
        say(f"underkeel: {line}", err=True)
    stored = store.load(session_id) if session_id else store.create((folder,), chosen.agent.mode)
    async with DaemonClient() as client:
        session = AgentSession(
            stored,
            DaemonModel(
                client,
                answer_tokens=chosen.agent.answer_tokens,
                document=f"agent {stored.record.id}",
            ),
            limits=Limits(steps=chosen.agent.steps, time_s=chosen.agent.time_limit_s),
            allowed=chosen.agent.allow,
            excludes=chosen.completion.excludes,
            servers=servers,
        )
        if mode is not None:
            session.set_mode(mode)
        frontend = JsonLines() if as_json else Terminal(session)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, session.cancel)
        try:
            finished = await session.run(task, frontend)
        finally:
            await session.aclose()
    frontend.end(finished, stored.record.id)
    return finished


class Terminal:
    """Prints a turn, and asks for approval."""

    def __init__(self, session: AgentSession) -> None:
        self._session = session
        self._asks = sys.stdin.isatty() and sys.stdout.isatty()

    async def text(self, text: str) -> None:
        typer.echo(printable(text, lines=True), nl=False)

    async def thought(self, text: str) -> None:
        pass

    async def usage(self, used: int, size: int) -> None:
        pass

    async def call_started(self, call: ToolCall, planned: Planned | None) -> None:
        say("", f"• {planned.title if planned else call.name}")
        if planned is not None and planned.access is not Access.READ:
            for line in self._diff(planned):
                say(f"    {line}")

    async def call_ended(
        self,
        call: ToolCall,  # noqa: ARG002
        planned: Planned | None,
        outcome: Outcome,
    ) -> None:
        if outcome.failed:
            say(f"    {outcome.text.splitlines()[0] if outcome.text else 'failed'}")
        elif planned is not None and planned.access is Access.COMMAND:
            say(*(f"    {line}" for line in outcome.text.splitlines()[:20]))
        elif outcome.plan is not None:
            say(*(f"    {line}" for line in outcome.text.splitlines()[1:]))

    async def approve(
        self,
        call: ToolCall,  # noqa: ARG002
        planned: Planned,
    ) -> Approval:
        if not self._asks:
            say("    refused: there is no terminal to ask in", err=True)
            return Approval.REJECT
        if planned.warning:
            say(f"    {planned.warning}")
        always = always_allows(planned.command) if planned.command else ""
        choices = "[y]es, [n]o, [s]top" + (f", [a]lways ({always})" if always else "")
        typer.echo(printable(f"    Allow this? {choices}: "), nl=False)
        reply = (await asyncio.to_thread(sys.stdin.readline)).strip().lower()
        if reply in ("a", "always") and always:
            return Approval.ALWAYS
        known = {"y": Approval.ONCE, "yes": Approval.ONCE, "s": Approval.CANCEL}
        return known.get(reply, Approval.REJECT)

    def end(self, finished: Finished, session_id: str) -> None:
        typer.echo("")
        tokens = finished.prompt_tokens
        share = finished.cached_tokens * 100 // tokens if tokens else 0
        say(
            f"{finished.stop.reason.value}, {finished.steps} steps, {tokens} prompt tokens "
            f"({share} % from the KV cache), {finished.generated_tokens} generated. "
            f"Session {session_id}",
            err=True,
        )

    def _diff(self, planned: Planned) -> list[str]:
        from assistant.agent.editing import unified

        lines = [
            line
            for one in planned.diffs
            for line in unified(self._session.workspace, one).splitlines()
        ]
        if len(lines) > _MOST_DIFF_LINES:
            more = len(lines) - _MOST_DIFF_LINES
            lines = [*lines[:_MOST_DIFF_LINES], f"[{more} more lines]"]
        return lines


class JsonLines:
    """Prints a turn as JSON, one object a line; what needs approval is refused."""

    async def text(self, text: str) -> None:
        self._print("text", text=text)

    async def thought(self, text: str) -> None:
        self._print("thought", text=plain(text))

    async def usage(self, used: int, size: int) -> None:
        self._print("usage", used=used, size=size)

    async def call_started(self, call: ToolCall, planned: Planned | None) -> None:
        self._print("call", id=call.id, name=call.name, title=planned.title if planned else "")

    async def call_ended(
        self,
        call: ToolCall,
        planned: Planned | None,  # noqa: ARG002
        outcome: Outcome,
    ) -> None:
        self._print(
            "result",
            id=call.id,
            text=outcome.text,
            failed=outcome.failed,
            changed=outcome.changed,
        )

    async def approve(self, call: ToolCall, planned: Planned) -> Approval:
        self._print("refused", id=call.id, title=planned.title)
        return Approval.REJECT

    def end(self, finished: Finished, session_id: str) -> None:
        self._print(
            "end",
            reason=finished.stop.reason.value,
            message=finished.stop.message,
            session=session_id,
            steps=finished.steps,
            prompt_tokens=finished.prompt_tokens,
            cached_tokens=finished.cached_tokens,
            generated_tokens=finished.generated_tokens,
        )

    @staticmethod
    def _print(kind: str, **fields: Any) -> None:
        print_json({"event": kind, **fields})
