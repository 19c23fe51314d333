"""MCP servers of the client and of the user's settings: started once approved, and bounded.

What a server says is data: its tools are named after it, each asks for approval, results are cut
like any other, and a server that does not answer is left out. The package `mcp` is imported when
the first server starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from assistant.agent.commands import plain
from assistant.agent.tools import Access, Outcome, Planned, Tool
from assistant.agent.workspace import ToolError

MAX_SERVERS = 8
MAX_TOOLS_EACH = 32
_MAX_DESCRIPTION_CHARS = 300
_MAX_SCHEMA_CHARS = 4000
_MAX_RESULT_CHARS = 200_000
_MAX_APPROVED = 1000
_CONNECT_S = 20.0
_CALL_S = 120.0
_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Server:
    """How to reach a server: `argv` for stdio, `url` for streamable HTTP.

    Attributes:
        variables: of its environment, or headers of its requests.
    """

    name: str
    argv: tuple[str, ...] = ()
    url: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Changes with all that the user approves, so that a changed server is approved again."""
        text = json.dumps([self.name, self.argv, self.url, self.variables])
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]

    @property
    def title(self) -> str:
        """For the user who approves it; values of variables are not shown."""
        names = " ".join(name for name, _ in self.variables)
        what = self.url or shlex.join(self.argv)
        return plain(f"Start the MCP server {self.name}: {what}{f' ({names})' if names else ''}")


def configured(lines: Sequence[str]) -> tuple[list[Server], list[str]]:
    """The servers of the settings, each "name: command line" or "name: URL", and what is wrong."""
    found, wrong = [], []
    for line in lines:
        name, _, what = line.partition(":")
        name, what = name.strip(), what.strip()
        try:
            argv = tuple(shlex.split(what))
        except ValueError:
            argv = ()
        if not name or not argv:
            wrong.append(f'agent.mcp_servers: {line[:80]!r} is not "name: command or URL"')
        elif re.match(r"https?://", what):
            found.append(Server(name, url=what))
        else:
            found.append(Server(name, argv))
    return found, wrong


