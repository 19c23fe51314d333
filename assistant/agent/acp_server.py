"""`underkeel acp`: an agent of the Agent Client Protocol, version 1, on stdin and stdout.

Thin: it maps the protocol's requests to `AgentSession` and what happens there to its updates. It
serves one client with any number of sessions, and loads no model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import acp
from acp import schema
from acp.agent.router import build_agent_router
from acp.connection import Connection
from acp.meta import AGENT_METHODS, CLIENT_METHODS
from acp.utils import normalize_result, notify_model, request_model

from assistant import __version__, paths
from assistant.agent.commands import can_confine, plain
from assistant.agent.conversation import ToolCall
from assistant.agent.loop import Reason
from assistant.agent.mcp_servers import Server, configured
from assistant.agent.model import DaemonModel, Model
from assistant.agent.permissions import MODES, Mode, always_allows
from assistant.agent.project_rules import slash_commands
from assistant.agent.session import AgentSession, Approval
from assistant.agent.sessions import Record, SessionStore, StoredSession
from assistant.agent.tools import Access, Outcome, Planned
from assistant.agent.workspace import ToolError
from assistant.client import DaemonClient
from assistant.errors import RequestError, UnderkeelError
from assistant.settings import Settings

T = TypeVar("T")

_PAGE = 50
_LIMIT_BYTES = 50 << 20
_MOST_RESOURCE_CHARS = 20_000
_MOST_UNSAVED = 1000
_CLIENT_S = 10.0  # for the client's files; nobody is asked there
_NOT_FOUND, _NOT_TEXT = -32002, -32003  # a file that no buffer has; unsaved, and no text
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
        self._client = DaemonClient()
        self._make_model = make_model or self._daemon_model
        self._sessions: dict[str, AgentSession] = {}
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._has_diagnostics = self._lists_unsaved = self._has_files = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.connection: Connection | None = None

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
        meta = (client_capabilities.field_meta if client_capabilities else None) or {}
        ours = meta.get("underkeel")
        ours = ours if isinstance(ours, dict) else {}
        self._has_diagnostics = ours.get("diagnostics") is True
        self._lists_unsaved = ours.get("unsaved") is True
        files = client_capabilities.fs if client_capabilities else None
        self._has_files = bool(files and files.read_text_file and files.write_text_file)
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
        self._open(stored, mcp_servers)
        return schema.NewSessionResponse(
            session_id=stored.record.id,
            modes=_modes(stored.record),
            config_options=_options(stored.record),
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
        session = self._reopened(session_id, cwd, additional_directories, mcp_servers)
        await self._replay(session)
        record = session.stored.record
        return schema.LoadSessionResponse(modes=_modes(record), config_options=_options(record))

    @_mapped
    async def resume_session(
        self,
        session_id: str,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[Any] | None = None,
        **_: Any,
    ) -> schema.ResumeSessionResponse:
        session = self._reopened(session_id, cwd, additional_directories, mcp_servers)
        record = session.stored.record
        return schema.ResumeSessionResponse(modes=_modes(record), config_options=_options(record))

    @_mapped
    async def list_sessions(
        self, cwd: str | None = None, cursor: str | None = None, **_: Any
    ) -> schema.ListSessionsResponse:
        records = [one for one in self._store.list() if cwd is None or one.roots[0] == cwd]
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
        session = self._sessions.pop(session_id, None)
        if session is not None:
            await session.aclose()
        return schema.CloseSessionResponse()

    @_mapped
    async def set_session_mode(
        self, session_id: str, mode_id: str, **_: Any
    ) -> schema.SetSessionModeResponse:
        self._session(session_id).set_mode(_mode(mode_id))
        return schema.SetSessionModeResponse()

    @_mapped
    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **_: Any
    ) -> schema.SetSessionConfigOptionResponse:
        session = self._session(session_id)
        if config_id != "mode":
            raise RequestError("there is no such option", subject=config_id[:64])
        session.set_mode(_mode(str(value)))
        await self.update(
            session_id,
            schema.CurrentModeUpdate(
                session_update="current_mode_update", current_mode_id=session.mode.value
            ),
        )
        return schema.SetSessionConfigOptionResponse(config_options=_options(session.stored.record))

    @_mapped
    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> schema.PromptResponse:
        session = self._session(session_id)
        if session_id in self._running:
            raise RequestError("this session is at work", advice="Cancel it, or wait for its end")
        text = _prompt_text(prompt)
        frontend = _AcpFrontend(self, session_id, session)
        titled = bool(session.stored.record.title)
        task = asyncio.create_task(session.run(text, frontend))
        self._running[session_id] = task
        try:
            finished = await task
        finally:
            self._running.pop(session_id, None)
        if not titled:
            await self.update(
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
        await self._client.aclose()

    def _daemon_model(self, session_id: str) -> Model:
        tokens = self._settings.agent.answer_tokens
        return DaemonModel(self._client, answer_tokens=tokens, document=f"agent {session_id}")

    def _open(self, stored: StoredSession, servers: list[Any] | None) -> AgentSession:
        from assistant.agent.loop import Limits

        chosen = self._settings.agent
        session = AgentSession(
            stored,
            self._make_model(stored.record.id),
            limits=Limits(steps=chosen.steps, time_s=chosen.time_limit_s),
            allowed=chosen.allow,
            excludes=self._settings.completion.excludes,
            diagnose=self._diagnose(stored.record.id) if self._has_diagnostics else None,
            editor=self._files(stored.record.id) if self._has_files else None,
            servers=[*configured(chosen.mcp_servers)[0], *_servers(servers or [])],
        )
        self._sessions[stored.record.id] = session
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
        await self.update(
            session_id,
            schema.AvailableCommandsUpdate(
                session_update="available_commands_update", available_commands=commands
            ),
        )

    def _reopened(
        self, session_id: str, cwd: str, more: list[str] | None, servers: list[Any] | None
    ) -> AgentSession:
        known = self._sessions.get(session_id)
        if known is not None:
            return known
        stored = self._store.load(session_id)
        stored.record.roots = tuple(map(str, _roots(cwd, more)))
        return self._open(stored, servers)

    def _session(self, session_id: str) -> AgentSession:
        session = self._sessions.get(session_id)
        if session is None:
            raise RequestError(
                "this session is not open", subject=session_id[:64], advice="Load or resume it"
            )
        return session

    def _diagnose(self, session_id: str) -> Callable[[Path | None], Awaitable[str | None]]:
        async def diagnose(path: Path | None) -> str | None:
            assert self.connection is not None
            params = {"sessionId": session_id, "path": str(path) if path else None}
            try:
                found = await self.connection.send_request("_underkeel/diagnostics", params)
            except acp.RequestError:
                return None
            text = found.get("text") if isinstance(found, dict) else None
            return text if isinstance(text, str) else None

        return diagnose

    def _files(self, session_id: str) -> _ClientFiles:
        assert self.connection is not None
        return _ClientFiles(self.connection, session_id, lists_unsaved=self._lists_unsaved)

    async def _replay(self, session: AgentSession) -> None:
        """Show the whole session to the client again."""
        session_id = session.stored.record.id
        for turn in session.stored.turns:
            await self.update(session_id, acp.update_user_message_text(turn.prompt))
            for step in turn.steps:
                if step.text:
                    await self.update(session_id, acp.update_agent_message_text(plain(step.text)))
                for call, result in zip(step.calls, step.results, strict=True):
                    await self.update(
                        session_id,
                        acp.start_tool_call(
                            call.id,
                            result.line or call.name,
                            status="failed" if result.failed else "completed",
                            content=[acp.tool_content(acp.text_block(plain(result.text)))],
                        ),
                    )

    async def update(self, session_id: str, update: Any) -> None:
        """Send an update of a session; a client that has left misses it."""
        if self.connection is None:
            return
        with contextlib.suppress(ConnectionError, acp.RequestError):
            await notify_model(
                self.connection,
                CLIENT_METHODS["session_update"],
                schema.SessionNotification(session_id=session_id, update=update),
            )


class _AcpFrontend:
    """Shows a turn to the client."""

    def __init__(self, agent: AcpAgent, session_id: str, session: AgentSession) -> None:
        self._agent = agent
        self._id = session_id
        self._session = session

    async def text(self, text: str) -> None:
        await self._agent.update(self._id, acp.update_agent_message_text(text))

    async def thought(self, text: str) -> None:
        await self._agent.update(self._id, acp.update_agent_thought_text(plain(text)))

    async def usage(self, used: int, size: int) -> None:
        await self._agent.update(
            self._id, schema.UsageUpdate(session_update="usage_update", used=used, size=size)
        )

    async def call_started(self, call: ToolCall, planned: Planned | None) -> None:
        await self._agent.update(
            self._id,
            acp.start_tool_call(
                call.id,
                _title(call, planned),
                kind=planned.kind if planned else "other",  # type: ignore[arg-type]
                status="pending",
                content=_diffs(planned),
                locations=_locations(planned),
                raw_input={"name": call.name, "arguments": call.arguments[:4000]},
            ),
        )

    async def call_ended(self, call: ToolCall, planned: Planned | None, outcome: Outcome) -> None:
        content = _diffs(planned) if outcome.changed else []
        content.append(acp.tool_content(acp.text_block(outcome.text)))
        await self._agent.update(
            self._id,
            acp.update_tool_call(
                call.id, status="failed" if outcome.failed else "completed", content=content
            ),
        )
        if outcome.plan is not None:
            entries = [
                acp.plan_entry(text, status=status)  # type: ignore[arg-type]
                for text, status in outcome.plan
            ]
            await self._agent.update(self._id, acp.update_plan(entries))

    async def approve(self, call: ToolCall, planned: Planned) -> Approval:
        always = _always(planned, self._session.mode)
        options = [schema.PermissionOption(option_id="once", name="Allow", kind="allow_once")]
        if always:
            options.append(
                schema.PermissionOption(option_id="always", name=always, kind="allow_always")
            )
        options.append(
            schema.PermissionOption(option_id="reject", name="Reject", kind="reject_once")
        )
        content: list[Any] = _diffs(planned)
        if planned.warning:
            content.append(acp.tool_content(acp.text_block(planned.warning)))
        connection = self._agent.connection
        assert connection is not None
        try:
            answer = await request_model(
                connection,
                CLIENT_METHODS["session_request_permission"],
                schema.RequestPermissionRequest(
                    session_id=self._id,
                    options=options,
                    tool_call=schema.ToolCallUpdate(
                        tool_call_id=call.id,
                        title=_title(call, planned),
                        kind=planned.kind,  # type: ignore[arg-type]
                        status="pending",
                        content=content or None,
                        locations=_locations(planned),
                        raw_input={"command": planned.command} if planned.command else None,
                    ),
                ),
                schema.RequestPermissionResponse,
            )
        except (acp.RequestError, ConnectionError, ValueError):
            return Approval.REJECT  # a client that cannot ask has not approved
        if not isinstance(answer.outcome, schema.AllowedOutcome):
            return Approval.CANCEL
        chosen = answer.outcome.option_id
        offered = {option.option_id for option in options}
        return Approval(chosen) if chosen in offered else Approval.REJECT


class _ClientFiles:
    """The client's files, as `workspace.EditorFiles`: `fs/*` and `_underkeel/unsaved`."""

    def __init__(self, connection: Connection, session_id: str, *, lists_unsaved: bool) -> None:
        self._connection = connection
        self._id = session_id
        self._lists_unsaved = lists_unsaved
        self._loop = asyncio.get_running_loop()

    def unsaved(self) -> frozenset[Path] | None:
        if not self._lists_unsaved:
            return None
        try:
            found = self._request("_underkeel/unsaved", {"sessionId": self._id})
        except acp.RequestError:
            return None
        names = found.get("paths") if isinstance(found, dict) else None
        names = names if isinstance(names, list) else []
        paths = [one for one in names[:_MOST_UNSAVED] if isinstance(one, str) and "\0" not in one]
        return frozenset(Path(one).resolve() for one in paths)

    def read(self, path: Path) -> str | None:
        request = schema.ReadTextFileRequest(session_id=self._id, path=str(path))
        try:
            found = self._request(CLIENT_METHODS["fs_read_text_file"], _wire(request))
        except acp.RequestError as error:
            if error.code == _NOT_TEXT:
                raise ToolError(
                    f"The editor cannot give {path.name}: {plain(str(error))}"
                ) from error
            return None  # not one of its files
        content = found.get("content") if isinstance(found, dict) else None
        return content if isinstance(content, str) else None

    def write(self, path: Path, text: str) -> bool:
        request = schema.WriteTextFileRequest(session_id=self._id, path=str(path), content=text)
        try:
            self._request(CLIENT_METHODS["fs_write_text_file"], _wire(request))
        except acp.RequestError as error:
            if error.code == _NOT_FOUND:
                return False
            why = plain(str(error))[:300]
            raise ToolError(f"The editor did not write {path.name}: {why}") from error
        return True

    def _request(self, method: str, params: dict[str, Any]) -> Any:
        async def send() -> Any:
            async with asyncio.timeout(_CLIENT_S):
                return await self._connection.send_request(method, params)

        try:
            return asyncio.run_coroutine_threadsafe(send(), self._loop).result()
        except (TimeoutError, ConnectionError) as error:
            raise ToolError("The editor does not answer. Try again later.") from error


