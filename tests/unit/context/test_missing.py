"""Names that are used below the cursor and defined nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from context.retrieval import Relation
from context.retrieval.name_usage import missing
from context.syntax.document import Document


def found(text: str, path: str = "quay.py", shown: int = 0) -> list[tuple[str, str]]:
    before, _, after = text.partition("|")
    document = Document("", path, before + after)
    made = missing(document, len(before), len(before) + shown)
    assert all(one.relation is Relation.MISSING for one in made)
    assert all(document.text[one.start : one.stop].rstrip() == one.text for one in made)
    return [(one.name, one.text.strip()) for one in made]


def test_a_variable_that_is_used_below_and_bound_nowhere() -> None:
    text = (
        "def total_of(ships):\n    |\n    if not ships:\n        return 0\n    return draught + 1\n"
    )
    assert found(text) == [("draught", "return draught + 1")]


@pytest.mark.parametrize(
    "bound",
    [
        "draught = 1", "draught: int = 1", "draught, width = 1, 2", "for draught in ships: pass",
        "with ships as draught: pass", "import draught", "(draught := 1)", "def draught(): pass",
    ],
)  # fmt: skip
def test_what_is_bound_is_not_missing(bound: Any) -> None:
    assert found(f"def total_of(ships):\n    |\n    {bound}\n    return draught\n") == []
    assert found(f"def total_of(ships):\n    {bound}\n    |\n    return draught\n") == []


def test_parameters_globals_builtins_calls_and_strings_are_not_missing() -> None:
    text = (
        "import os\nlimit = 3\n\n\ndef f(ships):\n    |\n    x = os.sep, limit, ships, len\n"
        "    return helper(x), 'draught', isinstance(x, str)  # width\n"
    )
    assert found(text) == []


def test_a_member_that_the_class_never_sets() -> None:
    text = (
        "class Quay:\n    def __init__(self, length):\n        self.length = length\n        |\n\n"
        "    def moor(self, ship):\n        self.berths.append(ship)\n        return self.length\n"
    )
    assert found(text) == [("berths", "self.berths.append(ship)")]
    script = (
        "class Quay {\n  constructor(length) {\n    this.length = length;\n    |\n  }\n"
        "  moor(ship) {\n    this.berths.push(ship);\n    return this.length;\n  }\n}\n"
    )
    assert found(script, "quay.js") == [("berths", "this.berths.push(ship);")]


def test_in_a_constructor_a_member_that_only_another_method_sets_is_missing() -> None:
    text = (
        "class Quay:\n    def __init__(self, length):\n        self.length = length\n{here}"
        "    def moor(self, ship):\n        self._berth = ship.berth\n{there}        return ship\n"
    )
    in_constructor = text.format(here="        |\n", there="")
    assert found(in_constructor) == [("_berth", "self._berth = ship.berth")]
    script = (
        "class Quay {\n  constructor(length) {\n    |\n  }\n"
        "  moor(ship) {\n    this.berth = ship.berth;\n  }\n}\n"
    )
    assert found(script, "quay.js") == [("berth", "this.berth = ship.berth;")]
    elsewhere = text.format(here="", there="        |\n") + (
        "\n    def leave(self):\n        return self._berth, self.__dict__\n"
    )
    assert found(elsewhere) == []


def test_what_is_shown_anyway_is_left_out() -> None:
    text = "def f(ships):\n    |\n    a = draught\n    return draught + width\n"
    assert [name for name, _ in found(text)] == ["draught", "width"]
    assert [name for name, _ in found(text, shown=20)] == ["width"]


@pytest.mark.parametrize(
    "text", ["|", "draught|", "def f(:\n  |((", "x = '\0'\n|\ny = z\n", "|self.a"]
)
def test_broken_and_empty_texts_have_none(text: str) -> None:
    assert found(text) == []
    assert found(text, "notes.txt") == []


def test_at_most_three_and_no_long_lines() -> None:
    uses = "".join(f"    print(one_{i})\n" for i in "abcdef")
    assert len(found(f"def f():\n    |\n{uses}")) == 3
    assert found(f"def f():\n    |\n    return draught + '{'x' * 300}'\n") == []
