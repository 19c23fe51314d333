"""Code that runs alongside the code around the cursor: found by its lines, in any file."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from context.retrieval.lexical_search import Surroundings, likeness, line_words

NAMES = ["ship", "tide", "quay", "depth", "hour", "berth", "crane", "rope"]
LINE = st.lists(st.sampled_from(NAMES), max_size=6)
TEXT = st.lists(LINE.map(" ".join), max_size=40)

METHOD = """
    def {name}_of(self, ship):
        found = self.{name}s.get(ship.number)
        if found is None:
            raise NoSuch{kind}(ship)
        self.log.info("{name} of %s", ship)
        return found
"""


def rows(text: str) -> list[frozenset[str]]:
    return [line_words(line) for line in text.split("\n")]


def around(text: str) -> Surroundings:
    before, _, after = text.partition("|")
    return Surroundings.of(before, after)


def test_the_twin_of_the_cursors_row_is_found() -> None:
    other = METHOD.format(name="tonnage", kind="Tonnage")
    here = METHOD.format(name="draught", kind="Draught")
    cut = '        self.log.info("draught of %s", ship)\n'
    (twin, *_) = around(here.replace(cut, "        |\n")).twins(rows(other), 1)
    assert "self.log.info" in other.split("\n")[twin.row] and twin.share > 0.5


def test_lines_after_the_cursor_speak_too() -> None:
    """Where the lines before it are like two places, those after it tell which."""
    head = "def load(self, name):\n    with self.lock:\n"
    one = head + "        self.crane.lift(name)\n        self.note_the_weight(name)\n"
    two = head + "        self.rope.tighten(name)\n        self.note_the_length(name)\n"
    filler = "\n".join(f"other_{i} = value_{i}" for i in range(20)) + "\n"
    text = one + filler + two
    for wanted, after in (
        ("crane", "self.note_the_weight(name)"),
        ("rope", "self.note_the_length(name)"),
    ):
        (twin, *_) = around(f"{head}        |\n        {after}\n").twins(rows(text), 1)
        assert wanted in text.split("\n")[twin.row]


def test_what_runs_alongside_by_chance_is_worth_little() -> None:
    here = METHOD.format(name="draught", kind="Draught") + "        |"
    other = "def unlike(anything):\n    for each in anything:\n        yield each + 1\n"
    assert all(twin.share < 0.3 for twin in around(here).twins(rows(other), 3))


def test_nothing_to_go_by_finds_nothing() -> None:
    assert Surroundings.of("", "").twins(rows("a b\nc d\n"), 2) == []
    assert Surroundings.of("self.a = b\n", "").twins([], 2) == []
    assert Surroundings.of("self.a = b\n", "").twins(rows("\n\n"), 2) == []


@given(TEXT, TEXT, st.integers(0, 40), st.integers(1, 4))
def test_twins_are_rows_apart_with_shares_best_first(
    here: Any, other: Any, at: Any, limit: Any
) -> None:
    found = Surroundings.of("\n".join(here[:at]), "\n".join(here[at:])).twins(
        [line_words(line) for line in other], limit
    )
    assert len(found) <= limit
    assert all(0 <= one.row < len(other) and 0 < one.share <= 1 for one in found)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert all(abs(a.row - b.row) >= 8 for a in found for b in found if a is not b)


@given(LINE, TEXT)
def test_the_lookup_finds_every_line_that_is_like_one(own: Any, lines: Any) -> None:
    """It compares only with lines that share a rarer word: none may be lost by that."""
    from context.retrieval.lexical_search import _LIKE, _Lookup

    words = [frozenset(line.split()) for line in lines]
    line = frozenset(own)
    wanted = {i: likeness(line, one) for i, one in enumerate(words) if likeness(line, one) >= _LIKE}
    assert _Lookup.of(words).alike(line) == wanted
