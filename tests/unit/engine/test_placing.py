"""The scheduler's decisions: which slot, whose turn, how much of a batch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from assistant.engine.types import Priority, shared_length
from assistant.engine.worker.scheduler import (
    PREFILL_CHUNK,
    Demand,
    Placement,
    SlotView,
    divide_batch,
    is_under_way,
    place,
    working,
)

OLD = list(range(100))


def view(
    number: int, tokens: list[int] | None = None, *, busy: bool = False, used_at: int = 0
) -> SlotView:
    return SlotView(number, tokens or [], busy, used_at)


def test_the_longest_common_start_wins() -> None:
    slots = [view(0, OLD[:50], used_at=9), view(1, OLD[:80]), view(2)]
    assert place(slots, OLD) == Placement(1, 80)


def test_one_token_is_always_left_to_evaluate() -> None:
    assert place([view(0, OLD)], OLD) == Placement(0, 99)
    assert place([view(0, OLD)], OLD[:10]) == Placement(0, 9)


def test_an_empty_slot_goes_before_one_that_would_lose_much() -> None:
    """The other place's slot keeps its tokens and lends what both begin with."""
    slots = [view(0, OLD, used_at=5), view(1)]
    prompt = [*OLD[:20], *range(500, 580)]
    assert place(slots, prompt) == Placement(1, 20, source=0)


def test_a_busy_slot_lends_its_start() -> None:
    slots = [view(0, OLD, busy=True, used_at=5), view(1, [7, 8])]
    prompt = [*OLD[:60], 1000]
    assert place(slots, prompt) == Placement(1, 60, source=0)


def test_the_least_recently_used_slot_is_evicted() -> None:
    slots = [view(0, [1, 2], used_at=5), view(1, [3, 4], used_at=2), view(2, [5], used_at=8)]
    assert place(slots, [9, 9, 9]) == Placement(1, 0)


def test_no_slot_is_free() -> None:
    assert place([view(0, busy=True), view(1, busy=True)], OLD) is None
    assert place([], OLD) is None


def test_append_only_memory_serves_what_goes_on_and_nothing_else() -> None:
    held = SlotView(0, OLD[:50], False, 0, shortest=50)
    assert place([held], OLD, shares=False) == Placement(0, 50)
    assert place([held], [*OLD[:40], 1000, 1001], shares=False) == Placement(0, 0)
    busy = [SlotView(0, OLD[:50], True, 0, shortest=50), view(1)]
    assert place(busy, OLD, shares=False) == Placement(1, 0)  # a state is not shared half


def test_a_sliding_window_is_cut_as_far_back_as_its_cells_are_held() -> None:
    held = SlotView(0, range(100), False, 1, checkpoints=(60,), shortest=80)
    assert place([held], [*range(90), 7]) == Placement(0, 90)
    assert place([held], [*range(80), 7]) == Placement(0, 80)
    assert place([held], [*range(79), 7]) == Placement(0, 60)
    empty = SlotView(1, [], False, 0)
    busy = SlotView(0, range(100), True, 1, checkpoints=(60,), shortest=80)
    assert place([busy, empty], [*range(85), 7]) == Placement(1, 85, source=0)
    assert place([busy, empty], [*range(75), 7]) == Placement(1, 0)  # a checkpoint is not lent


TOKENS = st.lists(st.integers(0, 2), max_size=12)


def test_append_only_memory_goes_back_to_a_checkpoint() -> None:
    """Case S11: the last one in what both have, unless most of the sequence would be lost."""
    slot = SlotView(0, range(100), False, 1, checkpoints=(30, 83, 99), shortest=100)
    assert place([slot], [*range(98)], shares=False) == Placement(0, 83)
    assert place([slot], [*range(99), 7], shares=False) == Placement(0, 99)
    empty = SlotView(1, [], False, 0)
    assert place([slot, empty], [*range(40), 7], shares=False) == Placement(1, 0)


