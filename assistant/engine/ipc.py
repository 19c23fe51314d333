"""The messages between the daemon and the worker, and their framing.

A frame is its length (4 bytes, little endian) and a msgpack map whose `type` names the message.
Commands go to the worker, reports come back; a report that answers a command carries its `id`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from assistant.engine.types import (
    Delta,
    Done,
    EngineStats,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
)
from assistant.errors import FrameError, UnderkeelError, from_wire

MOST_BYTES = 64 * 2**20
"""The longest frame; a prompt of a million tokens takes 5 MB."""

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    id: str = ""


class Sequence(msgspec.Struct, frozen=True, array_like=True):
    """A sequence of the KV cache: its tokens, and the state that llama.cpp saved of their cells."""

    tokens: tuple[int, ...]
    state: bytes


class Load(_Message, frozen=True, kw_only=True, tag="load"):
    """Load or reload; `carry` keeps the sequences where the new shape can take them.

    `saved`: sequences of an earlier worker with the same spec.
    `same_files`: what is loaded from the spec's path may stay; False where it was replaced.
    """

    spec: LoadSpec
    carry: bool = False
    same_files: bool = True
    saved: tuple[Sequence, ...] = ()


class CancelLoad(_Message, frozen=True, kw_only=True, tag="cancel_load"):
    """Stop the load in progress; it fails with a LoadError."""


class Cancel(_Message, frozen=True, kw_only=True, tag="cancel"):
    """End the request `id` with what there is; unknown ids are ignored."""


class Tokenise(_Message, frozen=True, kw_only=True, tag="tokenise"):
    text: str
    special: bool = False


class Detokenise(_Message, frozen=True, kw_only=True, tag="detokenise"):
    tokens: tuple[int, ...]


class DropIdle(_Message, frozen=True, kw_only=True, tag="drop_idle"):
    """Forget the sequences that no request uses."""


class Touch(_Message, frozen=True, kw_only=True, tag="touch"):
    """Read a byte of every page of the model, so that the kernel keeps them."""


class Save(_Message, frozen=True, kw_only=True, tag="save"):
    """Report the most recently used sequences, at most `most_bytes` of them."""

    most_bytes: int


class GetStats(_Message, frozen=True, kw_only=True, tag="get_stats"):
    pass


Command = (
    Load
    | CancelLoad
    | GenerateRequest
    | Cancel
    | Tokenise
    | Detokenise
    | DropIdle
    | Touch
    | Save
    | GetStats
)


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """The worker has started and waits for a model."""

    pid: int


class Beat(_Message, frozen=True, kw_only=True, tag="beat"):
    """The worker is alive though it has nothing else to report."""


class Progress(_Message, frozen=True, kw_only=True, tag="progress"):
    """Share of the model loaded, 0 to 1."""

    share: float


class Loaded(_Message, frozen=True, kw_only=True, tag="loaded"):
    info: ModelInfo


class Tokens(_Message, frozen=True, kw_only=True, tag="tokens"):
    tokens: tuple[int, ...]


class Text(_Message, frozen=True, kw_only=True, tag="text"):
    text: str


class Dropped(_Message, frozen=True, kw_only=True, tag="dropped"):
    cells: int


class Touched(_Message, frozen=True, kw_only=True, tag="touched"):
    pages: int


class Saved(_Message, frozen=True, kw_only=True, tag="saved"):
    sequences: tuple[Sequence, ...]


class Stats(_Message, frozen=True, kw_only=True, tag="stats"):
    stats: EngineStats


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """The command `id` failed; the worker lives on."""

    code: str
    message: str
    subject: str = ""
    advice: str = ""

    @classmethod
    def of(cls, command_id: str, error: UnderkeelError) -> Failed:
        return cls(
            id=command_id,
            code=error.code,
            message=error.message,
            subject=error.subject,
            advice=error.advice,
        )

    def error(self) -> UnderkeelError:
        return from_wire(self.code, self.message, self.subject, self.advice)


Report = (
    Hello
    | Beat
    | Progress
    | Loaded
    | Delta
    | Done
    | Tokens
    | Text
    | Dropped
    | Touched
    | Saved
    | Stats
    | Failed
)

_Any = TypeVar("_Any")
_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: Command | Report) -> bytes:
    """The message as a whole frame.

    Raises:
        FrameError: it is longer than the other side accepts.
    """
    body = _encoder.encode(message)
    if len(body) > MOST_BYTES:
        raise FrameError(
            f"a message of {len(body)} bytes is longer than a frame may be ({MOST_BYTES})",
            subject=type(message).__name__,
            advice="Send less at once",
        )
    return _LENGTH.pack(len(body)) + body


def body_length(head: bytes) -> int:
    """Length of the body after these `LENGTH_BYTES` bytes.

    Raises:
        FrameError: it is out of bounds.
    """
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= MOST_BYTES:
        raise FrameError(f"a frame announces {length} bytes", advice="Restart the engine")
    return int(length)


def command(body: bytes) -> Command:
    """Decode a command to the worker. Raises FrameError."""
    return _decode(_commands, body)


def report(body: bytes) -> Report:
    """Decode a report of the worker. Raises FrameError."""
    return _decode(_reports, body)


def _decode(decoder: msgspec.msgpack.Decoder[_Any], body: bytes) -> _Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(
            f"a frame cannot be read ({error})", advice="Restart the engine"
        ) from error


class Cutter:
    """Cuts a byte stream into frame bodies, however it arrives."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes.

        Raises:
            FrameError: a length is out of bounds.
        """
        self._pending += data
        while len(self._pending) >= LENGTH_BYTES:
            end = LENGTH_BYTES + body_length(bytes(self._pending[:LENGTH_BYTES]))
            if len(self._pending) < end:
                return
            body = bytes(self._pending[LENGTH_BYTES:end])
            del self._pending[:end]
            yield body
