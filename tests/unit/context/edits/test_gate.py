"""What the gate lets through, and why it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from context.edits import EditKind, NextEdit
from context.edits.gate import Level, Moment, Showings, judge, key
from context.edits.history import Hunk
from context.edits.model_edits import formats

_TEXT = "".join(f"x{number} = {number}\n" for number in range(40))
_RELATED = (Hunk(0, ("x0 = 3 + 33",), ("x0 = 0",)),)
_MOMENT = Moment("a.py", _TEXT, 3, _RELATED, confidence=0.9)


def _edit(old: str, new: str, kind: EditKind = EditKind.MODEL) -> NextEdit:
    start = _TEXT.index(old)
    return NextEdit(start, start + len(old), new, kind)


def test_worth_follows_the_formula() -> None:
    near, far = _edit("x3 = 3", "x3 = 4"), _edit("x33 = 33", "x33 = 4")
    assert judge(near, _MOMENT).worth == pytest.approx(0.9)
    assert judge(far, _MOMENT).worth == pytest.approx(0.9 * 0.5**0.5)
    assert judge(_edit("x3 = 3", "\n".join(["x3 = 4"] * 17)), _MOMENT).worth == pytest.approx(0.45)
    rule = replace(far, kind=EditKind.RENAME)
    assert judge(rule, replace(_MOMENT, confidence=1.0)).passes(Level.QUIET)


def test_an_edit_that_shares_no_word_with_the_recent_ones_is_worth_half() -> None:
    edit, alone = _edit("x3 = 3", "x3 = 4"), replace(_MOMENT, hunks=())
    assert judge(edit, alone).worth == pytest.approx(judge(edit, _MOMENT).worth / 2)


def test_a_family_has_thresholds_of_its_own() -> None:
    verdict = judge(_edit("x3 = 3", "x3 = 4"), _MOMENT)
    assert not verdict.passes(Level.NORMAL, {"normal": 0.95})
    assert all(set(one.thresholds) == {"quiet", "normal", "eager"} for one in formats().values())


def test_levels() -> None:
    edit = _edit("x3 = 3", "x3 = 4")
    passed = [
        level for level in Level if judge(edit, replace(_MOMENT, confidence=0.6)).passes(level)
    ]
    assert passed == [Level.NORMAL, Level.EAGER]


@pytest.mark.parametrize(
    ("edit", "moment", "reason"),
    [
        (_edit("x3 = 3", "x3 = 3"), {}, "it changes nothing"),
        (_edit("x3 = 3", "x3 = 3  "), {}, "it changes blanks only"),
        (_edit("x3 = 3", "x3 = ("), {}, "it breaks the syntax"),
        (_edit(_TEXT, "x = 1\n"), {}, "it changes most of the file"),
        (_edit("x3 = 3\n", "x3 = 3\nx3 = 3\n"), {}, "it is already there"),
        (_edit("x3 = 3\n", "x3 = 3\nx9 = 9\nx10 = 10\n"), {}, "it is already there"),
        (
            _edit("x3 = 3\n", ""),
            {"hunks": (Hunk(0, ("y = 3",), ("x0 = 0",)),)},
            "it only deletes",
        ),
        (
            _edit("x3 = 3", "x3 = 2"),
            {"hunks": (Hunk(3, ("x3 = 2",), ("x3 = 3",)),)},
            "it reverses the last edit",
        ),
        (
            _edit("x3 = 3\n", ""),
            {"hunks": (Hunk(3, (), ("x3 = 3",)),)},
            "it reverses the last edit",
        ),
        (
            _edit("x3 = 3\nx4 = 4\n", "y = 1\n"),
            {"hunks": (Hunk(3, (), ("x3 = 3",)),)},
            "it deletes what was just typed",
        ),
        (
            _edit("x3 = 3", "x3 = 4"),
            {"undone": ((("x3 = 3",), ("x3 = 4",)),)},
            "it was undone",
        ),
        (
            _edit("x3 = 3", "x3 = 4"),
            {"rejected": {("a.py", "x3 = 3", "x3 = 4")}},
            "it was rejected",
        ),
    ],
)
def test_vetoes(edit: NextEdit, moment: dict[str, object], reason: str) -> None:
    verdict = judge(edit, replace(_MOMENT, **moment))  # type: ignore[arg-type]
    assert (verdict.worth, verdict.reason) == (0.0, reason)


def test_a_rejected_edit_stays_rejected_when_it_moves() -> None:
    edit = _edit("= 3\n", "= 4\n")
    moved = replace(edit, start=edit.start + 5, stop=edit.stop + 5)
    assert key("a.py", _TEXT, edit) == key("a.py", "# x\n\n" + _TEXT, moved)
    assert key("a.py", _TEXT, edit) != key("b.py", _TEXT, edit), "another file is another case"


def test_an_edit_that_was_shown_after_two_changes_is_passed_over_at_the_third() -> None:
    edit, showings = _edit("x3 = 3", "x3 = 4"), Showings()
    mine = key("a.py", _TEXT, edit)
    for newest, passes in ((1, True), (1, True), (2, True), (2, True), (3, False), (9, False)):
        verdict = judge(edit, replace(_MOMENT, passed=showings.passed(newest)))
        assert (verdict.worth > 0, verdict.ends) == (passes, not passes), newest
        if passes:
            showings.note(mine, newest)
    other = _edit("x4 = 4", "x4 = 5")
    assert judge(other, replace(_MOMENT, passed=showings.passed(9))).worth > 0
