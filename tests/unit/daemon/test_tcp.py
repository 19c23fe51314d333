"""The daemon on loopback TCP: the token, and a client that has nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from daemons import Daemon, serving, until
from fake_engine import DEFAULT_REPLY, FakeEngine
from msgspec.structs import replace

from assistant import paths
from assistant.client.client import DaemonClient
from assistant.daemon.http import app
from assistant.daemon.process import instance
from assistant.engine.types import LoadSpec, ModelInfo, Progress
from assistant.errors import DaemonError
from assistant.wire import CompletionRequest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((paths.LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def run(body: Callable[[Daemon], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(tcp_port=free_port(), **options) as daemon:
            await body(daemon)

    asyncio.run(main())


def test_every_route_wants_the_token(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        way = paths.find_tcp_address()
        assert way is not None
        description = (await daemon.http.get("/openapi.json")).json()
        async with httpx.AsyncClient(base_url=way.base_url, timeout=30) as http:
            for path, methods in description["paths"].items():
                for method in methods:
                    answer = await http.request(method, path, content=b"{}")
                    assert answer.status_code == 401, path
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.json()["error"]["underkeel"]["code"] == "access"
            for wrong in (
                "",
                "Bearer",
                f"Bearer {way.token}x",
                f"Bearer {way.token[:-1]}",
                f"Basic {way.token}",
                f"bearer  {way.token}",
            ):
                answer = await http.get("/health", headers={"Authorization": wrong})
                assert answer.status_code == 401, wrong
            both = [("Authorization", "Bearer x"), *way.headers.items()]
            assert (await http.get("/health", headers=both)).status_code == 401
            assert (await http.get("/health", headers=way.headers)).status_code == 200
        # A client that may open the Unix socket needs none.
        assert (await daemon.http.get("/health")).status_code == 200

    run(body)


def test_it_listens_on_the_loopback_only(home: Path) -> None:
    with instance.claim(tcp_port=free_port()) as claimed:
        tcp = [one for one in claimed.listeners if one.family == socket.AF_INET]
        assert [one.getsockname()[0] for one in tcp] == ["127.0.0.1"]
        assert paths.tcp_file().exists() and claimed.token
    assert not paths.tcp_file().exists()


def test_a_port_that_is_taken_is_explained(home: Path) -> None:
    with socket.socket() as other:
        other.bind((paths.LOOPBACK, 0))
        other.listen()
        with (
            pytest.raises(DaemonError, match=r"daemon\.tcp_port"),
            instance.claim(tcp_port=other.getsockname()[1]),
        ):
            pass
    assert instance.running_pid() is None and not paths.socket_path().exists()


def test_a_client_without_unix_sockets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: no daemon, then one, then its successor with another port and token."""
    monkeypatch.setattr(paths, "has_unix_sockets", lambda *_: False)

    async def ask(client: DaemonClient) -> str:
        request = CompletionRequest(prompt="def f", temperature=0.0, max_tokens=64)
        return "".join([chunk.content async for chunk in client.complete(request)])

    async def main() -> None:
        async with asyncio.timeout(60), DaemonClient(autostart=False) as client:
            with pytest.raises(DaemonError, match="underkeel serve"):
                await client.wait_ready()
            ports = set()
            for _ in range(2):
                with instance.claim() as claimed:
                    assert [one.family for one in claimed.listeners] == [socket.AF_INET]
                    ports.add(claimed.listeners[0].getsockname()[1])
                    async with serving_on(claimed):
                        await client.wait_ready()
                        assert await ask(client) == DEFAULT_REPLY
                with pytest.raises(DaemonError):
                    await ask(client)
            assert len(ports) == 2

    asyncio.run(main())


def serving_on(claimed: instance.Claim) -> Any:
    """A daemon on a place that is claimed already."""
    from contextlib import asynccontextmanager

    from daemons import Memory, fake_model
    from fake_engine import FakeEngine

    from assistant.daemon.process import server
    from assistant.daemon.service import Service
    from assistant.settings import Settings

    @asynccontextmanager
    async def block() -> Any:
        service = Service(FakeEngine(), fake_model, Settings(), Memory())
        task = asyncio.create_task(server.serve(service, claimed))
        try:
            yield
        finally:
            async with DaemonClient(autostart=False) as client:
                await client.stop()
            await task

    return block()


def test_a_head_that_does_not_come_ends_the_connection(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistant.daemon.http.app.HEAD_LIMIT_S", 0.2)

    async def body(daemon: Daemon) -> None:
        way = paths.find_tcp_address()
        assert way is not None
        for sent in (b"", b"GET /health HT"):
            reader, writer = await asyncio.open_connection(paths.LOOPBACK, way.port)
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
        # One that has had an answer is given uvicorn's longer time, and then no more than ours.
        reader, writer = await asyncio.open_unix_connection(str(paths.socket_path()))
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.4)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /hea")
        assert await reader.read() == b""
        writer.close()

    run(body)


