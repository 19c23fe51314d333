"""Reading the position that `underkeel complete` is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.cli.complete import read_place
from assistant.errors import RequestError


@pytest.mark.parametrize(
    ("content", "place", "says", "advice"),
    [
        (b"a\n", "3:1", "no line 3", "lines 1 to 2"),
        (b"a\n", "1:3", "no column 3", "columns 1 to 2"),
        (b"a\n", "0:1", "no line 0", "lines 1 to 2"),
        (b"a\n", "1:0", "no column 0", "columns 1 to 2"),
        (b"a\0b\n", "1:1", "binary, not text", "Name a text file"),
        (b"\xff\xfe\n", "1:1", "not text in UTF-8", "Convert it to UTF-8"),
        (b"caf\xe9\n", "1:1", "not text in UTF-8", "Convert it to UTF-8"),
        (b"x" * (17 << 20), "1:1", "too large (more than 16 MiB)", "Name a smaller file"),
        (None, "1:1", "cannot be read (No such file or directory)", "Check its name"),
        (b"a\n", "here", "not a position", "Write FILE:LINE:COLUMN"),
    ],
)
def test_bad_places(
    tmp_path: Path, content: bytes | None, place: str, says: str, advice: str
) -> None:
    """Each says what is wrong, where, and what helps against that."""
    file = tmp_path / "a.py"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_place(f"{file}:{place}")
    assert says in str(caught.value)
    assert caught.value.subject.startswith(str(file))
    assert advice in caught.value.advice


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
