"""Reading the position that `underkeel complete` is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.cli.complete import read_place
from assistant.errors import RequestError


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (b"a\n", "3:1", "no line 3"),
        (b"a\n", "1:3", "no column 3"),
        (b"a\n", "0:1", "no line 0"),
        (b"a\n", "1:0", "no column 0"),
        (b"a\0b\n", "1:1", "not text"),
        (b"\xff\xfe\n", "1:1", "not text"),
        (b"x" * (17 << 20), "1:1", "too large (17 MiB)"),
        (None, "1:1", "cannot be read"),
        (b"a\n", "here", "not a position"),
    ],
)
def test_bad_places(tmp_path: Path, content: bytes | None, place: str, says: str) -> None:
    file = tmp_path / "a.py"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_place(f"{file}:{place}")
    assert says in str(caught.value)
    assert caught.value.advice


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [("", 1, 1), ("a", 1, 2), ("a\r\n", 2, 1), ("x\ry", 2, 2), ("\f\u2028\n", 1, 3)],
)
def test_good_places(tmp_path: Path, content: str, line: int, column: int) -> None:
    file = tmp_path / "a:b.py"
    file.write_text(content, newline="")
    cursor = read_place(f"{file}:{line}:{column}")
    assert (cursor.path, cursor.line, cursor.column) == (file, line, column)
    assert cursor.text == content
