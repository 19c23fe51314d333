"""The client of `underkeel acp`: what it is shown and asked, and the files that it has open."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import acp
from acp import schema
from acp.connection import Connection
from acp.meta import AGENT_METHODS, CLIENT_METHODS
from acp.utils import notify_model, request_model

from assistant.agent.commands import plain
from assistant.agent.conversation import Record, ToolCall
from assistant.agent.permissions import MODES, Mode, always_allows
from assistant.agent.session import AgentSession, Approval
from assistant.agent.toolbox import Diagnose
from assistant.agent.tools import Access, Outcome, Planned
from assistant.agent.workspace import ToolError
from assistant.errors import RequestError
from context.syntax.text import rewritten

_MOST_RESOURCE_CHARS = 20_000
_MOST_UNSAVED = 1000
_CLIENT_S = 10.0  # for the client's files; nobody is asked there
_NOT_FOUND, _NOT_TEXT = -32002, -32003  # a file that no buffer has; unsaved, and no text


class Client:
    """What is at the other end of the connection.

    Attributes:
        connection: set before the first message.
    """

    connection: Connection

    def __init__(self) -> None:
        self._has_diagnostics = self._lists_unsaved = self._has_files = False

    def set_capabilities(self, given: schema.ClientCapabilities | None) -> None:
        meta = (given.field_meta if given else None) or {}
        ours = meta.get("underkeel")
        ours = ours if isinstance(ours, dict) else {}
        self._has_diagnostics = ours.get("diagnostics") is True
        self._lists_unsaved = ours.get("unsaved") is True
        files = given.fs if given else None
        self._has_files = bool(files and files.read_text_file and files.write_text_file)

    async def update(self, session_id: str, update: Any) -> None:
        """Send an update of a session; a client that has left misses it."""
        with contextlib.suppress(ConnectionError, acp.RequestError):
            await notify_model(
                self.connection,
                CLIENT_METHODS["session_update"],
                schema.SessionNotification(session_id=session_id, update=update),
            )

    async def show_mode(self, record: Record) -> None:
        """Both forms of it: clients know one or the other."""
        await self.update(
            record.id,
            schema.CurrentModeUpdate(
                session_update="current_mode_update", current_mode_id=record.mode
            ),
        )
        await self.show_options(record)

    async def show_options(self, record: Record) -> None:
        await self.update(
            record.id,
            schema.ConfigOptionUpdate(
                session_update="config_option_update", config_options=options_of(record)
            ),
        )

    async def replay(self, session: AgentSession) -> None:
        """Show the whole session again."""
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

    def files(self, session_id: str) -> ClientFiles | None:
        """Its files, where it offers them."""
        if not self._has_files:
            return None
        return ClientFiles(self.connection, session_id, lists_unsaved=self._lists_unsaved)

    def diagnose(self, session_id: str) -> Diagnose | None:
        """What asks for its diagnostics, where it offers them."""

        async def diagnose(path: Path | None) -> str | None:
            params = {"sessionId": session_id, "path": str(path) if path else None}
            try:
                found = await self.connection.send_request("_underkeel/diagnostics", params)
            except acp.RequestError:
                return None
            text = found.get("text") if isinstance(found, dict) else None
            return text if isinstance(text, str) else None

        return diagnose if self._has_diagnostics else None


class ClientFrontend:
    """Shows a turn to the client, and asks for approval."""

    def __init__(self, client: Client, session_id: str, session: AgentSession) -> None:
        self._client = client
        self._id = session_id
        self._session = session
        self._mode = session.mode

    async def text(self, text: str) -> None:
        await self._client.update(self._id, acp.update_agent_message_text(text))

    async def thought(self, text: str) -> None:
        await self._client.update(self._id, acp.update_agent_thought_text(plain(text)))

    async def usage(self, used: int, size: int) -> None:
        await self._client.update(
            self._id, schema.UsageUpdate(session_update="usage_update", used=used, size=size)
        )

    async def call_started(self, call: ToolCall, planned: Planned | None) -> None:
        await self._client.update(
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
        await self._client.update(
            self._id,
            acp.update_tool_call(
                call.id, status="failed" if outcome.failed else "completed", content=content
            ),
        )
        if self._session.mode is not self._mode:  # "Allow all edits" was chosen
            self._mode = self._session.mode
            await self._client.show_mode(self._session.stored.record)
        if outcome.plan is not None:
            entries = [
                acp.plan_entry(text, status=status)  # type: ignore[arg-type]
                for text, status in outcome.plan
            ]
            await self._client.update(self._id, acp.update_plan(entries))

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
        try:
            answer = await request_model(
                self._client.connection,
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


class ClientFiles:
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
    return rewritten(plain(planned.title if planned else call.name))[:500] or "call"


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


def prompt_text(blocks: list[Any]) -> str:
    """The prompt as text; attached files are quoted as data."""
    parts = []
    for block in blocks:
        if isinstance(block, schema.TextContentBlock):
            parts.append(block.text)
        elif isinstance(block, schema.ResourceContentBlock):
            parts.append(f"(Attached: {_path(block.uri)})")
        elif isinstance(block, schema.EmbeddedResourceContentBlock):
            parts.append(_resource(block.resource))
        else:
            raise RequestError("only text and files can be part of a prompt")
    return "\n".join(parts)


def _resource(resource: Any) -> str:
    text = getattr(resource, "text", None)
    name = _path(resource.uri)
    if not isinstance(text, str):
        raise RequestError("only text can be attached", subject=name[:200])
    if len(text) > _MOST_RESOURCE_CHARS:
        left_out = len(text) - _MOST_RESOURCE_CHARS
        text = f"{text[:_MOST_RESOURCE_CHARS]}\n[{left_out} characters left out; read the file]"
    return f"Attached text of {name}:\n{text}"


def modes_of(record: Record) -> schema.SessionModeState:
    """The modes, and the one of the session."""
    return schema.SessionModeState(
        current_mode_id=record.mode,
        available_modes=[
            schema.SessionMode(id=mode.value, name=mode.value.capitalize(), description=text)
            for mode, text in MODES.items()
        ],
    )


def options_of(record: Record) -> list[Any]:
    """The same as a configuration option, for clients that have only those."""
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


class Messages:
    """JSON-RPC messages, one on each line, as the SDK's `Transport`.

    A line that is none gets an error and nothing else happens. A request of the client that is
    cancelled by `$/cancel_request` is cancelled as a turn.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()
        self._turns: dict[str | int | None, Any] = {}

    async def send(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            self._turns.pop(message.get("id"), None)
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        async with self._lock:
            self._writer.write(data)
            await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        while (line := await self._line()) is not None:
            if not line.strip():
                continue
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                await self._refuse(-32700, "This line is no JSON, or too long.")
                continue
            if not _is_message(message):
                await self._refuse(-32600, "This is no message of JSON-RPC 2.0.")
                continue
            return self._with_cancel(message)
        return None

    async def close(self) -> None:
        self._writer.close()

    async def _line(self) -> bytes | None:
        """The next line, None at the end. One above the limit is dropped; its end is no JSON.

        On a socket a client that goes without reading all is a reset connection: an end as well.
        """
        while True:
            try:
                return await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as error:
                await self._reader.readexactly(error.consumed)
            except asyncio.IncompleteReadError as error:
                return error.partial or None
            except ConnectionError:
                return None

    async def _refuse(self, code: int, text: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self.send(
                {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}
            )

    def _with_cancel(self, message: dict[str, Any]) -> dict[str, Any]:
        method, params = message.get("method"), message.get("params")
        params = params if isinstance(params, dict) else {}
        if method == AGENT_METHODS["session_prompt"] and "id" in message:
            self._turns[message["id"]] = params.get("sessionId")
        request = params.get("requestId")
        if method == "$/cancel_request" and isinstance(request, str | int):
            session_id = self._turns.get(request, "")
            params = {"sessionId": session_id}
            return {"jsonrpc": "2.0", "method": AGENT_METHODS["session_cancel"], "params": params}
        return message


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("id"), str | int | None):
        return False
    if "method" in message:
        return isinstance(message["method"], str)
    error = message.get("error")
    return "id" in message and (error is None or isinstance(error, dict))


def _path(uri: str) -> str:
    """As the model should write it: the path of a file, else the URI."""
    is_file = uri.startswith("file://")
    return plain(unquote(uri.removeprefix("file://")) if is_file else uri)[:1000]
