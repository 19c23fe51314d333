"""The model's pages are found among all that is mapped, and come back when they are touched."""

from __future__ import annotations

import mmap
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from assistant.llama import model
from assistant.llama.model import Toucher, pieces, regions

PAGES = 4096

MAPS = """\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/python3
7f0000000000-7f0004000000 r--s 00000000 08:02 42                         {model}
7f0010000000-7f0010001000 r--s 04000000 08:02 42                         {model}
7f0020000000-7f0022000000 rw-p 00000000 00:00 0{blank}
7f0030000000-7f0030010000 rw-p 00000000 00:00 0{blank}
7f0040000000-7f0042000000 ---p 00000000 00:00 0{blank}
7f0050000000-7f0052000000 rw-s 00000000 00:05 99                         /dev/nvidia-uvm
7ffc00000000-7ffc02000000 rw-p 00000000 00:00 0                          [stack]
"""


def test_the_file_and_large_anonymous_memory_and_nothing_else(tmp_path: Path) -> None:
    model = tmp_path / "a model.gguf"
    model.touch()
    assert regions(str(model), MAPS.format(model=model, blank=" ")) == [
        (0x7F0000000000, 0x7F0004000000),
        (0x7F0010000000, 0x7F0010001000),
        (0x7F0020000000, 0x7F0022000000),
    ]


@pytest.mark.parametrize("linked", [False, True])
def test_all_parts_of_a_model_are_its_pages(tmp_path: Path, linked: bool) -> None:
    """T14: each part is a file of its own, or a link to one, as in the cache of the hub."""
    parts = [tmp_path / f"big [1]-{at:05d}-of-00003.gguf" for at in (1, 2, 3)]
    files = [tmp_path / "blobs" / f"{at}" for at in (1, 2, 3)] if linked else parts
    (tmp_path / "blobs").mkdir()
    for part, file in zip(parts, files, strict=True):
        file.touch()
        if linked:
            part.symlink_to(file)
    others = [tmp_path / "big [1]-00001-of-00002.gguf", tmp_path / "big [1]-00001-of-00003.ggufx"]
    mapped = [*files, *others, Path(f"{files[1]} (deleted)")]
    maps = "".join(
        f"7f00{at:02x}000000-7f00{at:02x}001000 r--s 00000000 08:02 42   {file}\n"
        for at, file in enumerate(mapped)
    )
    found = [first >> 24 & 0xFF for first, _ in regions(str(parts[0]), maps)]
    assert found == [0, 1, 2, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_pages_that_were_taken_come_back(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(PAGES * mmap.PAGESIZE))

    def resident() -> int:
        maps = psutil.Process().memory_maps(grouped=True)
        return sum(int(one.rss) for one in maps if one.path == str(path)) // mmap.PAGESIZE

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_DONTNEED)
        assert resident() == 0
        assert Toucher().touch(str(path), lambda: False) == 0
        assert resident() == 0
        assert Toucher().touch(str(path)) >= PAGES
        assert resident() == PAGES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports what is mapped")
def test_an_interrupted_pass_continues_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T14: keep-warm while statistics are requested all the time reaches the last page."""
    monkeypatch.setattr(model, "_PIECE_BYTES", 64 * mmap.PAGESIZE)
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(PAGES * mmap.PAGESIZE))
    toucher = Toucher()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_DONTNEED)
        total = _piece_count(path)
        rounds = 0
        while rounds == 0 or toucher._next:
            answers = iter([True] * 11)
            toucher.touch(str(path), partial(next, answers, False))
            rounds += 1
        assert rounds == -(-total // 11)
        maps = psutil.Process().memory_maps(grouped=True)
        assert sum(one.rss for one in maps if one.path == str(path)) == PAGES * mmap.PAGESIZE


def _piece_count(path: Path) -> int:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    return len(pieces(regions(str(path), maps)))
