"""Prompt lookup: what is drafted, what is believed, and how long a draft pays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.engine.worker.speculation import (
    ASIDE,
    FEW_ROWS,
    MOST_DRAFTED,
    NO_DRAFT,
    SURE_MARGIN,
    Aside,
    Draft,
    Lookup,
    Pace,
    SameBits,
    expected,
    verify,
)

SURE, UNSURE = SURE_MARGIN + 1, SURE_MARGIN / 2
TOKENS = st.lists(st.integers(0, 3), max_size=40)


def test_what_followed_before_is_drafted() -> None:
    assert Lookup([1, 2, 3, 4, 5, 9, 1, 2]).draft(3) == Draft((3, 4, 5), matched=2)


def test_the_longest_match_and_the_last_place_win() -> None:
    tokens = [1, 2, 3, 4, 10, 7, 3, 4, 11, 8, 1, 2, 3, 4]
    assert Lookup(tokens).draft(1).tokens == (10,)  # four tokens agree there, two at the other
    assert Lookup([3, 4, 10, 3, 4, 11, 3, 4]).draft(1).tokens == (11,)


def test_nothing_is_drafted_where_nothing_was_said_before() -> None:
    assert Lookup([1, 2, 3, 4]).draft() == NO_DRAFT
    assert Lookup([]).draft() == Lookup([1]).draft() == NO_DRAFT


REGION = list(range(100, 160))
START = [1, 2, *REGION, 7, 1, 2]
"""A prompt with a region that the answer writes again."""


def drafted_steps(answer: list[int]) -> int:
    """Batches for an answer, where drafts are evaluated as they come."""
    lookup, steps, at = Lookup(START), 0, 0
    while at < len(answer):
        draft = lookup.draft(MOST_DRAFTED).tokens
        right = 0
        while right < min(len(draft), len(answer) - at) and draft[right] == answer[at + right]:
            right += 1
        taken = answer[at : at + right + 1]
        lookup.extend(taken)
        at, steps = at + len(taken), steps + 1
    return steps


def test_a_region_that_stays_takes_a_batch_for_each_full_draft() -> None:
    assert drafted_steps(REGION) == 2  # 60 tokens, 32 a batch


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        ([*REGION[:20], 5, *REGION[21:]], 5),  # a token is replaced
        ([*REGION[:20], 5, 6, 5, *REGION[20:]], 7),  # tokens are added
        ([*REGION[:20], *REGION[30:]], 4),  # tokens are left out
    ],
)
def test_a_region_is_found_again_after_a_change(answer: list[int], steps: int) -> None:
    assert drafted_steps(answer) <= steps


def test_the_place_that_is_copied_wins_over_what_was_just_said() -> None:
    lines = [9, 9, 101, 9, 9, 102, 9, 9, 103, 9, 9, 104]  # every line starts alike
    lookup = Lookup([1, 2, *lines, 7, 1, 2])
    for at in range(1, len(lines) + 1):
        assert lookup.draft(1).tokens == (lines[at - 1],)
        lookup.extend(lines[at - 1 : at])
    lookup = Lookup([1, 2, *lines, 7, 1, 2])
    lookup.extend([9, 9, 55, 9, 9])
    assert lookup.draft(1).tokens == (102,), "a changed line, then those after it"


def test_an_unsure_row_is_believed_where_drafts_need_not_be_exact() -> None:
    found = verify((5, 6, 7), [(5, SURE), (6, UNSURE), (8, UNSURE), (8, SURE)], 0.0)
    assert found.tokens == (5, 6, 8) and not found.again


@given(TOKENS, TOKENS)
def test_a_draft_is_a_piece_of_what_was_said(start: list[int], more: list[int]) -> None:
    lookup = Lookup(start)
    lookup.extend(more)
    whole = start + more
    draft = lookup.draft()
    assert draft == Lookup(whole).draft()  # however it came in
    if draft.tokens:
        size = min(draft.matched, 4)
        places = [
            at
            for at in range(size, len(whole))
            if whole[at - size : at] == whole[len(whole) - size :]
        ]
        assert draft.matched >= 2
        assert any(tuple(whole[at : at + len(draft.tokens)]) == draft.tokens for at in places)
        assert len(draft.tokens) <= MOST_DRAFTED


def test_text_aside_is_drafted_from_where_the_prompt_says_less() -> None:
    aside = Aside((1, 2, 3, 4, 5, 6, 7, 8))
    assert Lookup([9, 3, 4], aside).draft() == Draft((5, 6, 7, 8), ASIDE - 2)
    assert Lookup([1, 2, 3, 4], aside).draft(2) == Draft((5, 6), ASIDE - 4)
    assert Lookup([3, 4, 10, 3, 4], aside).draft(1) == Draft((10,), 2), "the prompt comes first"
    longer = Lookup([3, 4, 10, 1, 2, 3, 4], aside)
    assert longer.draft(1) == Draft((5,), ASIDE - 4), "but more tokens agree here"
    longer.extend([5, 6, 7, 8])
    assert longer.draft() == NO_DRAFT, "nothing is known after its end"
    assert len(longer) == 11


@given(TOKENS, TOKENS, TOKENS)
def test_a_draft_is_from_the_request_or_from_what_it_gives_aside(
    aside: list[int], start: list[int], more: list[int]
) -> None:
    lookup = Lookup(start, Aside(tuple(aside)))
    lookup.extend(more)
    draft, length = lookup.draft(), len(start + more)
    source = aside if draft.matched <= ASIDE else start + more
    places = range(len(source))
    assert any(tuple(source[at:][: len(draft.tokens)]) == draft.tokens for at in places) or (
        draft == NO_DRAFT
    )
    assert len(lookup) == length
    if not aside:
        assert draft == Lookup(start + more).draft()


def test_drafts_from_aside_end_by_themselves() -> None:
    pace = Pace(row_costs={2: 0.1})
    own, other = Draft((1, 2, 3), 8), Draft((1, 2, 3), ASIDE - 8)
    assert pace.length(own) and pace.length(other)
    for _ in range(40):
        pace.learn(other, 0)
    assert pace.length(own) and not pace.length(other)


def test_a_draft_is_kept_as_far_as_the_model_agrees() -> None:
    rows = [(5, SURE), (6, SURE), (9, SURE), (1, SURE)]
    assert verify((5, 6, 7), rows).tokens == (5, 6, 9)
    assert verify((5, 6, 9), rows).tokens == (5, 6, 9, 1)
    assert verify((4,), rows).tokens == (5,)


def test_a_row_that_hardly_leads_is_evaluated_again() -> None:
    found = verify((5, 6, 7), [(5, SURE), (6, UNSURE), (7, SURE), (8, SURE)])
    assert found.tokens == (5,) and found.again
    assert verify((5,), [(5, UNSURE), (6, SURE)]).tokens == ()


@given(st.lists(st.integers(0, 2), max_size=6), st.data())
def test_only_sure_rows_speak(draft: list[int], data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from([SURE, UNSURE])),
            min_size=len(draft) + 1,
            max_size=len(draft) + 1,
        )
    )
    found = verify(draft, iter(rows))
    assert list(found.tokens) == [token for token, _ in rows[: len(found.tokens)]]
    assert all(lead >= SURE_MARGIN for _, lead in rows[: len(found.tokens)])
    assert list(found.tokens[:-1]) == draft[: max(len(found.tokens) - 1, 0)]
    assert found.again or found.tokens


def taught(accepted: int, matched: int = 4, times: int = 60, row_cost: float = 0.3) -> Pace:
    pace = Pace(row_costs={2: row_cost})
    for _ in range(times):
        pace.learn(Draft((1, 2, 3, 4), matched), accepted)
    return pace


LONG = Draft(tuple(range(MOST_DRAFTED)), matched=4)


def test_drafts_grow_where_they_come_true_and_stop_where_not() -> None:
    assert taught(4).length(LONG) > taught(2).length(LONG) > taught(0).length(LONG) == 0


def test_drafts_are_shorter_where_rows_are_dear() -> None:
    cheap, dear = taught(3, row_cost=0.1), taught(3, row_cost=0.7)
    assert cheap.length(LONG) > dear.length(LONG)


def test_what_failed_is_tried_again_some_day() -> None:
    pace = taught(0)
    assert pace.length(LONG) == 0
    assert any(pace.length(LONG) for _ in range(2000))


def test_drafts_stop_where_their_rows_have_to_be_evaluated_again() -> None:
    pace = taught(3)
    assert pace.length(LONG) > 0
    for _ in range(60):
        pace.learn(Draft((1, 2, 3, 4), 4), 3)
        pace.redid([4, 4], 6)
    assert pace.length(LONG, 0) == 0
    assert pace.length(Draft(LONG.tokens, matched=12), 0) > 0  # others are not to blame


def test_short_matches_are_judged_by_themselves() -> None:
    pace = taught(0, matched=2)
    assert pace.length(Draft((1, 2, 3), matched=2)) == 0
    assert pace.length(Draft((1, 2, 3), matched=12)) == 3


def test_the_cost_of_a_row_is_measured_by_the_size_of_the_batch() -> None:
    pace = Pace()
    for _ in range(60):
        pace.took(1, 0.02)
        pace.took(5, 0.02)
    assert pace.row_costs[4] < 0.1
    for _ in range(60):
        pace.took(5, 0.1)
        pace.took(20, 0.1)
    assert 0.9 < pace.row_costs[4] < 1.1
    assert 0.2 < pace.row_costs[16] < 0.22
    pace.took(5, 60.0)  # the machine had a hiccup
    assert pace.row_costs[4] < 1.5


def test_a_draft_is_as_long_as_its_kernels_are_cheap() -> None:
    """Up to 7 rows cost nearly one each, 8 and more together little: all or nothing."""
    pace = Pace(row_costs={2: 0.95, 8: 0.1})
    draft = Draft(LONG.tokens, matched=12)
    assert pace.length(draft) >= 7
    assert pace.length(draft.cut(6)) == 0


def test_what_never_has_to_be_evaluated_again_is_drafted_more_readily() -> None:
    pace = taught(3)
    for _ in range(60):
        pace.learn(Draft((1, 2, 3, 4), 4), 3)
        pace.redid([4, 4], 6)
    assert pace.length(LONG, 0) == 0
    assert pace.length(LONG, 2) == 2
    assert pace.length(LONG) >= 2


def test_same_bits_are_known_once_they_were_seen() -> None:
    same = SameBits()
    assert same.known(2, 100) is None
    same.saw(2, 200, same=True)
    assert same.known(2, 256) is True
    assert same.known(3, 100) is None, "a batch of another size"
    assert same.known(2, 257) is None, "other kernels may begin there"


def test_bits_that_differed_once_are_never_believed() -> None:
    same = SameBits()
    same.saw(3, 600, same=False)
    for _ in range(5):
        same.saw(3, 600, same=True)
    assert same.known(3, 900) is False
    assert same.known(FEW_ROWS + 1, 10) is False


def test_expected_tokens() -> None:
    assert expected(0.0, 5) == 1.0
    assert expected(1.0, 5) == 6.0
    assert expected(0.5, 2) == 1.75
