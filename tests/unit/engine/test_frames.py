"""Frames survive any cutting of the stream, and nothing else passes for one."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.engine import frames
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, StopReason
from assistant.errors import BY_CODE, ContextFullError, FrameError, UnderkeelError

COMMANDS: list[frames.Command] = [
    frames.Load(id="1", spec=LoadSpec(path="m.gguf")),
    frames.CancelLoad(),
    frames.Generate(id="2", request=GenerateRequest(id="2", prompt=(1, 2), max_tokens=3)),
    frames.Cancel(id="2"),
    frames.Tokenise(id="3", text="é\f\u2028😀"),
    frames.Detokenise(id="4", tokens=(0, 151_000)),
    frames.DropIdle(id="5"),
    frames.GetStats(id="6"),
    frames.Save(id="7", most_bytes=1000),
    frames.Load(spec=LoadSpec(path="m"), saved=(frames.Sequence((1, 2), b"\0\xff"),)),
]

REPORTS: list[frames.Report] = [
    frames.Hello(pid=1),
    frames.Beat(),
    frames.Progress(id="1", share=0.5),
    frames.Event(id="2", event=Delta(id="2", text="x", tokens=(1,))),
    frames.Saved(id="7", sequences=(frames.Sequence((1, 2), b"\0\xff"),)),
    frames.Event(id="2", event=Done(id="2", reason=StopReason.EOS)),
    frames.Failed.of("2", ContextFullError("no room", subject="2", advice="Shorten it")),
]


@given(
    messages=st.lists(st.sampled_from(COMMANDS), max_size=6),
    cuts=st.lists(st.integers(1, 40), max_size=60),
)
def test_any_cutting_of_the_stream_gives_the_same_messages(
    messages: list[frames.Command], cuts: list[int]
) -> None:
    stream = b"".join(map(frames.encode, messages))
    cutter, got, at = frames.Cutter(), [], 0
    for cut in [*cuts, len(stream)]:
        got += [frames.command(body) for body in cutter.feed(stream[at : at + cut])]
        at += cut
    assert got == messages


@pytest.mark.parametrize("message", REPORTS, ids=lambda message: type(message).__name__)
def test_reports_survive(message: frames.Report) -> None:
    (body,) = frames.Cutter().feed(frames.encode(message))
    assert frames.report(body) == message


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    accepted = []
    with contextlib.suppress(FrameError):
        accepted += [frames.command(body) for body in frames.Cutter().feed(noise)]
    assert not accepted


@given(st.sampled_from(COMMANDS), st.data())
def test_a_flipped_byte_never_raises_anything_else(
    message: frames.Command, data: st.DataObject
) -> None:
    frame = bytearray(frames.encode(message))
    place = data.draw(st.integers(frames.LENGTH_BYTES, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FrameError):
        assert isinstance(frames.command(bytes(frame[frames.LENGTH_BYTES :])), frames.Command)


@pytest.mark.parametrize("length", [0, frames.MOST_BYTES + 1, 2**32 - 1])
def test_lengths_out_of_bounds_are_refused_before_anything_is_stored(length: int) -> None:
    with pytest.raises(FrameError):
        list(frames.Cutter().feed(length.to_bytes(4, "little") + b"x"))


def test_too_long_a_message_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 100)
    with pytest.raises(FrameError):
        frames.encode(frames.Tokenise(id="1", text="x" * 200))


def test_a_report_is_no_command() -> None:
    with pytest.raises(FrameError):
        frames.command(msgspec.msgpack.encode(frames.Hello(pid=1)))


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.code)
def test_every_error_comes_back_as_itself(kind: type[UnderkeelError]) -> None:
    error = frames.Failed.of("1", kind("what", subject="which", advice="Do")).error()
    assert type(error) is kind
    assert (error.message, error.subject, error.advice) == ("what", "which", "Do")
