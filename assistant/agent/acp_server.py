"""`underkeel acp`: an agent of the Agent Client Protocol, version 1.

Thin: it maps the protocol's requests to `AgentSession` and what happens there to its updates. It
serves one client with any number of sessions, and loads no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import acp
from acp import schema
from acp.agent.router import build_agent_router
from acp.meta import AGENT_METHODS
from acp.utils import normalize_result

from assistant import __version__
from assistant.agent.acp_client import (
    Client,
    ClientFrontend,
    modes_of,
    options_of,
    prompt_text,
)
from assistant.agent.conversation import Record, SessionStore, StoredSession
from assistant.agent.loop import Reason
from assistant.agent.mcp_servers import Server, configured
from assistant.agent.model import DaemonModel, Model
from assistant.agent.permissions import Mode
from assistant.agent.reading import slash_commands
from assistant.agent.session import AgentSession
from assistant.client.client import DaemonClient
from assistant.errors import RequestError, UnderkeelError
from assistant.settings import Settings

T = TypeVar("T")

_PAGE = 50
_ERROR_CODE = -32000  # the first of those that JSON-RPC leaves to servers

_STOP_REASONS: dict[Reason, schema.StopReason] = {
    Reason.DONE: "end_turn",
    Reason.QUESTION: "end_turn",
    Reason.UNUSABLE: "end_turn",
    Reason.REPETITION: "end_turn",
    Reason.FAILURE: "end_turn",
    Reason.CANCELLED: "cancelled",
    Reason.STEPS: "max_turn_requests",
    Reason.TIME: "max_turn_requests",
    Reason.TOKENS: "max_tokens",
    Reason.SPACE: "max_tokens",
}


def _mapped(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Our errors as the protocol's, with the message and the advice."""

    @wraps(method)
    async def mapped(*given: Any, **named: Any) -> T:
        try:
            return await method(*given, **named)
        except RequestError as error:
            raise acp.RequestError(-32602, str(error), {"code": error.code}) from error
        except UnderkeelError as error:
            raise acp.RequestError(_ERROR_CODE, str(error), {"code": error.code}) from error

    return mapped


