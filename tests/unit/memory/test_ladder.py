"""The ladder goes down to the first rung that suffices, climbs when idle, and never swings."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.llama import LoadSpec
from assistant.memory.ladder import (
    LadderPosition,
    Move,
    Rules,
    Rung,
    Situation,
    _View,
    choose,
    fallen,
    first_fit,
    moved,
    safer,
)

MIB = 1 << 20
GPU = 8000 * MIB
MARGIN = 256 * MIB
NAMES = ("plan", "trim", "drop", "context", "batch", "cache", "experts", "unload")


def make(*holds: int) -> tuple[Rung, ...]:
    """A ladder whose rungs hold so many MiB of the GPU; 0 means nothing loaded."""
    return tuple(
        Rung(
            name=name,
            gives_up="",
            spec=LoadSpec(path="m.gguf", n_ctx=held) if held else None,
            holds={"CUDA0": held * MIB, "CPU": 500 * MIB if held else 0},
        )
        for name, held in zip(NAMES, holds, strict=False)
    )


LADDER = make(7000, 7000, 7000, 6500, 6200, 6000, 3000, 0)


def situation(
    free_mib: float,
    *,
    idle_s: float = 0.0,
    level: int = 0,
    dropped_s: float = float("inf"),
    host_mib: int = 9000,
) -> Situation:
    return Situation(
        free_bytes={"CUDA0": int(free_mib * MIB), "CPU": host_mib * MIB},
        margin_bytes={"CUDA0": MARGIN, "CPU": 512 * MIB},
        idle_s=idle_s,
        level=level,
        level_reason="the cache has 400 free cells",
        dropped_s=dropped_s,
    )


def target(move: Move | None) -> str | None:
    return None if move is None else NAMES[move.rung]


@pytest.mark.parametrize(
    ("free_mib", "expected"),
    [
        (300, None),  # the margin is whole
        (130, None),  # half of it is left: that is what it is for
        (120, "context"),
        (-200, "context"),  # 500 more leaves 300
        (-300, "batch"),
        (-600, "cache"),
        (-1000, "experts"),
        (-3850, "experts"),  # not what a climb wants, but the need is over
        (-5000, "unload"),
    ],
)
def test_down_to_the_first_rung_that_suffices(free_mib: int, expected: str | None) -> None:
    move = choose(LADDER, LadderPosition(), situation(free_mib), 0.0)
    assert target(move) == expected


def test_the_reason_names_the_device() -> None:
    move = choose(LADDER, LadderPosition(), situation(100), 0.0)
    assert move is not None and move.reason == "CUDA0 has 100 MiB free"


def test_a_rung_that_takes_what_another_device_lacks_is_no_help() -> None:
    """Experts on the CPU need host memory; where there is none, it is not the way."""
    ladder = list(LADDER)
    ladder[6] = Rung("experts", "", ladder[6].spec, {"CUDA0": 3000 * MIB, "CPU": 4500 * MIB})
    tight = situation(-1000, host_mib=600)
    assert target(choose(ladder, LadderPosition(), tight, 0.0)) == "unload"
    assert target(choose(ladder, LadderPosition(), situation(-1000), 0.0)) == "experts"


def test_while_the_margin_holds_shorter_prompts_suffice() -> None:
    """The budget falls at three quarters of a margin, bytes are given back at half of it."""
    move = choose(LADDER, LadderPosition(), situation(150, level=2), 0.0)
    assert move == Move(NAMES.index("trim"), "the cache has 400 free cells", costless=True)
    on_trim = LadderPosition(rung=NAMES.index("trim"))
    assert choose(LADDER, on_trim, situation(150, level=1), 0.0) is None
    # Bytes are short: what frees none of them is passed over.
    for position in (LadderPosition(), on_trim):
        assert target(choose(LADDER, position, situation(120, level=3), 0.0)) == "context"


def test_cells_that_were_wanted_cost_idle_sequences_and_nothing_else() -> None:
    hold_s = Rules().hold_s
    for level in (0, 2):
        move = choose(LADDER, LadderPosition(), situation(300, level=level, dropped_s=1.0), 0.0)
        assert move is not None and (NAMES[move.rung], move.costless) == ("drop", True)
    on_drop = LadderPosition(rung=NAMES.index("drop"))
    assert choose(LADDER, on_drop, situation(300, dropped_s=hold_s - 1), 0.0) is None
    calm = situation(300, dropped_s=hold_s)
    assert target(choose(LADDER, on_drop, calm, 0.0)) == "plan"
    assert target(choose(LADDER, on_drop, situation(300, level=1), 0.0)) == "trim"
    # Below, the smaller context has given up both.
    deeper = LadderPosition(rung=NAMES.index("context"))
    assert choose(LADDER, deeper, situation(300, level=2, dropped_s=0.0), 0.0) is None


def test_costless_moves_wait_for_nobody_and_leave_no_mark() -> None:
    position = LadderPosition(rung=1, since_s=99.0, climbed=True, hold_s=60.0)
    move = choose(LADDER, position, situation(300), 100.0)  # somebody types, just moved
    assert move is not None and target(move) == "plan"
    after = moved(position, move, 100.0)
    assert after == LadderPosition(rung=0, since_s=99.0, climbed=True, hold_s=60.0)


def test_an_operator_may_forbid_the_costless_rungs() -> None:
    short = situation(300, level=1, dropped_s=0.0)
    no_drop = Rules(forbidden=frozenset({"drop"}))
    assert target(choose(LADDER, LadderPosition(), short, 0.0, no_drop)) == "trim"
    neither = Rules(forbidden=frozenset({"drop", "trim"}))
    assert choose(LADDER, LadderPosition(), short, 0.0, neither) is None


def test_up_again_only_when_idle_and_after_a_while() -> None:
    position = LadderPosition(rung=6, since_s=100.0)
    rich = situation(4300)
    assert choose(LADDER, position, rich, 1000.0) is None  # somebody is typing
    idle = situation(4300, idle_s=60)
    assert choose(LADDER, position, idle, 110.0) is None  # too soon
    assert target(choose(LADDER, position, idle, 131.0)) == "plan"


def test_up_as_far_as_fits() -> None:
    position = LadderPosition(rung=6, since_s=0.0)
    assert target(choose(LADDER, position, situation(3300, idle_s=60), 100.0)) == "cache"
    assert target(choose(LADDER, position, situation(3460, idle_s=60), 100.0)) == "batch"
    assert choose(LADDER, position, situation(3200, idle_s=60), 100.0) is None


def test_what_is_unloaded_returns_as_soon_as_it_fits() -> None:
    position = LadderPosition(rung=7, since_s=99.0)
    assert target(choose(LADDER, position, situation(7300), 100.0)) == "plan"
    assert choose(LADDER, position, situation(3100), 100.0) is None


def test_a_fall_soon_after_a_climb_makes_the_next_climb_wait_longer() -> None:
    rules = Rules()
    position, waits = LadderPosition(), []
    now = 0.0
    for _ in range(6):
        down = choose(LADDER, position, situation(0), now)
        assert down is not None
        position = moved(position, down, now)
        waited = 0.0
        while (up := choose(LADDER, position, situation(2000, idle_s=99), now + waited)) is None:
            waited += 1.0
        waits.append(waited)
        now += waited
        position = moved(position, up, now)
        now += 1.0
    assert waits == sorted(waits)
    assert waits[:3] == [rules.hold_s, rules.hold_s * 2, rules.hold_s * 4]
    assert waits[-1] <= rules.most_hold_s


def test_what_was_refused_is_not_tried_again_at_once() -> None:
    """A driver reports as free what it then refuses: waits grow, and the ladder settles below."""
    rules, rich = Rules(), situation(9000, idle_s=99)
    had = {"CUDA0": 9000 * MIB + LADDER[4].holds["CUDA0"]}
    position, waits, now = LadderPosition(), [], 0.0
    for _ in range(6):
        position = fallen(position, 4, had, now, rules)
        waited = 0.0
        while choose(LADDER, position, rich, now + waited) is None:
            waited += 10.0
        waits.append(waited)
        now += waited
    assert waits[0] == rules.refused_s
    assert waits == sorted(waits) and waits[1] == 2 * waits[0]
    assert waits[-1] == rules.most_hold_s
    # Up to the rung itself nothing was refused.
    lower = moved(fallen(position, 4, had, now, rules), Move(6, ""), now, rules)
    assert target(choose(LADDER, lower, rich, now + rules.hold_s)) == "batch"


def test_more_memory_than_at_the_refusal_is_worth_a_try() -> None:
    had = {"CUDA0": 1000 * MIB + LADDER[4].holds["CUDA0"]}
    position = fallen(LadderPosition(), 4, had, 0.0)
    soon = Rules().hold_s + 1
    assert choose(LADDER, position, situation(1200, idle_s=99), soon) is None
    assert target(choose(LADDER, position, situation(1300, idle_s=99), soon)) == "plan"


def test_what_is_held_nowhere_is_no_concern() -> None:
    """A GPU that others fill does not matter to a service that stands on the host alone."""
    ladder = list(LADDER)
    host = Rung("host", "", LADDER[6].spec, {"CUDA0": 0, "CPU": 4000 * MIB})
    least = Rung("least", "", LADDER[5].spec, {"CUDA0": 0, "CPU": 3000 * MIB})
    ladder[6:7] = [host, least]
    position = LadderPosition(rung=6)
    assert choose(ladder, position, situation(0, host_mib=9000), 0.0) is None
    assert choose(ladder, position, situation(0, host_mib=100), 0.0) == Move(
        7, "CPU has 100 MiB free"
    )


@pytest.mark.parametrize(
    ("free_mib", "expected"),
    [(9000, "plan"), (7100, "context"), (6500, "batch"), (3010, "experts"), (100, "experts")],
)
def test_with_nothing_loaded_the_first_that_fits(free_mib: int, expected: str) -> None:
    free = {"CUDA0": free_mib * MIB, "CPU": 9000 * MIB}
    margins = {"CUDA0": MARGIN, "CPU": 512 * MIB}
    assert NAMES[first_fit(LADDER, free, margins)] == expected
    # 3010 MiB leave no margin, 100 MiB not even room: the last that serves is all there is to try.
    barred = Rules(forbidden=frozenset({expected}))
    assert NAMES[first_fit(LADDER, free, margins, barred)] != expected


def test_forbidden_rungs_are_passed_over() -> None:
    rules = Rules(forbidden=frozenset({"context", "batch"}))
    assert target(choose(LADDER, LadderPosition(), situation(120), 0.0, rules)) == "cache"
    position = LadderPosition(rung=3)
    leave = choose(LADDER, position, situation(800), 0.0, rules)
    assert target(leave) in {"drop", "cache"}
    everything = Rules(forbidden=frozenset(NAMES) - {"plan"})
    assert choose(LADDER, LadderPosition(), situation(-5000), 0.0, everything) is None


def test_a_pin_holds_whatever_happens() -> None:
    rules = Rules(pinned="cache")
    assert target(choose(LADDER, LadderPosition(), situation(5000), 0.0, rules)) == "cache"
    position = LadderPosition(rung=NAMES.index("cache"))
    for free_mib in (-5000, 0, 8000):
        assert choose(LADDER, position, situation(free_mib, idle_s=99), 1e6, rules) is None


def test_safer_plans_after_a_death() -> None:
    same = (*LADDER[:1], *(Rung(x.name, "", LADDER[0].spec, x.holds) for x in LADDER[1:3]))
    ladder = (*same, *LADDER[3:])
    assert safer(ladder, 0) == 3
    assert safer(ladder, 3, Rules(forbidden=frozenset({"batch"}))) == 5
    assert safer(ladder, 6) is None


ladders = st.lists(st.integers(1, 7000), min_size=3, max_size=6).map(
    lambda held: make(*sorted(held, reverse=True), 0)
)


@given(ladders, st.integers(-8000, 2000))
@settings(max_examples=examples(100), deadline=None)
def test_never_further_than_needed(ladder: Sequence[Rung], free_mib: int) -> None:
    """No rung above the chosen one would have left as much as a climb wants."""
    move = choose(ladder, LadderPosition(), situation(free_mib), 0.0)
    rules = Rules()
    if free_mib * MIB >= rules.act_share * MARGIN:
        assert move is None
        return
    free = {
        i: free_mib * MIB + ladder[0].holds["CUDA0"] - rung.holds["CUDA0"]
        for i, rung in enumerate(ladder)
    }
    if move is None:
        assert all(bytes_free <= free[0] for bytes_free in free.values())
        return
    assert move.rung > 0 and free[move.rung] > free[0]
    for above in range(move.rung):
        assert free[above] < rules.climb_share * MARGIN


@given(ladders, st.integers(0, 8000), st.lists(st.floats(-0.15, 0.15), min_size=40, max_size=40))
@settings(max_examples=examples(100), deadline=None)
def test_it_settles_and_stays(
    ladder: Sequence[Rung], others_mib: int, noise: Sequence[float]
) -> None:
    """Other programs hold something steady; drivers report it with noise. However long one
    looks, at most one move down and one up are made; a second one down only where no rung could
    give as much as a climb would want."""
    position, moves = LadderPosition(), []
    for index, wobble in enumerate(noise):
        held = ladder[position.rung].holds["CUDA0"] / MIB
        free = GPU / MIB - others_mib - held + wobble * MARGIN / MIB
        now = index * 100.0
        move = choose(ladder, position, situation(free, idle_s=60), now)
        if move is not None:
            moves.append((position.rung, move.rung))
            position = moved(position, move, now)
    downs = [there for here, there in moves if there > here]
    rules, free = Rules(), GPU - others_mib * MIB
    ample = any(
        rung.spec is not None and free - rung.holds["CUDA0"] >= (rules.climb_share + 0.15) * MARGIN
        for rung in ladder
    )
    assert len(downs) <= (1 if ample else 2)
    assert len(moves) <= len(downs) + 1


def test_a_context_that_stays_is_not_gained() -> None:
    """What a rung keeps of a device counts once, and only where the device was used."""
    spec = LADDER[0].spec
    ladder = (
        Rung("plan", "", spec, {"CUDA0": 3000 * MIB}),
        Rung("host", "", spec, {"CUDA0": 0}, keeps={"CUDA0": 700 * MIB}),
        Rung("least", "", spec, {"CUDA0": 0}, keeps={"CUDA0": 700 * MIB}),
        Rung("unload", "", None, {"CUDA0": 0}),
    )
    now = Situation({}, {})

    def gain(here: int, there: int) -> int:
        view = _View(ladder, LadderPosition(rung=here), now, (0, 1, 2, 3), Rules())
        return view.gain(there, "CUDA0") // MIB

    assert [gain(0, there) for there in range(4)] == [0, 2300, 2300, 3000]
    assert [gain(1, there) for there in range(4)] == [-3000, 0, 0, 0]
    assert [gain(3, there) for there in range(4)] == [-3000, 0, 0, 0]
