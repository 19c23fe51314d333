"""The description of the daemon: exact, and what it promises holds under fuzzing.

`UNDERKEEL_FUZZ_EXAMPLES` asks for more examples an operation, other ones each time, and
`UNDERKEEL_FUZZ_REPORT` for a file of what was asked and answered (make fuzz).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from daemons import Memory, fake_model, serving
from fake_engine import FakeEngine
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.routing import Route

from assistant import paths, wire
from assistant.daemon.http import app, openapi
from assistant.daemon.process import instance, server
from assistant.daemon.service import Service
from assistant.errors import BY_CODE
from assistant.settings import Settings

EXAMPLES = int(os.environ.get("UNDERKEEL_FUZZ_EXAMPLES", "0"))
REPORT = os.environ.get("UNDERKEEL_FUZZ_REPORT", "")
# What a daemon is asked for once, and not in the middle of a fuzz.
ENDS = "/underkeel/stop"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


def test_every_route_is_described_and_nothing_else() -> None:
    service = Service(FakeEngine(), fake_model, Settings(), Memory())
    routes = {
        (route.path, method.lower())
        for route in app.build_app(service).routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(operation.path, operation.method) for operation in openapi.OPERATIONS}
    assert routes == described, "describe it in assistant/daemon/http/openapi.py"


def test_bodies_are_described_field_by_field() -> None:
    schemas = openapi.document()["components"]["schemas"]
    for operation in openapi.OPERATIONS:
        if operation.body is not None:
            described = set(schemas[operation.body.__name__]["properties"])
            assert described == {
                field.encode_name for field in msgspec.structs.fields(operation.body)
            }
    limits = schemas["CompletionRequest"]["properties"]["temperature"]
    assert (limits["minimum"], limits["maximum"], limits["default"]) == (0.0, 100.0, 0.8)
    assert "prompt" in schemas["CompletionRequest"]["required"]
    assert issubclass(wire.CompletionRequest, wire.GenerateBody)


def test_every_status_of_an_error_has_a_meaning() -> None:
    raised_by_others = {"answer"}  # by the language server, about what a model wrote
    statuses = {kind.http_status for code, kind in BY_CODE.items() if code not in raised_by_others}
    assert statuses <= set(openapi._MEANING)


def test_every_reference_leads_somewhere() -> None:
    document = openapi.document()

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "$ref":
                    yield inner
                else:
                    yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(document))
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert found <= known
    assert document["openapi"].startswith("3.1")


def test_it_is_served(home: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), serving() as daemon:
            answer = await daemon.http.get("/openapi.json")
            assert answer.json() == msgspec.json.decode(msgspec.json.encode(openapi.document()))

    asyncio.run(main())


class _Running:
    """A daemon in a thread, on TCP, for a client that knows neither our socket nor our loop."""

    def __init__(self) -> None:
        self.engine = FakeEngine(reply=lambda _: "x" * 20)
        self.ready = threading.Event()
        self.address: paths.Address | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.service: Service | None = None
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._end: asyncio.Event | None = None

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        with instance.claim(tcp_port=_free_port()) as claimed:
            self.service = Service(self.engine, fake_model, Settings(), Memory())
            task = asyncio.create_task(server.serve(self.service, claimed))
            self.address = paths.find_tcp_address()
            assert self.address is not None
            async with httpx.AsyncClient(
                base_url=self.address.base_url, headers=self.address.headers
            ) as http:
                while (await http.get("/health")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                self.ready.set()
                await self._end.wait()
                await http.post(ENDS)
            await task

    def end(self) -> None:
        assert self.loop is not None and self._end is not None
        self.loop.call_soon_threadsafe(self._end.set)
        self.thread.join(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((paths.LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def running(home: Path) -> Iterator[_Running]:
    daemon = _Running()
    daemon.thread.start()
    assert daemon.ready.wait(30)
    yield daemon
    daemon.end()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_what_it_promises_holds_under_fuzzing(running: _Running, mode: GenerationMode) -> None:
    """schemathesis against the real wire: sound and unsound requests to every operation."""
    assert running.service is not None
    schema = schemathesis.openapi.from_dict(openapi.document()).exclude(path=ENDS)
    answers: dict[str, Counter[int]] = {}
    for operation in (found.ok() for found in schema.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing can be wrong with a request that says nothing
        answers[operation.label] = _fuzz(running, operation, mode)
    assert len(answers) >= (8 if mode is GenerationMode.NEGATIVE else 18)
    assert running.service.admission.inside == 0 and running.service.intake.held_bytes == 0
    if REPORT:
        with Path(REPORT).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"requests": mode.value, "answers": answers}) + "\n")


def _fuzz(running: _Running, operation: Any, mode: GenerationMode) -> Counter[int]:
    """Ask for one operation in many ways; how often each status was the answer."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES or 15,
        deadline=None,
        database=None,
        derandomize=not EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def fuzz(case: Any) -> None:
        assert running.address is not None
        answer = case.call_and_validate(
            base_url=running.address.base_url,
            headers=running.address.headers,
            checks=CHECKS,
            timeout=30,
        )
        statuses[answer.status_code] += 1

    fuzz()
    return statuses
