"""Code and words out of answers, and code back at its place."""

from __future__ import annotations

import pytest
from steps import linear

from lsp.actions.answer import blocks, code_of, fitted, place_for, words_of

OLD = "    def area(self):\n        return self.a * self.b\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("Here it is:\n\n```python\nx = 1\n```\nIt sets x.", "x = 1"),
        ("~~~\nx = 1\n~~~", "x = 1"),
        ("```\n\n\nx = 1\n\n```", "x = 1"),
        ("- so:\n  ```py\n  x = 1\n    y = 2\n  ```", "x = 1\n  y = 2"),
        ("````md\n```\ninner\n```\n````", "```\ninner\n```"),
        ("```python\nx = 1", "x = 1"),  # it ended before it closed the fence
        ("Use this:\n```sh\npip install x\n```\nthen\n```python\nx = 1\n```", "pip install x"),
        ("I cannot do that.", ""),
        ("", ""),
        ("``` \n\n```", ""),
    ],
)
def test_the_code_of_an_answer(answer: str, code: str) -> None:
    assert code_of(answer, "") == code


def test_of_several_blocks_that_which_is_like_the_old_code() -> None:
    answer = (
        "Install it:\n```sh\npip install area\n```\nand:\n"
        "```python\ndef area(self):\n    return self.a * self.b * 2\n```"
    )
    assert code_of(answer, OLD).startswith("def area(self):")


def test_code_without_a_fence_is_code_if_it_is_like_the_old() -> None:
    answer = "    def area(self):\n        return abs(self.a * self.b)\n"
    assert code_of(answer, OLD) == answer.rstrip("\n")


def test_a_block_says_whether_it_was_closed() -> None:
    assert [one.closed for one in blocks("```\na\n```\n```\nb")] == [True, False]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Return the area.", "Return the area."),
        ('"""Return the area."""', "Return the area."),
        ("```python\n# Return the area.\n```", "Return the area."),
        ('```python\ndef area(self):\n    """Return the area.\n\n    In metres.\n    """\n```',
         "Return the area.\n\nIn metres."),
        ("/**\n * Returns the area.\n * @return metres\n */", "Returns the area.\n@return metres"),
        ("/// Returns the area.\n///\n/// In metres.", "Returns the area.\n\nIn metres."),
        ("```\nReturn the area.\n```", "Return the area."),
        ("```python\ndef area(self):\n    return self.a * self.b\n```", ""),
        ("`Return the area.`", "Return the area."),
        ("", ""),
    ],
)  # fmt: skip
def test_the_words_of_an_answer(answer: str, words: str) -> None:
    assert words_of(answer) == words


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("def area(self):\n    return 1", "    def area(self):\n        return 1"),
        ("    def area(self):\n        return 1", "    def area(self):\n        return 1"),
        ("def area(self):\n        return 1", "    def area(self):\n        return 1"),
        ("        def area(self):\n            return 1", "    def area(self):\n        return 1"),
        ("def area(self):\n\n    return 1", "    def area(self):\n\n        return 1"),
    ],
)
def test_code_stands_where_the_old_stood(code: str, made: str) -> None:
    assert fitted(code, OLD) == made


def test_blanks_become_tabs_where_the_document_has_tabs() -> None:
    assert fitted("f() {\n  g();\n    h();\n}", "\tf() {\n\t\tg();\n\t}\n") == (
        "\tf() {\n\t\tg();\n\t\t\th();\n\t}"
    )


def test_a_blank_line_takes_the_place_of_those_above() -> None:
    assert place_for(["def f():", "    x = 1", ""], 2) == "    x"
    assert place_for(["def f():", "        "], 1) == "        x"
    assert place_for([""], 0) == "x"


@pytest.mark.parametrize(
    "part",
    ["\\\n", "a\n", "```\n", "~~~\n", "```x\n", "# a\n", "\n", "a", "\t", " * a\n", '"""', "/*"],
)
def test_answers_are_read_in_linear_time(part: str) -> None:
    """T1: an answer that repeats itself, about code that does."""

    def made(size: int) -> str:
        return part * (size // len(part))

    assert linear(blocks, made, 4_000)
    assert linear(words_of, made, 4_000)
    assert linear(lambda text: code_of(text, text), made, 4_000)
    assert linear(lambda text: fitted(text, text), made, 4_000)