class AcpAgent:
    """The agent as the SDK's router calls it.

    Args:
        make_model: a model for a session; the daemon's by default.
    """

    def __init__(
        self,
        settings: Settings,
        store: SessionStore | None = None,
        make_model: Callable[[str], Model] | None = None,
    ) -> None:
        self._settings = settings
        self._store = store or SessionStore()
        self._daemon = DaemonClient()
        self._make_model = make_model or self._daemon_model
        self._sessions: dict[str, AgentSession] = {}
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._opened_with: dict[str, tuple[object, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.client = Client()

    def router(self) -> Any:
        """What handles the protocol's messages; the SDK has no route for `session/delete` yet."""
        router = build_agent_router(self, use_unstable_protocol=True)  # type: ignore[arg-type]
        router.route_request(
            AGENT_METHODS["session_delete"],
            schema.DeleteSessionRequest,
            self,
            "delete_session",
            adapt_result=normalize_result,
        )
        return router

    async def initialize(
        self,
        protocol_version: int,  # noqa: ARG002 - there is one version
        client_capabilities: schema.ClientCapabilities | None = None,
        client_info: schema.Implementation | None = None,  # noqa: ARG002
        **_: Any,
    ) -> schema.InitializeResponse:
        self.client.set_capabilities(client_capabilities)
        return schema.InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION,
            agent_capabilities=schema.AgentCapabilities(
                load_session=True,
                mcp_capabilities=schema.McpCapabilities(http=True),
                prompt_capabilities=schema.PromptCapabilities(embedded_context=True),
                session_capabilities=schema.SessionCapabilities(
                    list=schema.SessionListCapabilities(),
                    delete=schema.SessionDeleteCapabilities(),
                    resume=schema.SessionResumeCapabilities(),
                    close=schema.SessionCloseCapabilities(),
                    additional_directories=schema.SessionAdditionalDirectoriesCapabilities(),
                ),
            ),
            agent_info=schema.Implementation(
                name="underkeel", title="Underkeel", version=__version__
            ),
            auth_methods=[],
        )

    @_mapped
    async def new_session(
        self,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[Any] | None = None,
        **_: Any,
    ) -> schema.NewSessionResponse:
        roots = _roots(cwd, additional_directories)
        stored = self._store.create(roots, self._settings.agent.mode)
        self._open(stored, _servers(mcp_servers))
        return schema.NewSessionResponse(
            session_id=stored.record.id,
            modes=modes_of(stored.record),
            config_options=options_of(stored.record),
        )

    @_mapped
    async def load_session(
        self,
        cwd: str,
        session_id: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[Any] | None = None,
        **_: Any,
    ) -> schema.LoadSessionResponse:
        session = await self._reopened(session_id, cwd, additional_directories, mcp_servers)
        await self.client.replay(session)
        record = session.stored.record
        return schema.LoadSessionResponse(modes=modes_of(record), config_options=options_of(record))

    @_mapped
    async def resume_session(
        self,
        session_id: str,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[Any] | None = None,
        **_: Any,
    ) -> schema.ResumeSessionResponse:
        session = await self._reopened(session_id, cwd, additional_directories, mcp_servers)
        record = session.stored.record
        return schema.ResumeSessionResponse(
            modes=modes_of(record), config_options=options_of(record)
        )

    @_mapped
    async def list_sessions(
        self, cwd: str | None = None, cursor: str | None = None, **_: Any
    ) -> schema.ListSessionsResponse:
        records = self._store.list()
        if cwd is not None:
            records = [one for one in records if Path(one.roots[0]) == Path(cwd)]
        start = int(cursor) if cursor and cursor.isdecimal() and len(cursor) < 9 else 0
        page = records[start : start + _PAGE]
        more = start + _PAGE < len(records)
        return schema.ListSessionsResponse(
            sessions=[_info(record) for record in page],
            next_cursor=str(start + _PAGE) if more else None,
        )

    @_mapped
    async def delete_session(self, session_id: str, **_: Any) -> schema.DeleteSessionResponse:
        await self.close_session(session_id)
        self._store.delete(session_id)
        return schema.DeleteSessionResponse()

    async def close_session(self, session_id: str, **_: Any) -> schema.CloseSessionResponse:
        await self.cancel(session_id)
        if (task := self._running.get(session_id)) is not None:
            await asyncio.gather(task, return_exceptions=True)
        self._opened_with.pop(session_id, None)
        session = self._sessions.pop(session_id, None)
        if session is not None:
            await session.aclose()
        return schema.CloseSessionResponse()

    @_mapped
    async def set_session_mode(
        self, session_id: str, mode_id: str, **_: Any
    ) -> schema.SetSessionModeResponse:
        session = self._session(session_id)
        session.set_mode(_mode(mode_id))
        await self.client.show_options(session.stored.record)
        return schema.SetSessionModeResponse()

    @_mapped
    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **_: Any
    ) -> schema.SetSessionConfigOptionResponse:
        session = self._session(session_id)
        if config_id != "mode":
            raise RequestError("there is no such option", subject=config_id[:64])
        session.set_mode(_mode(str(value)))
        await self.client.show_mode(session.stored.record)
        return schema.SetSessionConfigOptionResponse(
            config_options=options_of(session.stored.record)
        )

    @_mapped
    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> schema.PromptResponse:
        session = self._session(session_id)
        if session_id in self._running:
            raise RequestError("this session is at work", advice="Cancel it, or wait for its end")
        text = prompt_text(prompt)
        frontend = ClientFrontend(self.client, session_id, session)
        titled = bool(session.stored.record.title)
        task = asyncio.create_task(session.run(text, frontend))
        self._running[session_id] = task
        try:
            finished = await task
        finally:
            self._running.pop(session_id, None)
        if not titled:
            await self.client.update(
                session_id,
                schema.SessionInfoUpdate(
                    session_update="session_info_update",
                    title=session.stored.record.title,
                    updated_at=_time(session.stored.record),
                ),
            )
        return schema.PromptResponse(
            stop_reason=_STOP_REASONS[finished.stop.reason],
            usage=schema.Usage(
                total_tokens=finished.prompt_tokens + finished.generated_tokens,
                input_tokens=finished.prompt_tokens,
                output_tokens=finished.generated_tokens,
                cached_read_tokens=finished.cached_tokens,
            ),
            field_meta={"underkeel": {"reason": finished.stop.reason.value}},
        )

    async def cancel(self, session_id: str, **_: Any) -> None:
        session = self._sessions.get(session_id)
        if session is not None and session_id in self._running:
            session.cancel()

    @_mapped
    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """`_underkeel/undo`: one step undoes all changes of a session."""
        if method == "underkeel/undo":
            session = self._session(str(params.get("sessionId", "")))
            return {"message": await asyncio.to_thread(session.undo)}
        raise acp.RequestError.method_not_found(f"_{method}")

    async def ext_notification(self, method: str, params: dict[str, Any]) -> None:
        pass

    async def aclose(self) -> None:
        """Stop what runs; sessions stay on disk."""
        for session_id in list(self._sessions):
            await self.close_session(session_id)
        await self._daemon.aclose()

    def _daemon_model(self, session_id: str) -> Model:
        tokens = self._settings.agent.answer_tokens
        return DaemonModel(self._daemon, answer_tokens=tokens, document=f"agent {session_id}")

    def _open(self, stored: StoredSession, servers: list[Server]) -> AgentSession:
        from assistant.agent.loop import Limits

        chosen = self._settings.agent
        session = AgentSession(
            stored,
            self._make_model(stored.record.id),
            limits=Limits(steps=chosen.steps, time_s=chosen.time_limit_s),
            allowed=chosen.allow,
            excludes=self._settings.completion.excludes,
            diagnose=self.client.diagnose(stored.record.id),
            editor=self.client.files(stored.record.id),
            servers=[*configured(chosen.mcp_servers)[0], *servers],
        )
        self._sessions[stored.record.id] = session
        self._opened_with[stored.record.id] = (stored.record.roots, *servers)
        # After the response: a client may not know the session before.
        task = asyncio.create_task(self._announce(stored.record.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return session

    async def _announce(self, session_id: str) -> None:
        await asyncio.sleep(0.05)
        commands = [
            schema.AvailableCommand(name=name, description=row["description"])
            for name, row in slash_commands().items()
        ]
        await self.client.update(
            session_id,
            schema.AvailableCommandsUpdate(
                session_update="available_commands_update", available_commands=commands
            ),
        )

    async def _reopened(
        self, session_id: str, cwd: str, more: list[str] | None, mcp_servers: list[Any] | None
    ) -> AgentSession:
        """A session that is open, or from disk; opened again for other folders or servers."""
        roots, servers = tuple(map(str, _roots(cwd, more))), _servers(mcp_servers)
        known = self._sessions.get(session_id)
        if known is not None and self._opened_with[session_id] == (roots, *servers):
            return known
        if session_id in self._running:
            raise RequestError("this session is at work", advice="Cancel it, or wait for its end")
        await self.close_session(session_id)
        stored = self._store.load(session_id)
        stored.record.roots = roots
        stored.save()
        return self._open(stored, servers)

    def _session(self, session_id: str) -> AgentSession:
        session = self._sessions.get(session_id)
        if session is None:
            raise RequestError(
                "this session is not open", subject=session_id[:64], advice="Load or resume it"
            )
        return session


def _roots(cwd: str, more: list[str] | None) -> tuple[Path, ...]:
    roots = []
    for name in (cwd, *(more or ())):
        path = Path(name)
        if not path.is_absolute() or not path.is_dir():
            raise RequestError("this is no absolute path of a folder", subject=name[:400])
        roots.append(path)
    return tuple(roots)


def _mode(name: str) -> Mode:
    try:
        return Mode(name)
    except ValueError as error:
        raise RequestError(
            "there is no such mode", subject=name[:64], advice=f"Use one of: {', '.join(Mode)}"
        ) from error


def _info(record: Record) -> schema.SessionInfo:
    return schema.SessionInfo(
        session_id=record.id,
        cwd=record.roots[0],
        additional_directories=list(record.roots[1:]) or None,
        title=record.title or None,
        updated_at=_time(record),
    )


def _servers(given: list[Any] | None) -> list[Server]:
    """The client's MCP servers; of transports that we do not offer there are none."""
    found = []
    for one in given or ():
        if isinstance(one, schema.McpServerStdio):
            variables = tuple((each.name, each.value) for each in one.env or ())
            found.append(Server(one.name, (one.command, *one.args), variables=variables))
        elif isinstance(one, schema.HttpMcpServer):
            variables = tuple((each.name, each.value) for each in one.headers or ())
            found.append(Server(one.name, url=one.url, variables=variables))
    return found


def _time(record: Record) -> str:
    return datetime.fromtimestamp(record.updated_at, UTC).isoformat()