def test_so_many_connections_and_no_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit the one that has been silent longest goes; one that is answered stays."""
    monkeypatch.setattr("assistant.daemon.http.app.MOST_CONNECTIONS", 20)

    async def body(daemon: Daemon) -> None:
        way = paths.find_tcp_address()
        assert way is not None
        silent = [await asyncio.open_connection(paths.LOOPBACK, way.port) for _ in range(60)]
        await asyncio.sleep(0.2)
        ended = 0
        for reader, _ in silent:
            reading = asyncio.create_task(reader.read(1))
            done, _ = await asyncio.wait({reading}, timeout=0.01)
            ended += bool(done)
            reading.cancel()
        assert 40 <= ended < 60
        async with DaemonClient(autostart=False) as client:
            assert (await client.status()).model is not None
        for _, writer in silent:
            writer.close()

    run(body)


SAID = [{"role": "user", "content": "a"}]
STREAMS: dict[str, dict[str, Any]] = {
    "/completion": {"prompt": "a", "n_predict": 4000},
    "/v1/completions": {"prompt": "a", "max_tokens": 4000},
    "/v1/chat/completions": {"messages": SAID, "max_tokens": 4000},
    "/v1/responses": {"input": "a", "max_output_tokens": 4000},
    "/api/chat": {"model": "m", "messages": SAID, "options": {"num_predict": 4000}},
    "/api/generate": {"model": "m", "prompt": "a", "options": {"num_predict": 4000}},
}


class Chatting(FakeEngine):
    """The fake engine with a chat template and long answers."""

    def __init__(self) -> None:
        super().__init__(reply=lambda _: "x" * 4000)

    async def describe(self) -> ModelInfo:
        return replace(await super().describe(), chat_template="{{ messages[0].content }}")

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        await super().load(spec, progress)
        return await self.describe()


def written(path: str, token: str) -> bytes:
    """A request as a client writes it."""
    body = STREAMS.get(path)
    content = msgspec.json.encode(body | {"stream": True}) if body else b""
    head = (
        f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}"
    )
    return f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize("path", [*STREAMS, "/openapi.json", "/metrics", "/underkeel/status"])
def test_a_client_that_stops_reading_loses_its_connection(
    home: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """T15: whether it reads a stream or whole answers, and however many it requests at once."""
    monkeypatch.setattr(app, "WRITE_LIMIT_S", 0.5)
    engine = Chatting()

    async def body(daemon: Daemon) -> None:
        way = paths.find_tcp_address()
        assert way is not None
        loop = asyncio.get_running_loop()
        request = written(path, way.token)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, (paths.LOOPBACK, way.port))
            with suppress(OSError, TimeoutError):
                for _ in range(4000):
                    await asyncio.wait_for(loop.sock_sendall(client, request), 2)
            await until(lambda: _is_broken(client, request))
        await daemon.idle()
        assert engine.in_flight == 0

    run(body, engine=engine)


def test_a_client_that_reads_by_the_byte_holds_no_engine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T15: reading something now and then is not reading on."""
    monkeypatch.setattr(app, "WRITE_LIMIT_S", 0.5)
    engine = Chatting()

    async def body(daemon: Daemon) -> None:
        way = paths.find_tcp_address()
        assert way is not None
        loop = asyncio.get_running_loop()
        request = written("/v1/chat/completions", way.token)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, (paths.LOOPBACK, way.port))

            async def send() -> None:
                with suppress(OSError):
                    for _ in range(4000):
                        await loop.sock_sendall(client, request)

            sending = asyncio.create_task(send())
            while not sending.done():
                with suppress(BlockingIOError, ConnectionResetError):
                    client.recv(1)
                await asyncio.sleep(0.05)
        await daemon.idle()
        assert engine.in_flight == 0

    run(body, engine=engine)


@pytest.mark.parametrize("path", STREAMS)
def test_a_client_that_has_closed_its_side_is_gone(home: Path, path: str) -> None:
    """T15: a process that ended looks like this; nobody computes for it any more."""
    engine = Chatting()
    engine.token_ms = 20

    async def body(daemon: Daemon) -> None:
        way = paths.find_tcp_address()
        assert way is not None
        reader, writer = await asyncio.open_connection(paths.LOOPBACK, way.port)
        writer.write(written(path, way.token))
        await until(lambda: engine.in_flight > 0)
        writer.write_eof()
        await until(lambda: engine.in_flight == 0)
        await reader.read()
        writer.close()

    run(body, engine=engine)


def _is_broken(client: socket.socket, request: bytes) -> bool:
    try:
        client.send(request)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False
