"""The governor: memory that other programs take and return, and what the service makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, Memory, fake_model, serving, until
from fake_engine import DEFAULT_REPLY, FakeEngine
from msgspec.structs import replace

from assistant.daemon.budgets import Budgets
from assistant.daemon.budgets import Memory as BudgetMemory
from assistant.daemon.crash_history import Rules as DeathRules
from assistant.daemon.governor import stats_due
from assistant.daemon.loading import Loadable
from assistant.engine.types import EngineStats, Priority, SlotState
from assistant.errors import (
    ContextFullError,
    LoadError,
    PlanError,
    RefusedError,
    WorkerDiedError,
)
from assistant.memory.ladder import Rules
from assistant.settings import CompletionSettings, DaemonSettings, Settings
from assistant.wire import CompletionRequest, ServiceState

GIB = 1 << 30


def run(
    body: Callable[[Daemon, FakeEngine, Memory], Awaitable[None]],
    memory: Memory | None = None,
    **options: Any,
) -> None:
    memory = memory or Memory()

    async def main() -> None:
        engine = FakeEngine()
        async with asyncio.timeout(60), serving(engine, look=memory, **options) as daemon:
            await until(lambda: daemon.service.governor.sample is not None)
            await body(daemon, engine, memory)

    asyncio.run(main())


async def rung_is(daemon: Daemon, name: str) -> None:
    def there() -> bool:
        now = daemon.service.governor.rung()
        return now is not None and now.name == name

    await until(there)


def test_statistics_are_read_less_often_after_a_minute_without_requests() -> None:
    assert stats_due(59.0, 0.1, needed=False) and stats_due(1e9, 0.1, needed=True)
    assert not stats_due(60.0, 29.0, needed=False)
    assert stats_due(60.0, 30.0, needed=False) and stats_due(1e9, float("inf"), needed=False)


def level(daemon: Daemon) -> int:
    now = daemon.service.budgets.of(Priority.INTERACTIVE)
    assert now is not None
    return now.level


async def ask(daemon: Daemon, **more: Any) -> tuple[str, Any]:
    request = CompletionRequest(**{"prompt": "abc", "temperature": 0.0, "max_tokens": 50, **more})
    chunks = [chunk async for chunk in daemon.client.complete(request)]
    return "".join(chunk.content for chunk in chunks), chunks[-1]


def test_budget_is_reported_with_every_answer(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        _, last = await ask(daemon)
        assert last.budget.tokens == 1024 and last.budget.level == 0
        props = await daemon.client.props()
        assert props.budget is not None and props.budget.tokens == 1024
        status = await daemon.client.status()
        assert status.budget == props.budget
        assert [device.name for device in status.devices] == ["CPU"]
        assert status.rung is not None and (status.rung.name, status.rung.index) == ("plan", 0)

    run(body)


def test_budget_falls_with_the_memory_and_holds_those_who_follow_it(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        memory.leave(int(0.6 * GIB))  # of a margin of 1 GiB: above what the ladder acts on
        await until(lambda: level(daemon) == 1)
        _, last = await ask(daemon)
        assert last.budget.tokens == 768 and "of a 1024 MiB margin" in last.budget.reason
        with pytest.raises(ContextFullError, match="the budget is 768"):
            await ask(daemon, prompt="x" * 800, budget_tokens=1024)
        with pytest.raises(ContextFullError, match="the budget is 768"):
            await daemon.client.warm([1] * 800, budget_tokens=1024)
        await daemon.client.warm([1] * 768, budget_tokens=1024)
        # One that knows nothing of budgets is held to the context only.
        assert (await ask(daemon, prompt="x" * 800))[0] == DEFAULT_REPLY

    run(body)


def test_shorter_prompts_are_a_rung_before_anything_is_made_again(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        await ask(daemon, prompt="kept for reuse")
        memory.leave(int(0.6 * GIB))  # of a margin of 1 GiB
        await rung_is(daemon, "trim")
        rung = daemon.service.governor.rung()
        assert rung is not None and "of a 1024 MiB margin" in rung.reason
        memory.others_bytes = 0
        await rung_is(daemon, "plan")  # at once with the budget, whether anybody is at work or not
        assert rung.moves == daemon.service.governor.moves == 0
        assert len(engine.loads) == 1 and (await engine.stats()).cells_used

    run(body)


def test_cells_that_were_wanted_are_a_rung_too(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        governor = daemon.service.governor
        governor._rules = Rules(hold_s=2.5)
        stats = engine.stats
        dropped = 3

        async def with_dropped() -> EngineStats:
            return replace(await stats(), dropped=dropped)

        engine.stats = with_dropped  # type: ignore[method-assign]
        await rung_is(daemon, "drop")
        rung = governor.rung()
        assert rung is not None and "their cells were wanted" in rung.reason
        await rung_is(daemon, "plan")
        dropped = 1  # a new context counts again
        await until(lambda: governor.stats is not None and governor.stats.dropped == 1)
        await asyncio.sleep(1.2)  # another look
        rung = governor.rung()
        assert rung is not None and (rung.name, rung.moves, len(engine.loads)) == ("plan", 0, 1)

    run(body)


def test_pressure_goes_down_the_ladder_and_never_stops_the_service(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        # 0.4 GiB free of a margin of 1 GiB; halving the context brings 2 GiB.
        memory.leave(int(0.4 * GIB))
        await rung_is(daemon, "context1")
        assert engine.loads[-1].n_ctx == 2048
        assert (await ask(daemon))[0] == DEFAULT_REPLY
        status = await daemon.client.status()
        assert status.rung is not None and "CPU has" in status.rung.reason
        assert status.model is not None and status.model.n_ctx == 2048
        assert status.deaths == 0

    run(body)


def test_requests_in_flight_survive_the_move(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        answers = [asyncio.create_task(ask(daemon, document=str(n))) for n in range(8)]
        memory.leave(int(0.4 * GIB))
        assert [text for text, _ in await asyncio.gather(*answers)] == [DEFAULT_REPLY] * 8
        await rung_is(daemon, "context1")

    run(body)


def test_without_any_memory_it_is_unloaded_and_comes_back_by_itself(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        memory.leave(-4 * GIB)
        await rung_is(daemon, "unload")
        assert (await daemon.client.status()).state is ServiceState.RELEASED
        memory.leave(8 * GIB)
        await until(lambda: daemon.service.supervisor.state is ServiceState.READY)
        assert (await ask(daemon))[0] == DEFAULT_REPLY

    run(body)


@pytest.mark.parametrize("error", [LoadError("refused"), WorkerDiedError("died over it")])
def test_a_refused_shape_is_left_for_a_smaller_one(home: Path, error: Any) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        engine.fail_next(error)
        memory.leave(int(0.4 * GIB))
        await until(lambda: engine.loads[-1].n_ctx == 1024)
        await until(lambda: daemon.service.supervisor.state is ServiceState.READY)
        assert (await ask(daemon))[0] == DEFAULT_REPLY

    run(body)


def test_memory_refused_to_a_computation_leads_to_a_smaller_shape(home: Path) -> None:
    """In the middle of an answer: it goes on, and the budget falls though probes see plenty."""

    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        refused = RefusedError("memory for the computation was refused")
        engine.pause()
        answers = [asyncio.create_task(ask(daemon, document=str(n))) for n in range(3)]
        await until(lambda: engine.in_flight == 3)
        engine.fail_running(refused)
        engine.resume()
        assert [text for text, _ in await asyncio.gather(*answers)] == [DEFAULT_REPLY] * 3
        # Three were refused at once: one move.
        assert [spec.n_ctx for spec in engine.loads] == [4096, 2048]
        status = await daemon.client.status()
        assert status.rung is not None and "refused" in status.rung.reason
        assert (status.rung.moves, status.deaths) == (1, 0)

    run(body)


def test_a_refused_climb_is_not_repeated_at_once(home: Path) -> None:
    rules = Rules(idle_s=0, hold_s=0.05, refused_s=600)

    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        daemon.service.governor._rules = rules
        memory.leave(int(0.4 * GIB))
        await rung_is(daemon, "context1")
        for _ in range(2):
            engine.fail_next(LoadError("failed to allocate the cache"))
        memory.others_bytes = 0
        await until(lambda: daemon.service.supervisor.refusals == 2)
        await until(lambda: daemon.service.supervisor.state is ServiceState.READY)
        await until(lambda: daemon.service.governor.moves >= 2)
        moves = daemon.service.governor.moves
        looks = 0

        def count(_: object) -> None:
            nonlocal looks
            looks += 1

        daemon.service.governor.on_sample = count
        await until(lambda: looks > 8)
        assert daemon.service.governor.moves == moves
        assert daemon.service.supervisor.step > 0

    run(body)


def test_idle_release_and_return(home: Path) -> None:
    settings = Settings(daemon=DaemonSettings(release_after_s=1.5))

    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        await until(lambda: daemon.service.supervisor.state is ServiceState.RELEASED)
        assert (await ask(daemon))[0] == DEFAULT_REPLY
        assert len(engine.loads) >= 2
        assert (await daemon.client.wait_ready()).name == "fake"

    run(body, settings=settings)


def test_pinned_and_forbidden_rungs(home: Path) -> None:
    async def pinned(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        await rung_is(daemon, "context2")
        memory.leave(0)
        await asyncio.sleep(0.5)
        await rung_is(daemon, "context2")

    run(pinned, settings=Settings(daemon=DaemonSettings(rung="context2")))

    async def forbidden(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        memory.leave(int(0.4 * GIB))
        await rung_is(daemon, "context2")

    run(forbidden, settings=Settings(daemon=DaemonSettings(rungs_off=("context1",))))


def test_a_pinned_rung_of_cells_does_what_it_says(home: Path) -> None:
    async def trim(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        await rung_is(daemon, "trim")
        await until(lambda: level(daemon) == 1)
        _, last = await ask(daemon)
        assert (last.budget.tokens, last.budget.reason) == (768, "an operator set it")

    run(trim, settings=Settings(daemon=DaemonSettings(rung="trim")))
    run(trim, settings=Settings(daemon=DaemonSettings(rungs_off=("plan", "drop"))))

    async def drop(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        await ask(daemon, prompt="kept for reuse")
        daemon.service.governor.follow(Rules(pinned="drop"), 0.0)
        await rung_is(daemon, "drop")
        await until(lambda: level(daemon) == 1)
        assert not (await engine.stats()).cells_used

    run(drop)


def test_a_plan_that_does_not_fit_is_tried_again_when_there_is_memory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(others_bytes=16 * GIB)
    monkeypatch.setattr("assistant.daemon.governor._RETRY_S", 0.2)

    def planner() -> Loadable:
        if memory.others_bytes > 15 * GIB:
            raise PlanError("1.0 GiB is missing", subject="m", advice="Close something")
        return fake_model()

    async def main() -> None:
        async with serving(FakeEngine(), look=memory, planner=planner, ready=False) as daemon:
            with pytest.raises(PlanError, match=r"1\.0 GiB is missing"):
                await daemon.client.wait_ready()
            memory.others_bytes = 0
            await until(lambda: daemon.service.supervisor.state is ServiceState.READY)
            assert (await ask(daemon))[0] == DEFAULT_REPLY

    asyncio.run(main())


def test_plans_that_all_died_are_tried_again_by_itself(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        supervisor = daemon.service.supervisor
        supervisor._history._rules = DeathRules(most_delay_s=0, rest_s=0.5)
        await supervisor.release()
        for _ in range(6):
            engine.fail_next(WorkerDiedError("the engine's process ended"))
        with pytest.raises(LoadError, match="crashed on every plan"):
            await ask(daemon)
        await until(lambda: supervisor.state is ServiceState.READY)
        assert (await ask(daemon))[0] == DEFAULT_REPLY

    run(body)


def test_cells_in_use_bound_the_budget() -> None:
    budgets = Budgets(1024, 64)
    stats = EngineStats(cells_total=4096, slots=(SlotState(id=0, tokens=3500, busy=True),))
    budgets.look(4096, stats, (), 0.0)
    now = budgets.of(Priority.INTERACTIVE)
    assert now is not None and now.tokens <= 4096 - 3500 - 64 and "free cells" in now.reason
    idle = replace(stats, slots=(SlotState(id=0, tokens=3500, busy=False),))
    for second in range(60):
        budgets.look(4096, idle, (), float(second))
    now = budgets.of(Priority.INTERACTIVE)
    assert now is not None and (now.tokens, now.level) == (1024, 0)


def test_budget_settings_are_the_full_budget(home: Path) -> None:
    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        _, last = await ask(daemon)
        assert last.budget.tokens == 333

    run(body, settings=Settings(completion=CompletionSettings(budget_tokens=333)))


def test_explanations_keep_what_they_need() -> None:
    budgets = Budgets(1024, 64)
    budgets.look(8192, None, (BudgetMemory("SIM0", 0, GIB),), 0.0)
    floors = {priority: budgets.of(priority) for priority in Priority}
    assert {now.level for now in floors.values() if now} == {4}
    tokens = {priority: now.tokens for priority, now in floors.items() if now}
    assert tokens[Priority.INTERACTIVE] == tokens[Priority.BACKGROUND] == 128
    assert tokens[Priority.EXPLAIN] == 512


def test_the_cells_of_the_last_request_are_free_when_it_ends() -> None:
    """S1: before the next look."""
    budgets = Budgets(1024, 64)
    stats = EngineStats(cells_total=2048, slots=(SlotState(id=0, tokens=1536, busy=True),))
    budgets.look(2048, stats, (), 0.0)
    before = budgets.of(Priority.EXPLAIN)
    budgets.returned()
    after = budgets.of(Priority.EXPLAIN)
    assert before is not None and after is not None
    assert before.level and "free cells" in before.reason
    assert (after.level, after.reason, after.tokens) == (0, "", 2048 - 64)


def test_counters_of_a_request_that_has_ended_lower_no_budget() -> None:
    """S1: they were asked for while it ran, and come after it."""
    budgets = Budgets(1024, 64)
    stats = EngineStats(cells_total=2048, slots=(SlotState(id=0, tokens=1536, busy=True),))
    budgets.look(2048, stats, (), 0.0, idle=True)
    for priority in Priority:
        now = budgets.of(priority)
        assert now is not None and (now.level, now.reason) == (0, "")
    budgets.look(2048, stats, (), 0.0)
    now = budgets.of(Priority.EXPLAIN)
    assert now is not None and "512 free cells" in now.reason


def test_the_budget_in_an_answer_leaves_out_its_own_cells() -> None:
    """S1: and counts those of other requests; nothing is remembered of it."""
    budgets = Budgets(1024, 64)
    assert budgets.after(Priority.EXPLAIN, 100) is None
    busy = (SlotState(id=0, tokens=1000, busy=True), SlotState(id=1, tokens=500, busy=True))
    budgets.look(2048, EngineStats(cells_total=2048, slots=busy), (), 0.0)
    before = budgets.of(Priority.EXPLAIN)
    after = budgets.after(Priority.EXPLAIN, 1000)
    assert before is not None and after is not None and before.tokens < after.tokens
    assert after.tokens <= 2048 - 500 - 64
    assert "free cells" in after.reason
    # Never more than the cells that were in use.
    much = budgets.after(Priority.EXPLAIN, 5000)
    assert much is not None and (much.tokens, much.level) == (2048 - 64, 0)
    assert budgets.of(Priority.EXPLAIN) == before


def test_a_client_without_a_budget_repeats_a_long_prompt(home: Path) -> None:
    """S1: a prompt that fits the context is answered, however often."""

    async def body(daemon: Daemon, engine: FakeEngine, memory: Memory) -> None:
        assert daemon.service.supervisor.info is not None
        n_ctx = daemon.service.supervisor.info.n_ctx
        for _ in range(12):
            long = [1] * int(n_ctx * 0.75)
            answer = await daemon.http.post("/completion", json={"prompt": long, "n_predict": 4})
            assert answer.status_code == 200, answer.text
        answer = await daemon.http.post("/completion", json={"prompt": [1] * (n_ctx + 1)})
        assert answer.status_code == 400

    run(body)
