"""Fuzzing the frames: only their own error, in bounded time and memory, and a worker that ends."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from assistant.engine import ipc
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, StopReason
from assistant.errors import EngineError, FrameError

CASES = 50_000
MOST_MEMORY_BYTES = 96 << 20
INTERESTING = (
    0,
    1,
    127,
    128,
    0x80,
    0x8F,
    0x90,
    0x9F,
    0xA0,
    0xC0,
    0xC1,
    0xC6,
    0xDB,
    0xDD,
    0xDF,
    255,
)
LENGTHS = (0, 1, 2, 255, 1 << 16, ipc.MOST_BYTES, ipc.MOST_BYTES + 1, (1 << 32) - 1)

STARTS = [
    ipc.encode(message)
    for message in (
        ipc.Load(id="1", spec=LoadSpec(path="m.gguf", n_ctx=4096)),
        ipc.CancelLoad(),
        GenerateRequest(id="2", prompt=tuple(range(40)), max_tokens=3),
        ipc.Cancel(id="2"),
        ipc.Tokenise(id="3", text="def f():\n    return 'é😀'" * 4),
        ipc.Detokenise(id="4", tokens=(0, 151_000)),
        ipc.GetStats(id="6"),
        ipc.Hello(pid=1),
        Delta(id="2", text="x", tokens=(1,)),
        Done(id="2", reason=StopReason.EOS),
        ipc.Failed.of("2", EngineError("no", subject="2", advice="Fix it")),
    )
]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bytes, lengths, cuts, copies, noise, other frames behind."""
    raw = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(max(len(raw), 1))
        match chance.randrange(8):
            case 0 if raw:
                raw[at] = chance.choice(INTERESTING)
            case 1 if raw:
                raw[at] ^= 1 << chance.randrange(8)
            case 2:
                raw[:4] = chance.choice(LENGTHS).to_bytes(4, "little")
            case 3:
                del raw[at:]
            case 4:
                other = chance.randrange(max(len(raw), 1))
                raw[at:at] = raw[other : other + chance.randrange(64)]
            case 5:
                raw += chance.choice(STARTS)
            case 6:
                # A container that says it is long: nothing may be set aside for what is not there.
                raw[at : at + 5] = bytes([chance.choice((0xDD, 0xDF, 0xC6, 0xDB))]) + b"\xff" * 4
            case _:
                raw[at : at + 8] = chance.randbytes(8)
    return bytes(raw)


def cut(data: bytes, chance: random.Random) -> tuple[int, int, int]:
    """Feed both parsers. Returns how many bodies came, how many were read, how many refused."""
    cutter = ipc.Cutter()
    bodies = read = refused = 0
    try:
        at = 0
        while at < len(data):
            size = chance.randint(1, 64)
            for body in cutter.feed(data[at : at + size]):
                bodies += 1
                for parse in (ipc.command, ipc.report):
                    try:
                        parse(body)
                        read += 1
                    except FrameError:
                        refused += 1
            at += size
    except FrameError:
        refused += 1
    return bodies, read, refused


def test_fifty_thousand_mutated_frames() -> None:
    chance = random.Random(20261124)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sound_s = _seconds(lambda: [cut(start, chance) for start in STARTS * 200]) / (len(STARTS) * 200)
    read = refused = 0
    slowest_s = 0.0
    for case in range(CASES):
        data = (
            chance.randbytes(chance.randrange(300))
            if case % 17 == 0
            else mutate(chance.choice(STARTS), chance)
        )
        started_s = time.process_time()
        found = cut(data, chance)
        slowest_s = max(slowest_s, time.process_time() - started_s)
        read, refused = read + found[1], refused + found[2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (peak - before) * 1024 < MOST_MEMORY_BYTES
    # Both ways are taken; and the worst frame costs what a few thousand sound ones do, no more.
    assert read > CASES * 0.2 and refused > CASES * 0.5
    assert slowest_s < max(sound_s * 5000, 0.5)


def _seconds(work: object) -> float:
    started_s = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - started_s


def test_depth_is_no_way_to_the_stack() -> None:
    for opener in (b"\x91", b"\x81\xa1x", b"\xdc\x00\x01"):
        body = opener * 200_000
        for parse in (ipc.command, ipc.report):
            try:
                parse(body)
            except FrameError:
                continue
            raise AssertionError("nested nonsense was read")


def test_a_worker_that_is_reported_nonsense_says_so_and_ends() -> None:
    """It cannot know where the next frame begins; its daemon starts another."""
    chance = random.Random(7)
    for data in (
        b"\xff" * 64,
        (20).to_bytes(4, "little") + chance.randbytes(20),
        ipc.encode(ipc.GetStats(id="1")) + b"\x05\0\0\0hello",
    ):
        worker = subprocess.run(
            [sys.executable, "-m", "assistant.engine.worker"],
            input=data,
            capture_output=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        )
        assert b"Traceback" not in worker.stderr and b"worker: " in worker.stderr
        said = [ipc.report(body) for body in ipc.Cutter().feed(worker.stdout)]
        assert isinstance(said[0], ipc.Hello)
        assert worker.returncode in {0, 1}


def test_what_was_read_is_what_its_types_say() -> None:
    """A mutated command that is still read holds values of the declared types."""
    chance = random.Random(11)
    strict = msgspec.msgpack.Decoder(ipc.Command, strict=True)
    for _ in range(3000):
        data = mutate(chance.choice(STARTS), chance)
        try:
            for body in ipc.Cutter().feed(data):
                command = ipc.command(body)
                assert strict.decode(msgspec.msgpack.encode(command)) == command
        except FrameError:
            continue