def _wire(request: Any) -> dict[str, Any]:
    written: dict[str, Any] = request.model_dump(by_alias=True, exclude_none=True)
    return written


def _title(call: ToolCall, planned: Planned | None) -> str:
    return plain(planned.title if planned else call.name)[:500] or "call"


def _always(planned: Planned, mode: Mode) -> str:
    """The name of the option that allows more than this call; empty where there is none."""
    if planned.access is Access.COMMAND:
        allows = always_allows(planned.command)
        return f"Always allow: {allows}" if allows else ""
    if planned.access is Access.FOREIGN:
        server = planned.tool.startswith("server:")
        return "Always allow this server" if server else "Always allow this tool"
    return "Allow all edits" if planned.access is Access.EDIT and mode is Mode.ASK else ""


def _diffs(planned: Planned | None) -> list[Any]:
    return [
        acp.tool_diff_content(str(one.path), one.new or "", one.old)
        for one in (planned.diffs if planned else ())
    ]


def _locations(planned: Planned | None) -> list[schema.ToolCallLocation] | None:
    if planned is None or not planned.paths:
        return None
    return [
        schema.ToolCallLocation(path=str(path), line=planned.line if at == 0 else None)
        for at, path in enumerate(planned.paths)
    ]


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


def _modes(record: Record) -> schema.SessionModeState:
    return schema.SessionModeState(
        current_mode_id=record.mode,
        available_modes=[
            schema.SessionMode(id=mode.value, name=mode.value.capitalize(), description=text)
            for mode, text in MODES.items()
        ],
    )


