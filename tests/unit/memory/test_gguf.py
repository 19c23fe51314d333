"""The header reader: what it reads, and what it refuses."""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

import gguf as reference
import numpy as np
import pytest

from assistant.errors import GGUFError
from assistant.memory.gguf.header import (
    BY_NAME,
    BY_NUMBER,
    Header,
    StringArray,
    Tensor,
    read_bytes,
    read_header,
)
from assistant.memory.planning.dry_run import encode

F32, Q4_K = BY_NAME["f32"], BY_NAME["q4_K"]


def tensor(name: str, shape: tuple[int, ...], kind: str = "f32") -> Tensor:
    return Tensor(name, shape, BY_NAME[kind], 0)


def file_bytes(
    metadata: dict[str, object] | None = None, *tensors: Tensor, version: int = 3
) -> bytes:
    data = sum(-(-item.size_bytes // 32) * 32 for item in tensors)
    return encode(metadata or {}, tensors, version=version) + bytes(data)


def test_every_metadata_type_comes_back() -> None:
    written: dict[str, object] = {
        "general.architecture": "llama",
        "general.name": "Grüße",
        "llama.block_count": 3,
        "a.negative": -5,
        "a.large": 1 << 40,
        "a.float": 0.5,
        "a.true": True,
        "a.ints": array("i", [1, -2, 3]),
        "a.floats": array("f", [1.5, 2.5]),
        "a.wide": array("Q", [1 << 60]),
        "a.empty": array("B"),
        "a.texts": ("a", "", "Straße", "日本"),
    }
    header = read_bytes(file_bytes(written))
    assert dict(header.metadata) == {**written, "a.texts": ["a", "", "Straße", "日本"]}
    assert header.name == "Grüße"
    assert header.integer("block_count") == 3
    assert isinstance(header.metadata["a.true"], bool)


def test_tensor_table_and_sizes() -> None:
    header = read_bytes(
        file_bytes({}, tensor("a.weight", (256, 3, 2), "q4_K"), tensor("b.bias", (5,)))
    )
    first, second = header.tensors
    assert (first.shape, first.size_bytes, first.n_elements) == ((256, 3, 2), 6 * 144, 1536)
    assert (second.offset, second.size_bytes) == (864, 20)


def test_the_type_table_is_ggmls() -> None:
    for number, (block, size) in reference.GGML_QUANT_SIZES.items():
        if number.name == "Q8_1":
            continue  # gguf-py says 40, ggml's struct has 36 bytes (block_q8_1); no file has it
        assert BY_NUMBER[int(number)][2:] == (block, size), number.name


@pytest.mark.parametrize("version", [2, 3])
def test_versions_two_and_three(version: int) -> None:
    assert read_bytes(file_bytes(version=version)).version == version


def test_real_models_read_as_the_reference_reads_them(
    moe_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reference slices its array for each string, which takes several times as long of a memmap.
    mapped = np.memmap
    monkeypatch.setattr(
        np, "memmap", lambda *given, **more: mapped(*given, **more).view(np.ndarray)
    )
    ours, theirs = read_header(moe_model), reference.GGUFReader(moe_model)
    assert [(t.name, t.shape, t.size_bytes) for t in ours.tensors] == [
        (t.name, tuple(int(x) for x in t.shape), int(t.n_bytes)) for t in theirs.tensors
    ]
    assert ours.data_offset == theirs.data_offset
    vocabulary = ours.metadata["tokenizer.ggml.tokens"]
    field = theirs.fields["tokenizer.ggml.tokens"]
    assert isinstance(vocabulary, StringArray)
    assert len(vocabulary) == len(field.data)
    for index in (0, 1, 1000, len(vocabulary) - 1, -1):
        assert vocabulary.raw(index) == bytes(field.parts[field.data[index]])


def test_strings_that_are_not_utf8_keep_their_bytes() -> None:
    raw = file_bytes({"a": ("xx", "yy")}).replace(b"xx", b"\xff\xfe")
    texts = read_bytes(raw).metadata["a"]
    assert isinstance(texts, StringArray)
    assert (texts.raw(0), texts[1], texts[0]) == (b"\xff\xfe", "yy", "\ufffd\ufffd")
    assert texts[-1:] == ["yy"]
    with pytest.raises(IndexError):
        texts[2]


def integers(value: object, count: int = 4) -> tuple[int, ...]:
    return read_bytes(file_bytes({"general.architecture": "x", "x.key": value})).integers(
        "key", count, 7
    )


def test_a_key_for_all_layers_or_one_for_each() -> None:
    assert integers(3) == (3, 3, 3, 3)
    assert integers(array("I", [1, 2])) == (1, 2, 7, 7)
    assert integers(array("f", [float("inf")])) == (7, 7, 7, 7)
    assert integers("text") == (7, 7, 7, 7)


def counts(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


HUGE = 1 << 62
BAD = {
    "empty": (b"", "not a GGUF"),
    "another format": (b"PK\3\4" + bytes(40), "not a GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version 1": (b"GGUF" + struct.pack("<III", 1, 0, 0) + bytes(8), "version 1"),
    "version 4": (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4"),
    "absurd tensors": (counts(HUGE, 0), "tensors"),
    "absurd keys": (counts(0, HUGE), "keys"),
    "key longer than the file": (counts(0, 1) + struct.pack("<Q", 60_000), "cut short"),
    "absurd key": (counts(0, 1) + struct.pack("<Q", HUGE), "longer than"),
    "absurd string": (counts(0, 1) + key(b"a", 8, struct.pack("<Q", HUGE)), "longer than"),
    "absurd array": (counts(0, 1) + key(b"a", 9, struct.pack("<IQ", 4, HUGE)), "more than"),
    "absurd strings": (counts(0, 1) + key(b"a", 9, struct.pack("<IQ", 8, HUGE)), "more than"),
    "string in array past the end": (
        counts(0, 1) + key(b"a", 9, struct.pack("<IQQ", 8, 1, 100)),
        "cut short",
    ),
    "array of arrays": (counts(0, 1) + key(b"a", 9, struct.pack("<IQ", 9, 1)), "unsupported"),
    "unknown value type": (counts(0, 1) + key(b"a", 99, bytes(8)), "value type 99"),
    "empty key": (counts(0, 1) + key(b"", 4, bytes(4)), "empty"),
    "key twice": (counts(0, 2) + key(b"a", 4, bytes(4)) * 2, "twice"),
    "alignment of a text": (file_bytes({"general.alignment": "x"}), "alignment"),
    "alignment of three": (file_bytes({"general.alignment": 3}), "alignment"),
    "tensor twice": (file_bytes({}, tensor("a", (1,)), tensor("a", (1,))), "twice"),
    "long name": (file_bytes({}, tensor("a" * 64, (1,))), "longer than"),
    "five dimensions": (file_bytes({}, tensor("a", (1, 1, 1, 1, 1))), "dimensions"),
    "a row of half a block": (
        encode({}, (tensor("a", (256, 1), "q4_K"),)).replace(
            struct.pack("<QQ", 256, 1), struct.pack("<QQ", 255, 1)
        ),
        "cannot have the shape",
    ),
    "more elements than can be": (
        encode({}, (tensor("a", (256, 1)),)).replace(
            struct.pack("<QQ", 256, 1), struct.pack("<QQ", 1 << 32, 1 << 32)
        ),
        "cannot have the shape",
    ),
    "data cut short": (file_bytes({}, tensor("a", (64,)))[:-32], "cut short"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_headers_are_refused(name: str, tmp_path: Path) -> None:
    data, words = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(GGUFError, match=words) as caught:
        read_header(path)
    assert caught.value.subject == str(path)
    assert caught.value.advice


def test_an_unknown_tensor_type_is_named() -> None:
    good = file_bytes({}, tensor("a", (1,)))
    at = good.index(struct.pack("<QI", 1, 0) + bytes(8), 24)
    bad = good[: at + 8] + struct.pack("<I", 77) + good[at + 12 :]
    with pytest.raises(GGUFError, match="type 77"):
        read_bytes(bad)


def test_offsets_must_follow_one_another() -> None:
    good = file_bytes({}, tensor("a", (8,)), tensor("b", (8,)))
    bad = good.replace(struct.pack("<IQ", 0, 32), struct.pack("<IQ", 0, 64))
    with pytest.raises(GGUFError, match="expected at 32"):
        read_bytes(bad)


@pytest.mark.parametrize("what", ["missing", "folder", "pipe"])
def test_what_is_no_file(what: str, tmp_path: Path) -> None:
    import os

    path = tmp_path / "x"
    if what == "folder":
        path.mkdir()
    if what == "pipe":
        os.mkfifo(path)
    with pytest.raises(GGUFError):
        read_header(path)


def part(number: int, count: int, *tensors: Tensor, total: int = 0) -> bytes:
    keys: dict[str, object] = {"split.no": number, "split.count": count}
    if number == 0:
        keys |= {"general.architecture": "llama", "split.tensors.count": total}
    return file_bytes(keys, *tensors)


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    names = [tmp_path / f"model-0000{i + 1}-of-00003.gguf" for i in range(3)]
    names[0].write_bytes(part(0, 3, tensor("a", (8,)), total=3))
    names[1].write_bytes(part(1, 3, tensor("b", (16,))))
    names[2].write_bytes(part(2, 3, tensor("c", (24,))))
    return names


@pytest.mark.parametrize("named", [0, 1, 2])
def test_a_split_model_is_read_whole(split: list[Path], named: int) -> None:
    header = read_header(split[named])
    assert header.path == str(split[0])
    assert [(t.name, t.part) for t in header.tensors] == [("a", 0), ("b", 1), ("c", 2)]
    assert header.architecture == "llama"
    assert header.file_bytes == sum(path.stat().st_size for path in split)
    assert header.parts == tuple(map(str, split))


def test_a_missing_part(split: list[Path]) -> None:
    split[1].unlink()
    with pytest.raises(GGUFError) as caught:
        read_header(split[0])
    assert caught.value.subject == str(split[1])


def test_a_truncated_part(split: list[Path]) -> None:
    split[2].write_bytes(split[2].read_bytes()[:-32])
    with pytest.raises(GGUFError, match="cut short"):
        read_header(split[0])


def test_parts_that_are_mixed_up(split: list[Path]) -> None:
    split[1].write_bytes(part(2, 3, tensor("b", (16,))))
    with pytest.raises(GGUFError, match="not part 2 of 3"):
        read_header(split[0])


def test_parts_that_hold_too_little(split: list[Path]) -> None:
    split[1].write_bytes(part(1, 3))
    with pytest.raises(GGUFError, match="3 were promised"):
        read_header(split[0])


def test_a_split_model_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(part(0, 3, total=3))
    with pytest.raises(GGUFError, match="does not end in"):
        read_header(path)


def test_a_file_that_shrinks_while_it_is_read() -> None:
    class Shrinking:
        name = "shrinking"
        size_bytes = 10_000

        def read(self, start: int, length: int) -> bytes:
            return b"GGUF"[start : start + length]

    from contextlib import nullcontext

    from assistant.memory.gguf.header import read_parts

    with pytest.raises(GGUFError, match="shrank"):
        read_parts("shrinking", lambda _: nullcontext(Shrinking()))


def test_nothing_but_the_header_is_read(tmp_path: Path) -> None:
    read: list[tuple[int, int]] = []
    data = file_bytes({"general.architecture": "x"}, tensor("a", (1 << 22,)))

    class Counting:
        name = "counting"
        size_bytes = len(data)

        def read(self, start: int, length: int) -> bytes:
            read.append((start, length))
            return data[start : start + length]

    from contextlib import nullcontext

    from assistant.memory.gguf.header import read_parts

    header: Header = read_parts("counting", lambda _: nullcontext(Counting()))
    assert header.tensors[0].n_elements == 1 << 22
    assert read == [(0, 1 << 20)]
