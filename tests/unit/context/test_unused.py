"""What a file has made ready and uses nowhere yet."""

from __future__ import annotations

from typing import Any

import pytest

from context.retrieval import Relation
from context.retrieval.name_usage import unused_definitions, waiting
from context.syntax.document import Document


def unused(text: str, path: str = "quay.py") -> set[str]:
    source = Document("", path, text).source
    assert source is not None
    return set(unused_definitions(source.text, source.outline))


def test_a_helper_and_a_constant_that_nothing_uses() -> None:
    text = "LIMIT = 3\nUSED = 4\n\n\ndef draught_of(ship):\n    return USED\n"
    assert unused(text) == {"LIMIT", "draught_of"}
    assert unused(text + "\n\ndraught_of(LIMIT)\n") == set()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("@app.route('/')\ndef index():\n    pass\n", "quay.py"),
        ("def main():\n    pass\n\n\ndef test_all():\n    pass\n", "quay.py"),
        ("__all__ = ['moor']\n\n\ndef moor():\n    pass\n", "quay.py"),
        ("class Quay:\n    def moor(self):\n        x = 1\n", "quay.py"),
        ("export function moor() {}\n", "quay.js"),
        ("pub fn moor() {}\n", "quay.rs"),
    ],
)
def test_what_others_may_use_is_not_told(text: str, path: Any) -> None:
    assert unused(text, path) == set()


def test_where_many_are_unused_only_private_ones_wait() -> None:
    public = "".join(f"def moor_{at}():\n    pass\n\n\n" for at in range(9))
    assert unused(public) == set()
    assert unused(public + "def _draught():\n    pass\n") == {"_draught"}
    private = "class Quay:\n    def _moor(self):\n        def inner():\n            pass\n"
    assert unused(private) == {"_moor"}


def test_they_are_shown_by_their_signatures_the_nearest_first() -> None:
    lines = "# a line in between\n" * 20
    text = (
        f"LEVELS = [\n    0.0,\n    0.1,\n]\n{lines}\ndef f(x):\n    y = 1\n{lines}"
        "def _draught_of(ship: Ship) -> float:\n    return ship.depth\n"
    )
    document = Document("", "quay.py", text)
    cursor = text.index("y = 1")
    made = waiting(document, {"LEVELS", "_draught_of"}, cursor, (cursor - 40, cursor + 40))
    assert {one.name: one.text for one in made} == {
        "LEVELS": "LEVELS = [...]",
        "_draught_of": "def _draught_of(ship: Ship) -> float:\n    ...",
    }
    assert all(one.relation is Relation.WAITING and one.strong for one in made)
    assert waiting(document, {"LEVELS"}, cursor, (0, len(text))) == []


@pytest.mark.parametrize("text", ["", "def (", "\0\0", "x" * 100_000, "= [\n"])
def test_broken_texts_have_none(text: str) -> None:
    document = Document("", "quay.py", text)
    assert waiting(document, {"x"}, 0, (0, 0)) == [] or text.startswith("x")