class Approvals:
    """The servers that the user approved for good; one digest a line in a private file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, server: Server) -> bool:
        with contextlib.suppress(OSError):
            return server.digest in self._path.read_text("utf-8").split()[-_MAX_APPROVED:]
        return False

    def add(self, server: Server) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{server.digest}\n")


@dataclass
class Connection:
    """A running server, in a task of its own: its library wants to be left where it was entered."""

    server: Server
    client: Any = None
    tools: list[Any] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> str:
        """Connect and list the tools.

        Returns:
            Why the server cannot be used; empty where it can.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop.clear()
        self._task = asyncio.create_task(self._serve(ready))
        self._task.add_done_callback(lambda _: ready.done() or ready.cancel())
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.shield(ready)
        except TimeoutError:
            ready.cancel()
            await self.close()
            return f"it does not answer within {_CONNECT_S:g} s"
        except asyncio.CancelledError:
            if not ready.cancelled():
                ready.cancel()
                await self.close()
                raise
            return "it has ended"
        except Exception as error:  # a foreign server fails in any way
            await self.close()
            return _why(error)
        return ""

    async def started(self) -> Outcome:
        """`open`, as the outcome of a call."""
        why = await self.open()
        name = self.server.name
        text = f"{name}: {len(self.tools)} tools." if not why else f"{name} is left out: {why}."
        return Outcome(plain(text), failed=bool(why))

    @property
    def is_open(self) -> bool:
        return self.client is not None and self._task is not None and not self._task.done()

    async def close(self) -> None:
        """End the server."""
        task, self._task = self._task, None
        self._stop.set()
        if task is not None:
            _, slow = await asyncio.wait({task}, timeout=5 if self.client is not None else 0)
            for one in slow:
                one.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Raises ToolError: no answer, or an error of the protocol."""
        if not self.is_open:
            raise ToolError(f"The MCP server {self.server.name} has ended. Do without it.")
        try:
            async with asyncio.timeout(_CALL_S):
                return await self.client.call_tool(name, arguments)
        except TimeoutError as error:
            raise ToolError(f"{self.server.name} did not answer within {_CALL_S:g} s.") from error
        except Exception as error:
            raise ToolError(f"{self.server.name} failed: {_why(error)}") from error

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(await _client(self.server, stack))
                self.tools = (await client.list_tools()).tools[:MAX_TOOLS_EACH]
                self.client = client
                if not ready.done():
                    ready.set_result(None)
                await self._stop.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            self.client = None


async def _client(server: Server, stack: contextlib.AsyncExitStack) -> Any:
    """A client of the server; what it needs is closed with `stack`."""
    from mcp import Client, StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    if server.url:
        http = create_mcp_http_client(dict(server.variables))
        await stack.enter_async_context(http)
        return Client(streamable_http_client(server.url, http_client=http), cache=None)
    parameters = StdioServerParameters(
        command=server.argv[0],
        args=list(server.argv[1:]),
        env=dict(server.variables),
        cwd=Path.home(),  # not the workspace, whose files must not influence the program
        encoding_error_handler="replace",
    )
    return Client(stdio_client(parameters, errlog=stack.enter_context(_nowhere())), cache=None)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _why(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return plain(" ".join(str(error).split()))[:200] or type(error).__name__


Plan = Callable[[dict[str, Any]], Planned]


def tools_of(
    connection: Connection, shown: Callable[[str], str], clip: Callable[[str], str]
) -> dict[str, tuple[Tool, Plan]]:
    """A server's tools by the name that the model uses, each with what plans a call.

    Args:
        shown: masks secrets; clip: cuts a result.
    """
    found = {}
    for one in connection.tools:
        tool = Tool(_tool_name(connection.server.name, one.name), _description(one), "other",
                    core=False, schema=_schema(one.input_schema))  # fmt: skip
        found[tool.name] = (tool, _planner(connection, one.name, tool, shown, clip))
    return found


def _planner(
    connection: Connection,
    name: str,
    tool: Tool,
    shown: Callable[[str], str],
    clip: Callable[[str], str],
) -> Plan:
    def plan(given: dict[str, Any]) -> Planned:
        async def run() -> Outcome:
            result = await connection.call(name, given)
            text = clip(shown(plain(_text(result)[:_MAX_RESULT_CHARS])))
            line = f"Called {tool.name}."
            return Outcome(text or "No output.", line=line, failed=bool(result.is_error))

        arguments = plain(json.dumps(given, ensure_ascii=False))[:300]
        return Planned(
            f"{connection.server.digest}:{name}",
            tool.kind,
            Access.FOREIGN,
            f"{tool.name} {arguments}",
            run,
        )

    return plan


def _text(result: Any) -> str:
    parts = []
    for block in result.content:
        text = getattr(block, "text", None)
        if not isinstance(text, str):
            text = getattr(getattr(block, "resource", None), "text", None)
        parts.append(text if isinstance(text, str) else f"[{block.type} left out]")
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)


def _tool_name(server: str, tool: str) -> str:
    return _NAME.sub("_", f"mcp_{server[:20]}_{tool}")[:64]


def _description(tool: Any) -> str:
    text = " ".join(plain(tool.description or "").split())
    return text[:_MAX_DESCRIPTION_CHARS]


def _schema(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema that is small enough for each prompt; else one that takes any object."""
    try:
        fits = len(json.dumps(given)) <= _MAX_SCHEMA_CHARS
    except (TypeError, ValueError, RecursionError):
        fits = False
    if not fits or not isinstance(given.get("properties", {}), dict):
        return {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {k: v for k, v in given.get("properties", {}).items() if isinstance(v, dict)},
        "required": [one for one in given.get("required", ()) if isinstance(one, str)],
    }
