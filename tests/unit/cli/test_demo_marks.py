"""The demo sets the model's text apart, with colours and without."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from assistant.cli.demo import Finished, Ghost, _file, _marks

TEXT = "def f(a):\n\treturn a + 1\n\ndef g():\n\treturn f(2)\n"


def ghost(text: str) -> Ghost:
    return Ghost(text, TEXT.index(text), 1, 1, 1, 1, 1.0)


FINISHED = Finished("sample.py", TEXT, [ghost("a + 1"), ghost("return f(2)")])


def drawn(console: Console, file: io.StringIO | io.TextIOWrapper) -> str:
    console.print(_file(FINISHED, _marks(console)))
    if isinstance(file, io.StringIO):
        return file.getvalue()
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode(file.encoding)


def test_colours_set_it_apart_where_there_are_some() -> None:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, color_system="standard", width=60, _environ={}
    )
    shown = drawn(console, file)
    assert "«" not in shown and "\033[3;90;49ma + " in shown


@pytest.mark.parametrize("options", [{}, {"force_terminal": True, "no_color": True}])
def test_marks_set_it_apart_in_a_pipe_and_without_colours(options: dict[str, bool]) -> None:
    file = io.StringIO()
    shown = drawn(Console(file=file, width=60, **options), file)  # type: ignore[arg-type]
    assert "return «a + 1»" in shown and "«return f(2)»" in shown


def test_ascii_marks_where_the_output_has_no_others() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    shown = drawn(Console(file=file, width=60), file)
    assert "return <<a + 1>>" in shown and "<<return f(2)>>" in shown


def test_a_cursor_without_a_suggestion_has_no_marks() -> None:
    file = io.StringIO()
    console = Console(file=file, width=60)
    console.print(_file(Finished("a.py", "x = \n", [Ghost("", 4, 1, 1, 1, 1, 1.0)]), ("«", "»")))
    assert "«" not in file.getvalue()
