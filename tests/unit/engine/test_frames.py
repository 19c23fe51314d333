"""Frames survive any cutting of the stream, and nothing else passes for one."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.engine import ipc
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, StopReason
from assistant.errors import BY_CODE, ContextFullError, FrameError, UnderkeelError

COMMANDS: list[ipc.Command] = [
    ipc.Load(id="1", spec=LoadSpec(path="m.gguf")),
    ipc.CancelLoad(),
    GenerateRequest(id="2", prompt=(1, 2), max_tokens=3),
    ipc.Cancel(id="2"),
    ipc.Tokenise(id="3", text="é\f\u2028😀"),
    ipc.Detokenise(id="4", tokens=(0, 151_000)),
    ipc.DropIdle(id="5"),
    ipc.GetStats(id="6"),
    ipc.Save(id="7", most_bytes=1000),
    ipc.Load(spec=LoadSpec(path="m"), saved=(ipc.Sequence((1, 2), b"\0\xff"),)),
]

REPORTS: list[ipc.Report] = [
    ipc.Hello(pid=1),
    ipc.Beat(),
    ipc.Progress(id="1", share=0.5),
    Delta(id="2", text="x", tokens=(1,)),
    ipc.Saved(id="7", sequences=(ipc.Sequence((1, 2), b"\0\xff"),)),
    Done(id="2", reason=StopReason.EOS),
    ipc.Failed.of("2", ContextFullError("no room", subject="2", advice="Shorten it")),
]


@given(
    messages=st.lists(st.sampled_from(COMMANDS), max_size=6),
    cuts=st.lists(st.integers(1, 40), max_size=60),
)
def test_any_cutting_of_the_stream_gives_the_same_messages(
    messages: list[ipc.Command], cuts: list[int]
) -> None:
    stream = b"".join(map(ipc.encode, messages))
    cutter, got, at = ipc.Cutter(), [], 0
    for cut in [*cuts, len(stream)]:
        got += [ipc.command(body) for body in cutter.feed(stream[at : at + cut])]
        at += cut
    assert got == messages


@pytest.mark.parametrize("message", REPORTS, ids=lambda message: type(message).__name__)
def test_reports_survive(message: ipc.Report) -> None:
    (body,) = ipc.Cutter().feed(ipc.encode(message))
    assert ipc.report(body) == message


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    accepted = []
    with contextlib.suppress(FrameError):
        accepted += [ipc.command(body) for body in ipc.Cutter().feed(noise)]
    assert not accepted


@given(st.sampled_from(COMMANDS), st.data())
def test_a_flipped_byte_never_raises_anything_else(
    message: ipc.Command, data: st.DataObject
) -> None:
    frame = bytearray(ipc.encode(message))
    place = data.draw(st.integers(ipc.LENGTH_BYTES, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FrameError):
        assert isinstance(ipc.command(bytes(frame[ipc.LENGTH_BYTES :])), ipc.Command)


@pytest.mark.parametrize("length", [0, ipc.MOST_BYTES + 1, 2**32 - 1])
def test_lengths_out_of_bounds_are_refused_before_anything_is_stored(length: int) -> None:
    with pytest.raises(FrameError):
        list(ipc.Cutter().feed(length.to_bytes(4, "little") + b"x"))


def test_too_long_a_message_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "MOST_BYTES", 100)
    with pytest.raises(FrameError):
        ipc.encode(ipc.Tokenise(id="1", text="x" * 200))


def test_a_report_is_no_command() -> None:
    with pytest.raises(FrameError):
        ipc.command(msgspec.msgpack.encode(ipc.Hello(pid=1)))


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.code)
def test_every_error_comes_back_as_itself(kind: type[UnderkeelError]) -> None:
    error = ipc.Failed.of("1", kind("what", subject="which", advice="Do")).error()
    assert type(error) is kind
    assert (error.message, error.subject, error.advice) == ("what", "which", "Do")