def _options(record: Record) -> list[Any]:
    return [
        schema.SessionConfigOptionSelect(
            type="select",
            id="mode",
            name="Mode",
            category="mode",
            current_value=record.mode,
            options=[
                schema.SessionConfigSelectOption(
                    value=mode.value, name=mode.value.capitalize(), description=text
                )
                for mode, text in MODES.items()
            ],
        )
    ]


def _info(record: Record) -> schema.SessionInfo:
    return schema.SessionInfo(
        session_id=record.id,
        cwd=record.roots[0],
        additional_directories=list(record.roots[1:]) or None,
        title=record.title or None,
        updated_at=_time(record),
    )


def _servers(given: list[Any]) -> list[Server]:
    """The client's MCP servers; of transports that we do not offer there are none."""
    found = []
    for one in given:
        if isinstance(one, schema.McpServerStdio):
            variables = tuple((each.name, each.value) for each in one.env or ())
            found.append(Server(one.name, (one.command, *one.args), variables=variables))
        elif isinstance(one, schema.HttpMcpServer):
            variables = tuple((each.name, each.value) for each in one.headers or ())
            found.append(Server(one.name, url=one.url, variables=variables))
    return found


def _time(record: Record) -> str:
    return datetime.fromtimestamp(record.updated_at, UTC).isoformat()


