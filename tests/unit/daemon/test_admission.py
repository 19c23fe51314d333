"""The queue at the door: bounded, and nobody can take it from the others."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.daemon.http.bodies import Intake
from assistant.daemon.http.completion_handler import Admission, Turns
from assistant.errors import OverloadedError


def fill(admission: Admission, client: str, stack: ExitStack) -> int:
    """Take as many places as `client` may have."""
    taken = 0
    while True:
        try:
            stack.enter_context(admission.admit(client))
        except OverloadedError:
            return taken
        taken += 1


def test_the_greedy_take_half_of_what_is_left() -> None:
    admission = Admission(64)
    with ExitStack() as stack:
        shares = [fill(admission, f"client{number}", stack) for number in range(7)]
        assert shares == [32, 16, 8, 4, 2, 1, 1]
        assert admission.inside == 64
        with pytest.raises(OverloadedError), admission.admit("late"):
            pass
    assert (admission.inside, admission.clients) == (0, 0)


def test_sixteen_editors_beside_a_flood() -> None:
    """Each of 16 that ask for two things at a time gets them, whatever one other client does."""
    admission = Admission(64)
    with ExitStack() as stack:
        fill(admission, "flood", stack)
        for number in range(15):
            for _ in range(2):
                stack.enter_context(admission.admit(f"editor{number}"))
            fill(admission, "flood", stack)
        assert admission.inside <= 64


def test_a_queue_of_one_still_serves() -> None:
    admission = Admission(1)
    with admission.admit("a"), pytest.raises(OverloadedError), admission.admit("b"):
        pass
    with admission.admit("b"):
        pass


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_it_is_bounded_and_keeps_count(most: int, steps: list[tuple[int, bool]]) -> None:
    admission = Admission(most)
    inside: list[tuple[str, ExitStack]] = []
    for number, leaves in steps:
        if leaves and inside:
            inside.pop(number % len(inside))[1].close()
            continue
        client = f"c{number}"
        held = sum(name == client for name, _ in inside)
        free = most - len(inside)
        place = ExitStack()
        try:
            place.enter_context(admission.admit(client))
        except OverloadedError:
            assert free == 0 or held >= free
        else:
            inside.append((client, place))
        assert admission.inside == len(inside) <= most
        # A client that holds nothing finds room as long as there is any.
        assert free == 0 or held or admission.refused == 0 or inside[-1][0] == client
    for _, place in inside:
        place.close()
    assert (admission.inside, admission.clients) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=60))
def test_bytes_held_are_bounded_and_given_back(steps: list[tuple[int, int]]) -> None:
    intake = Intake(100)
    holders = [intake.hold() for _ in range(4)]
    for number, count in steps:
        before = intake.held_bytes
        try:
            holders[number].add(count)
        except OverloadedError:
            assert before + count > 100 and intake.held_bytes == before
            holders[number].release()
        assert intake.held_bytes <= 100
    for holder in holders:
        holder.release()
        holder.release()
    assert intake.held_bytes == 0


def test_each_has_a_few_turns_at_a_time_and_waits_in_order() -> None:
    turns = Turns(2)
    running: list[str] = []
    most = 0
    ended: list[str] = []

    async def work(who: str, name: str) -> None:
        nonlocal most
        async with turns.turn(who):
            running.append(who)
            most = max(most, running.count("greedy"))
            await asyncio.sleep(0.001)
            running.remove(who)
            ended.append(name)

    async def main() -> None:
        greedy = [asyncio.create_task(work("greedy", f"g{number}")) for number in range(20)]
        await asyncio.sleep(0)
        modest = asyncio.create_task(work("modest", "m"))
        gone = asyncio.create_task(work("greedy", "gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(*greedy, modest)

    asyncio.run(main())
    assert most == 2 and ended.index("m") <= 4 and "gone" not in ended
    assert [name for name in ended if name != "m"] == [f"g{number}" for number in range(20)]
    assert turns.known == 0
