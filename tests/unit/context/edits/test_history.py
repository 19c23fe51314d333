"""Typing is joined, what is undone leaves, and hunks follow the text."""

from __future__ import annotations

import random

from context.edits.history import MAX_HUNKS, MAX_LINES, History, between, reverted


def test_a_word_typed_letter_by_letter_is_one_hunk() -> None:
    history = History()
    for old, new in (("foo()", "fo()"), ("fo()", "()"), ("()", "b()"), ("b()", "bar()")):
        history.changed(5, (old,), (new,))
    (hunk,) = history.hunks
    assert (hunk.first, hunk.old, hunk.new) == (5, ("foo()",), ("bar()",))


def test_new_lines_join_the_line_above() -> None:
    history = History()
    history.changed(4, ("a",), ("a:", "    "))
    history.changed(5, ("    ",), ("    b",))
    (hunk,) = history.hunks
    assert (hunk.first, hunk.old, hunk.new) == (4, ("a",), ("a:", "    b"))


def test_undo_at_once_and_later() -> None:
    history = History()
    history.changed(1, ("a",), ("b",))
    history.changed(9, ("x",), ("y",))
    history.changed(1, ("b",), ("a",))
    assert [hunk.first for hunk in history.hunks] == [9]
    history.changed(9, ("y",), ("x",))
    assert history.hunks == ()
    assert history.undone == ((("a",), ("b",)), (("x",), ("y",)))


def test_hunks_move_with_lines_above_and_go_stale_when_touched() -> None:
    history = History()
    history.changed(10, ("a",), ("b",))
    history.changed(0, (), ("new", "lines"))
    assert history.hunks[0].first == 12
    history.changed(20, ("q",), ("r",))
    history.changed(12, ("b",), ("c",))
    assert [hunk.stale for hunk in history.hunks] == [True, False, False, False]


def test_bounds() -> None:
    history = History()
    for at in range(100):
        history.changed(3 * at, ("a",), ("b",))
    assert len(history.hunks) == MAX_HUNKS
    history.changed(0, ("a",), ("b",) * (MAX_LINES + 1))
    assert history.hunks == ()


def test_fresh_hunks_always_match_the_text() -> None:
    """Property: whatever is edited, the new lines of a hunk that is not stale stand in the text,
    and taking back the hunks from the newest on gives the earlier text while none is stale."""
    for seed in range(200):
        rng = random.Random(seed)
        lines = [str(rng.randrange(4)) for _ in range(12)]
        start = list(lines)
        history = History()
        for _ in range(8):
            first = rng.randrange(len(lines) + 1)
            old = lines[first : first + rng.randrange(3)]
            new = [str(rng.randrange(4)) for _ in range(rng.randrange(3))]
            lines[first : first + len(old)] = new
            history.changed(first, old, new)
            for hunk in history.hunks:
                if not hunk.stale:
                    assert tuple(lines[hunk.first : hunk.stop]) == hunk.new
        if all(not hunk.stale and hunk.new for hunk in history.hunks):
            assert reverted(lines, history.hunks) == start


def test_between() -> None:
    assert between(["a", "b"], ["a", "b"]) is None
    assert between(["a", "b", "c"], ["a", "x", "y", "c"]) == (1, ("b",), ("x", "y"))