def _prompt_text(blocks: list[Any]) -> str:
    """The prompt as text; attached files are quoted as data."""
    parts = []
    for block in blocks:
        if isinstance(block, schema.TextContentBlock):
            parts.append(block.text)
        elif isinstance(block, schema.ResourceContentBlock):
            parts.append(f"(Attached: {block.uri.removeprefix('file://')})")
        elif isinstance(block, schema.EmbeddedResourceContentBlock):
            parts.append(_resource(block.resource))
        else:
            raise RequestError("only text and files can be part of a prompt")
    return "\n".join(parts)


def _resource(resource: Any) -> str:
    text = getattr(resource, "text", None)
    name = resource.uri.removeprefix("file://")
    if not isinstance(text, str):
        raise RequestError("only text can be attached", subject=name[:200])
    if len(text) > _MOST_RESOURCE_CHARS:
        left_out = len(text) - _MOST_RESOURCE_CHARS
        text = f"{text[:_MOST_RESOURCE_CHARS]}\n[{left_out} characters left out; read the file]"
    return f"Attached text of {name}:\n{text}"


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


async def serve(settings: Settings) -> None:
    """Serve the client on stdin and stdout until it leaves."""
    # The SDK logs message bodies on errors; they may hold the user's code.
    logging.getLogger().addHandler(logging.NullHandler())
    paths.state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    await asyncio.to_thread(can_confine)
    agent = AcpAgent(settings)
    with _own_stdout():
        try:
            reader, writer = await acp.stdio_streams(limit=_LIMIT_BYTES)
        except ValueError as error:
            raise RequestError(
                "stdin and stdout must be pipes", advice="Start it from an ACP client"
            ) from error
        agent.connection = Connection(agent.router(), writer, reader, listening=False)
        try:
            await agent.connection.main_loop()
        finally:
            await agent.aclose()
            await asyncio.shield(agent.connection.close())
