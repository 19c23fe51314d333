"""GGUF files: headers and tensor types, read from disk or a server within bounds.

Here: where the bytes come from, a file on this machine or one far away that is read in ranges, and
the bounded reading of values from them.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol, Self, overload

from assistant.errors import GGUFError

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_STRINGS",
    "MAX_STRING_BYTES",
    "ByteSource",
    "BytesSource",
    "FileSource",
    "Reader",
    "StringArray",
    "header",
    "read_value",
    "remote",
]


class ByteSource(Protocol):
    """Random access to one file's bytes.

    Attributes:
        name: what messages call it: a path or a URL.
        size_bytes: the length of the whole file.
    """

    name: str
    size_bytes: int

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer only where the file ends.

        Raises:
            GGUFError: the bytes is not available.
        """
        ...


class FileSource:
    """A local file, read by plain reads: a file that shrinks under a memory map would kill us."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            # A pipe or a device would block or never end.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            status = os.fstat(self._descriptor)
        except (OSError, ValueError) as error:
            raise _unreadable(self.name, error) from error
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise GGUFError("this is not a file", subject=self.name, advice="Name a .gguf file")
        self.size_bytes = status.st_size

    def read(self, start: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, start)
        except OSError as error:
            raise _unreadable(self.name, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


class BytesSource:
    """Bytes already in memory."""

    def __init__(self, data: bytes, name: str = "<bytes>") -> None:
        self.name = name
        self.size_bytes = len(data)
        self._data = data

    def read(self, start: int, length: int) -> bytes:
        return self._data[start : start + length]


def _unreadable(name: str, error: OSError | ValueError) -> GGUFError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return GGUFError(
        f"the file cannot be read ({reason})",
        subject=name,
        advice="Check the path and that you may read it",
    )


MAX_HEADER_BYTES = 256 << 20
MAX_STRING_BYTES = 16 << 20
MAX_STRINGS = 4_000_000
_FIRST_PIECE_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")

_STRING = 8
_ARRAY = 9
_BOOL = 7
# GGUF value type -> the code that `struct` and `array` share (ggml/include/gguf.h, gguf_type).
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_SCALARS = {number: struct.Struct("<" + code) for number, code in _CODES.items()}


class StringArray(Sequence[str]):
    """Strings of an array, decoded when they are asked for: a vocabulary has 150,000 of them.

    Bytes that are not UTF-8 are shown as U+FFFD; `raw` gives them as they are.
    """

    __slots__ = ("_data", "_ends")

    def __init__(self, data: bytes, ends: array[int]) -> None:
        """`data` holds, for each string, its 8-byte length and its bytes; `ends` where it ends."""
        self._data = data
        self._ends = ends

    def raw(self, index: int) -> bytes:
        """The bytes of the string at `index`, which may be negative like any index."""
        if index < 0:
            index += len(self._ends)
        if not 0 <= index < len(self._ends):
            raise IndexError(index)
        start = (self._ends[index - 1] if index else 0) + _LENGTH.size
        return self._data[start : self._ends[index]]

    def raws(self) -> Iterator[bytes]:
        """The bytes of every string in turn."""
        start = 0
        for end in self._ends:
            yield self._data[start + _LENGTH.size : end]
            start = end

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return self.raw(index).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        for item in self.raws():
            yield item.decode("utf-8", "replace")

    def __len__(self) -> int:
        return len(self._ends)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # equal to lists, so it cannot be hashed either

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings)"


class Reader:
    """A cursor over a source's first bytes, which are fetched as far as they are needed.

    Attributes:
        position: the next byte to read.
    """

    def __init__(self, source: ByteSource) -> None:
        self.position = 0
        self._source = source
        self._data = bytearray()

    def fail(self, what: str, advice: str = "") -> NoReturn:
        """Raise the reader's only error, about this source."""
        raise GGUFError(
            what, subject=self._source.name, advice=advice or "Fetch or convert the file again"
        )

    def room(self) -> int:
        """Bytes that are left of the file, or of what a header may take."""
        return min(self._source.size_bytes, MAX_HEADER_BYTES) - self.position

    def need(self, length: int) -> None:
        """Make `length` bytes from `position` available."""
        wanted = self.position + length
        if wanted <= len(self._data):
            return
        if wanted > self._source.size_bytes:
            self.fail(
                f"the file is cut short: its header needs byte {wanted}, "
                f"the file has {self._source.size_bytes}",
                "Fetch it again; the download is not complete",
            )
        if wanted > MAX_HEADER_BYTES:
            self.fail(f"the header is longer than {MAX_HEADER_BYTES >> 20} MiB")
        have = len(self._data)
        # Doubling keeps the number of fetches small, also where each one is a request.
        piece = max(wanted - have, min(max(have, _FIRST_PIECE_BYTES), 8 << 20))
        self._data += self._source.read(have, min(piece, self._source.size_bytes - have))
        if len(self._data) < wanted:
            self.fail("the file shrank while it was read", "Wait until it is complete")

    def take(self, length: int) -> bytes:
        self.need(length)
        start = self.position
        self.position += length
        return bytes(self._data[start : self.position])

    def unpack(self, form: struct.Struct) -> int | float:
        """One little-endian number."""
        self.need(form.size)
        value: int | float = form.unpack_from(self._data, self.position)[0]
        self.position += form.size
        return value

    def uint32(self) -> int:
        return int(self.unpack(_SCALARS[4]))

    def uint64(self) -> int:
        return int(self.unpack(_LENGTH))

    def raw_string(self, limit: int, what: str) -> bytes:
        length = self.uint64()
        if length > limit:
            self.fail(f"{what} of {length} bytes is longer than {limit}")
        return self.take(length)

    def string_array(self, count: int, key: str) -> StringArray:
        """`count` strings; the loop is the whole cost of reading a vocabulary, so it is flat."""
        if count > MAX_STRINGS or count * _LENGTH.size > self.room():
            self.fail(f"{key!r} claims {count} strings, more than there can be")
        start = self.position
        ends = array("Q", bytes(count * 8))
        unpack = _LENGTH.unpack_from
        data = self._data
        have = len(data)
        at = start
        for index in range(count):
            if at + 8 > have:
                self.position = at
                self.need(8)
                have = len(data)
            length = unpack(data, at)[0]
            if length > MAX_STRING_BYTES:
                self.fail(f"a string of {key!r} claims {length} bytes")
            at += 8 + length
            ends[index] = at - start
        self.position = at
        self.need(0)
        return StringArray(bytes(memoryview(data)[start:at]), ends)


def read_value(reader: Reader, key: str) -> object:
    """The value of `key`: a number, a bool, a string, an `array.array` or a `StringArray`."""
    kind = reader.uint32()
    if kind == _STRING:
        return reader.raw_string(MAX_STRING_BYTES, f"the string {key!r}").decode("utf-8", "replace")
    if kind == _ARRAY:
        return _read_array(reader, key)
    form = _SCALARS.get(kind)
    if form is None:
        reader.fail(f"{key!r} has the unknown value type {kind}")
    value = reader.unpack(form)
    return bool(value) if kind == _BOOL else value


def _read_array(reader: Reader, key: str) -> object:
    kind = reader.uint32()
    count = reader.uint64()
    if kind == _STRING:
        return reader.string_array(count, key)
    code = _CODES.get(kind)
    if code is None:  # arrays of arrays are in the format's text, but no reader takes them
        reader.fail(f"{key!r} is an array of the unsupported type {kind}")
    items: array[int] | array[float] = array(code)
    if count * items.itemsize > reader.room():
        reader.fail(f"{key!r} claims {count} numbers, more than there can be")
    items.frombytes(reader.take(count * items.itemsize))
    if sys.byteorder == "big":
        items.byteswap()
    return items
