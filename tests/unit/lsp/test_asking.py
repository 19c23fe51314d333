"""What a question tells the model of its place."""

from __future__ import annotations

import pytest

from lsp.completion.completion_stream import half_typed, unwanted_line
from lsp.document import Document, Encoding

CURSOR = "\u2038"


def unlike(text: str) -> str:
    prefix, suffix = text.split(CURSOR)
    document = Document("file:///a.py", prefix + suffix, encoding=Encoding.UTF32, language="python")
    line = prefix.count("\n")
    place = document.place(line, len(prefix) - prefix.rfind("\n") - 1)
    site = document.site(place)
    rest = unwanted_line(site)
    return half_typed(site) + rest if rest else ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if a:\n    del ‸\n    del a.first[0]  \n", " a.first[0]"),
        ("if a:\n    del a.fir‸\n\n    del a.first[0]\n", "first[0]"),
        ("if a:\n    ‸\n    return 1\n", "return 1"),
        ("if a:\n    x‸\n    return 1\n", ""),
        ("if a:\n    ret‸ 2\n    return 1\n", ""),
        ("if a:\n    return 1‸\n    return 1\n", ""),
        ("x = ‸", ""),
        (f"x = ‸\nx = {'y' * 300}\n", ""),
    ],
)
def test_the_answer_should_not_be_the_line_below(text: str, expected: str) -> None:
    assert unlike(text) == expected
