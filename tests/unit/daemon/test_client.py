"""The client alone: what it makes of answers, ours and others', good and broken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import linear

from assistant import paths
from assistant.client import events
from assistant.client.client import DaemonClient, Polls
from assistant.daemon.http.response_formats import error_object, timings_object
from assistant.engine.types import StopReason, Timings
from assistant.errors import (
    BY_CODE,
    ContextFullError,
    DaemonError,
    EngineError,
    LoadError,
    OverloadedError,
    UnknownModelError,
)
from assistant.wire import CompletionRequest

CONTENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(CONTENT, max_size=20), st.lists(st.integers(1, 30), min_size=1))
def test_events_survive_any_cut(contents: list[str], cuts: list[int]) -> None:
    sent = b"".join(
        b"data: " + msgspec.json.encode({"content": content}) + b"\n\n" for content in contents
    )
    splitter = events.EventSplitter()
    found: list[str] = []
    at = turn = 0
    while at < len(sent):
        size = cuts[turn % len(cuts)]
        found += [
            events.completion_chunk(data).content for data in splitter.feed(sent[at : at + size])
        ]
        at, turn = at + size, turn + 1
    assert found == contents


def test_comments_and_other_fields_are_skipped() -> None:
    assert events.EventSplitter().feed(b": ping\n\nevent: x\ndata: 1\n\n") == [b"1"]


COUNTS = st.integers(0, 9999)
MS = st.floats(0, 1e6)


@given(
    st.builds(
        Timings,
        cached_tokens=COUNTS,
        evaluated_tokens=COUNTS,
        generated_tokens=COUNTS,
        drafted_tokens=COUNTS,
        prefill_ms=MS,
        decode_ms=MS,
        queue_ms=MS,
    )
)
def test_timings_come_through_llama_servers_shape(timings: Timings) -> None:
    wire = msgspec.convert(timings_object(timings), events.WireTimings).to_timings()
    total = timings.cached_tokens + timings.evaluated_tokens
    assert wire == msgspec.structs.replace(timings, prompt_tokens=total)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_comes_through(code: str) -> None:
    error = BY_CODE[code]("it broke", subject="x", advice="Fix it")
    body = msgspec.json.encode(error_object(error))
    found = events.error_of(error.http_status, body)
    assert type(found) is type(error)
    assert (found.message, found.subject, found.advice) == ("it broke", "x", "Fix it")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, b'{"error": {"code": 429, "message": "busy", "type": "x"}}', OverloadedError),
        (503, b'{"error": {"code": 503, "message": "Loading model", "type": "x"}}', LoadError),
        (500, b"<html>oops</html>", EngineError),
    ],
)
def test_errors_of_other_servers(status: int, body: bytes, kind: type[Exception]) -> None:
    assert type(events.error_of(status, body)) is kind


def test_props_and_chunks_of_a_plain_llama_server() -> None:
    props = events.props_of(
        b'{"default_generation_settings": {"n_ctx": 4096, "id": 0}, "total_slots": 2,'
        b' "model_path": "/m/coder.gguf", "chat_template": "x", "is_sleeping": false}'
    )
    assert (props.model.name, props.model.n_ctx, props.n_slots) == ("coder", 4096, 2)
    assert props.budget is None
    chunk = events.completion_chunk(
        b'{"content": "", "stop": true, "stop_type": "word", "tokens_cached": 9,'
        b' "timings": {"cache_n": 4, "prompt_n": 5, "predicted_n": 6, "predicted_ms": 1.5}}'
    )
    assert chunk.stop_reason is StopReason.STOP_TEXT
    assert chunk.timings is not None and chunk.timings.prompt_tokens == 9


def test_an_error_in_the_stream_is_raised() -> None:
    data = msgspec.json.encode(error_object(ContextFullError("too long")))
    with pytest.raises(ContextFullError, match="too long"):
        events.completion_chunk(data)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def something_listens(talk: Talk) -> AsyncIterator[None]:
    async with await asyncio.start_unix_server(talk, path=str(paths.socket_path())):
        yield


def asked_of(talk: Talk) -> str:
    """What the client says of a server that answers so."""

    async def main() -> None:
        async with (
            asyncio.timeout(20),
            something_listens(talk),
            DaemonClient(autostart=False) as client,
        ):
            async for _ in client.complete(
                CompletionRequest(prompt="a", temperature=0.0, max_tokens=1)
            ):
                pass

    with pytest.raises(DaemonError) as failure:
        asyncio.run(main())
    return str(failure.value)


def replying(data: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    return talk


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_servers_that_break_off_or_talk_nonsense(home: Path) -> None:
    assert "middle of an answer" in asked_of(replying(b""))
    assert "middle of an answer" in asked_of(replying(HEAD + b"3\r\nda"))
    assert "middle of an answer" in asked_of(replying(b"\x00\x01 not http\r\n\r\n"))
    assert "cannot be read" in asked_of(replying(HEAD + b"b\r\ndata: {!}\n\n\r\n0\r\n\r\n"))


def test_no_daemon_and_no_leave_to_start_one(home: Path) -> None:
    async def main() -> None:
        async with DaemonClient(autostart=False) as client:
            for call in (client.wait_ready(), client.props(), client.status(), client.stop()):
                with pytest.raises(DaemonError, match="underkeel serve"):
                    await call

    asyncio.run(main())


@given(st.lists(st.floats(0.001, 60), min_size=1, max_size=5))
def test_the_end_of_a_stage_is_noticed_soon_with_few_looks(lengths_s: list[float]) -> None:
    """Stages of these lengths follow one another; what a client sees of them is played."""
    ends_s = [sum(lengths_s[: at + 1]) for at in range(len(lengths_s))]
    polls, now_s, looks = Polls(), 0.0, 0
    started_s = dict.fromkeys(range(len(ends_s) + 1), 0.0)  # when each was seen first
    seen = 0
    while now_s < ends_s[-1]:
        stage = sum(end_s <= now_s for end_s in ends_s)
        if stage != seen:
            started_s[stage], seen = now_s, stage
        now_s += polls.pause_s(f"stage {stage}")
        looks += 1
    last_s = ends_s[-1] - started_s[seen]
    assert now_s - ends_s[-1] <= 0.021 + last_s / 4
    assert looks <= 15 * len(lengths_s) + 4 * ends_s[-1]


def test_a_daemon_that_cannot_start_says_why(home: Path) -> None:
    (home / "state").mkdir()
    (home / "state" / "daemon.log").mkdir()

    async def main() -> None:
        async with asyncio.timeout(60), DaemonClient() as client:
            await client.wait_ready()

    with pytest.raises(DaemonError, match="the log cannot be written"):
        asyncio.run(main())
    assert list((home / "state").glob("start-*")) == []


def test_a_failed_load_is_raised_with_its_own_kind(home: Path) -> None:
    failure = UnknownModelError("no such model", advice="Pull it")
    said = msgspec.json.encode(
        {
            "status": "failed",
            "failure": {"code": failure.code, "message": failure.message, "advice": "Pull it"},
        }
    )
    answer = (
        b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(said) + said
    )

    async def main() -> None:
        talk = replying(answer.replace(b"503 No", b"200 OK"))
        async with something_listens(talk), DaemonClient(autostart=False) as client:
            await client.wait_ready()

    with pytest.raises(UnknownModelError, match="Pull it"):
        asyncio.run(main())


@given(st.lists(st.text("ad:\n ", max_size=9), max_size=9))
def test_events_are_cut_wherever_their_parts_end(parts: list[str]) -> None:
    splitter, text = events.EventSplitter(), "".join(parts).encode()
    found = [data for part in parts for data in splitter.feed(part.encode())]
    assert found == events.EventSplitter().feed(text)


def test_an_event_without_an_end_is_read_in_linear_time() -> None:
    """T1: in small parts."""

    def run(text: str) -> None:
        splitter = events.EventSplitter()
        for start in range(0, len(text), 7):
            splitter.feed(text[start : start + 7].encode())

    for part in ("data: a\n", "a", "\r"):
        assert linear(run, lambda size, part=part: part * (size // len(part)), 20_000)