@given(
    st.lists(st.tuples(TOKENS, st.booleans(), st.integers(0, 5)), max_size=4),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.booleans(),
)
def test_what_is_kept_is_what_both_begin_with(
    states: list[tuple[list[int], bool, int]], prompt: list[int], partial: bool
) -> None:
    slots = [
        SlotView(number, tokens, busy, used, shortest=0 if partial else len(tokens))
        for number, (tokens, busy, used) in enumerate(states)
    ]
    placed = place(slots, prompt, shares=partial)
    assert (placed is None) == all(slot.busy for slot in slots)
    if placed is None:
        return
    assert not slots[placed.slot].busy
    assert 0 <= placed.kept < len(prompt)
    holder = slots[placed.slot if placed.source is None else placed.source]
    assert list(holder.tokens[: placed.kept]) == prompt[: placed.kept]
    if not partial:
        assert placed.source is None
        assert placed.kept in {0, len(holder.tokens)}


def test_what_another_request_evaluates_is_waited_for() -> None:
    assert is_under_way(OLD, [[], []], [OLD])
    assert is_under_way(OLD, [OLD[:98]], [OLD])
    assert is_under_way([*OLD, 7, 8], [[], OLD[:40]], [[*OLD, 1]])
    assert not is_under_way(OLD, [OLD[:99]], [OLD])  # all that can be shared is there
    assert not is_under_way([*OLD, 7, 8], [OLD], [[*OLD, 1]])
    assert not is_under_way(OLD, [[]], [])
    assert not is_under_way(OLD, [[]], [[*range(500, 600)]])  # they have nothing in common


def test_what_is_of_little_use_is_not_waited_for() -> None:
    longer = [*OLD, *range(500, 499 + PREFILL_CHUNK)]
    assert is_under_way(OLD, [[]], [longer])
    assert not is_under_way(OLD, [[]], [[*longer, 7]])
    assert not is_under_way(OLD, [[]], [[*OLD[:5], 501, 502, 503, 504, 505]])


@given(TOKENS, st.lists(TOKENS, max_size=3), st.lists(TOKENS, max_size=3))
def test_nothing_is_waited_for_that_is_held(
    prompt: list[int], held: list[list[int]], coming: list[list[int]]
) -> None:
    """So no request waits for ever: what is evaluated is held in the end."""
    long = [token for token in prompt for _ in range(40)]
    others = [[token for token in other for _ in range(40)] for other in coming]
    assert not is_under_way(long, [*held, *others], others)


def test_the_highest_class_works() -> None:
    assert working([]) is None
    assert working([Priority.BACKGROUND, Priority.EXPLAIN]) is Priority.EXPLAIN
    assert working([Priority.EXPLAIN, Priority.INTERACTIVE]) is Priority.INTERACTIVE


def test_decoding_goes_before_a_prompt_and_drafts_take_what_is_left() -> None:
    requirements = [Demand("prompt", 500), Demand("decoding", 1, drafted=4), Demand("other", 1)]
    found = {portion.id: portion for portion in divide_batch(requirements, rows=64, outputs=32)}
    assert (found["decoding"].sure, found["other"].sure, found["prompt"].sure) == (1, 1, 62)
    assert found["decoding"].drafted == 0  # the prompt took the rest
    assert found["prompt"].outputs == 0  # it is not at its end
    alone = divide_batch([Demand("decoding", 1, drafted=4)], rows=64, outputs=32)
    assert (alone[0].drafted, alone[0].outputs) == (4, 5)


REQUIREMENTS = st.lists(st.tuples(st.integers(1, 80), st.integers(0, 12)), max_size=6)


@given(REQUIREMENTS, st.integers(1, 64), st.integers(1, 16))
def test_a_batch_is_never_overdrawn(
    numbers: list[tuple[int, int]], rows: int, outputs: int
) -> None:
    requirements = [Demand(str(at), sure, drafted) for at, (sure, drafted) in enumerate(numbers)]
    portions = divide_batch(requirements, rows, outputs)
    assert sum(one.sure + one.drafted for one in portions) <= rows
    assert sum(one.outputs for one in portions) <= outputs
    by_id = {requirement.id: requirement for requirement in requirements}
    for one in portions:
        assert 1 <= one.sure <= by_id[one.id].sure
        assert one.drafted <= by_id[one.id].drafted
        assert one.outputs == (1 + one.drafted if one.sure == by_id[one.id].sure else 0)
    assert bool(portions) == bool(requirements)


@given(TOKENS, TOKENS)
def test_shared_length_is_that_of_the_common_start(one: list[int], other: list[int]) -> None:
    length = shared_length(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


def test_shared_length_over_strides() -> None:
    long = list(range(3000))
    assert shared_length(long, long) == 3000
    assert shared_length(long, [*long[:1500], -1, *long[1501:]]) == 1500
