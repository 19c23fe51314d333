"""The life of one engine: loads, deaths, releases, and what waits through them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from daemons import fake_model, until
from fake_engine import DEFAULT_REPLY, FakeEngine

from assistant.daemon import crash_history
from assistant.daemon.crash_history import USUAL, Rules
from assistant.daemon.engine_supervisor import EngineSupervisor
from assistant.daemon.loading import Loadable
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, ModelInfo, Progress
from assistant.errors import DaemonError, LoadError, PlanError, UnderkeelError, WorkerDiedError
from assistant.memory.devices import HostMemory
from assistant.wire import ServiceState

DIED = WorkerDiedError("the engine's process ended")


def run(
    body: Callable[[EngineSupervisor, FakeEngine], Awaitable[None]],
    *,
    load_ms: float = 0,
    rules: Rules = USUAL,
) -> None:
    async def main() -> None:
        engine = FakeEngine(load_ms=load_ms)
        supervisor = EngineSupervisor(engine, fake_model, rules=rules)
        async with asyncio.timeout(30):
            supervisor.start_load()
            await until(lambda: supervisor.state is not ServiceState.LOADING)
            await body(supervisor, engine)
            await supervisor.close()

    asyncio.run(main())


async def answer(supervisor: EngineSupervisor, number: int = 0) -> str:
    await supervisor.usable()
    request = GenerateRequest(id=f"r{number}", prompt=(1, 2), max_tokens=50)
    items = [item async for item in supervisor.generate(request)]
    return "".join(item.text for item in items if isinstance(item, Delta))


async def kill_in_the_middle(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
    await supervisor.usable()
    items = supervisor.generate(GenerateRequest(id="doomed", prompt=(1,), max_tokens=50))
    first = await anext(items)
    engine.kill()
    start = first.text if isinstance(first, Delta) else ""
    rest = [item async for item in items]
    assert start + "".join(item.text for item in rest if isinstance(item, Delta)) == DEFAULT_REPLY
    assert isinstance(rest[-1], Done)


def test_a_failed_load_is_tried_again_when_the_file_is_another_one() -> None:
    """S9: the file was cut short, and is whole again; not while it is the same."""
    files = ["cut short"]

    async def main() -> None:
        engine = FakeEngine()
        supervisor = EngineSupervisor(engine, fake_model, identity=lambda: files[-1])
        engine.fail_next(LoadError("the file is truncated"))
        supervisor.start_load()
        await until(lambda: supervisor.state is ServiceState.FAILED)
        due = [supervisor.due]
        files.append("whole")
        due.append(supervisor.due)
        assert due == [False, True]
        supervisor.start_load()
        await until(lambda: supervisor.state is ServiceState.READY)
        assert [supervisor.due] == [False]
        await supervisor.close()

    asyncio.run(main())


@pytest.mark.parametrize("changed", [True, False])
def test_a_file_that_was_replaced_is_planned_again_after_a_death(changed: bool) -> None:
    """S9: while it was served; the old plan is of the old file."""
    files, plans = ["first"], []

    def planner() -> Loadable:
        plans.append(files[-1])
        return fake_model(f"/{files[-1]}.gguf")

    async def main() -> None:
        engine = FakeEngine()
        supervisor = EngineSupervisor(engine, planner, identity=lambda: files[-1])
        supervisor.start_load()
        await until(lambda: supervisor.state is ServiceState.READY)
        if changed:
            files.append("second")
        await kill_in_the_middle(supervisor, engine)
        assert plans == files
        assert [spec.path for spec in engine.loads] == ["/first.gguf", f"/{files[-1]}.gguf"]
        await supervisor.close()

    asyncio.run(main())


def test_three_deaths_on_a_plan_lead_to_the_next() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        for _ in range(4):
            await kill_in_the_middle(supervisor, engine)
            assert await answer(supervisor) == DEFAULT_REPLY
        contexts = [spec.n_ctx for spec in engine.loads]
        assert contexts == [4096, 4096, 4096, 2048, 2048]
        assert supervisor.info is not None and supervisor.info.n_ctx == 2048
        assert (supervisor.deaths, supervisor.step) == (4, 3)

    run(body)


def test_a_death_while_loading_goes_down_at_once() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        await supervisor.release()
        engine.fail_next(DIED)
        engine.fail_next(DIED)
        assert await answer(supervisor) == DEFAULT_REPLY
        assert supervisor.step == 4

    run(body)


def test_an_engine_that_dies_on_every_plan_is_given_up_with_advice() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        await supervisor.release()
        for _ in range(40):
            engine.fail_next(DIED)
        with pytest.raises(LoadError, match=r"crashed on every plan.*smaller model"):
            await answer(supervisor)
        assert supervisor.state is ServiceState.FAILED
        tried = supervisor.deaths
        assert tried == len({repr(spec) for spec in fake_model().specs}) + 2
        # Asking again does not start what has died too often.
        supervisor.start_load()
        await until(lambda: supervisor.state is ServiceState.FAILED)
        assert supervisor.deaths == tried and not supervisor.due

    run(body, rules=Rules(most_delay_s=0))


def test_the_safest_plan_is_tried_again_after_a_rest() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        await supervisor.release()
        for _ in range(6):  # of four plans: once on each, thrice on the safest
            engine.fail_next(DIED)
        with pytest.raises(LoadError, match="tried again in 0 s"):
            await answer(supervisor)
        await until(lambda: supervisor.due)
        supervisor.start_load()
        assert await answer(supervisor) == DEFAULT_REPLY
        assert supervisor.step == 5

    run(body, rules=Rules(most_delay_s=0, rest_s=0.05, most_rest_s=0.05))


def test_good_service_forgives_what_a_plan_has_done() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        for number in range(8):
            await kill_in_the_middle(supervisor, engine)
            for _ in range(2):
                await answer(supervisor, number)
        assert {spec.n_ctx for spec in engine.loads} == {4096}
        assert (supervisor.deaths, supervisor.barred()) == (8, frozenset())

    run(body, rules=Rules(most_delay_s=0, forgive_s=0, forgive_answers=2))


def test_kills_from_outside_do_not_take_from_good_service() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        for _ in range(2):
            await kill_in_the_middle(supervisor, engine)
        for number in range(4):
            await answer(supervisor, number)
            engine.kill(exit_code=-9)
        await answer(supervisor)
        await kill_in_the_middle(supervisor, engine)
        await answer(supervisor)
        assert supervisor.step == 0

    run(body, rules=Rules(most_delay_s=0, forgive_s=0, forgive_answers=4))


def refused(stage: str = "the cache") -> LoadError:
    return LoadError(f"llama.cpp cannot make it: failed to allocate {stage}")


def test_a_load_that_is_refused_memory_goes_down_and_costs_no_plan() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        for _ in range(4):
            await supervisor.release()
            engine.fail_next(refused())
            engine.fail_next(refused())
            assert await answer(supervisor) == DEFAULT_REPLY
            assert supervisor.step == 4
        # Nobody died, and however often it was refused, the plan may be tried another day.
        assert (supervisor.deaths, supervisor.refusals) == (0, 8)
        assert supervisor.barred() == frozenset()

    run(body)


@pytest.mark.parametrize("limited", [False, True])
def test_memory_refused_for_every_plan_is_a_plan_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    """And S23: a limit of a control group is named."""
    memory = HostMemory(1 << 30, 1 << 20, "/a" if limited else "")
    monkeypatch.setattr(crash_history, "read_host_memory", lambda: memory)

    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        await supervisor.release()
        for _ in range(10):
            engine.fail_next(refused())
        with pytest.raises(PlanError, match="refused for every plan") as caught:
            await answer(supervisor)
        assert len(engine.loads) == 1
        assert ("control group /a" in caught.value.message) == limited
        assert ("raise the memory limit" in caught.value.advice) == limited

    run(body)


def test_a_plan_that_struck_thrice_is_barred_to_the_ladder_too() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        for _ in range(3):
            await kill_in_the_middle(supervisor, engine)
        await answer(supervisor)
        assert supervisor.step == 3
        assert supervisor.barred() == {"plan", "trim", "drop"}

    run(body)


def test_kills_from_outside_are_not_held_against_a_request() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        engine.pause()
        request = GenerateRequest(id="r", prompt=(1, 2), max_tokens=50)
        items: list[Delta | Done] = []

        async def read() -> None:
            items.extend([item async for item in supervisor.generate(request)])

        reading = asyncio.create_task(read())
        for number in range(1, 16):
            await until(lambda: engine.in_flight == 1)
            engine.kill(exit_code=-9)
            engine.pause()
            await until(lambda: len(engine.loads) == number + 1)  # noqa: B023
        engine.resume()
        await reading
        assert "".join(item.text for item in items if isinstance(item, Delta)) == DEFAULT_REPLY

    run(body, rules=Rules(most_delay_s=0))


@pytest.mark.parametrize(("exit_code", "answered"), [(-9, True), (None, False)])
def test_counting_tokens_outlives_kills_from_outside_and_one_other(
    exit_code: int | None, answered: bool
) -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        tokenise, tries = engine.tokenise, 0

        async def dies(text: str, *, special: bool = False) -> list[int]:
            nonlocal tries
            tries += 1
            if tries > 5:
                return await tokenise(text, special=special)
            death = WorkerDiedError("the engine's process ended")
            death.exit_code = exit_code
            raise death

        engine.tokenise = dies  # type: ignore[method-assign]
        if answered:
            assert await supervisor.tokenise("ab") == [97, 98]
        else:
            with pytest.raises(WorkerDiedError):
                await supervisor.tokenise("ab")
            assert tries == 2

    run(body, rules=Rules(most_delay_s=0))


def test_a_request_that_kills_twice_is_not_tried_a_third_time() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        engine.pause()
        reading = asyncio.create_task(answer(supervisor))
        for number in (1, 2):
            await until(lambda: (engine.in_flight, len(engine.loads)) == (1, number))  # noqa: B023
            engine.kill()
            engine.pause()
        with pytest.raises(WorkerDiedError):
            await reading
        engine.resume()
        assert await answer(supervisor) == DEFAULT_REPLY

    run(body)


def test_statistics_do_not_wait_for_an_engine_that_hangs() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        async def hang() -> None:
            await asyncio.sleep(3600)

        engine.stats = hang  # type: ignore[method-assign, assignment]
        assert await supervisor.stats(0.01) is None

    run(body)


def test_load_errors_end_the_load() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        await supervisor.release()
        engine.fail_next(LoadError("no such tensor", advice="Pull it again"))
        with pytest.raises(LoadError, match="Pull it again"):
            await answer(supervisor)
        supervisor.start_load()
        await until(lambda: supervisor.state is ServiceState.READY)
        assert await answer(supervisor) == DEFAULT_REPLY

    run(body)


def test_released_memory_comes_back_with_the_next_request() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        assert await supervisor.release()
        assert supervisor.state is ServiceState.RELEASED
        assert not await supervisor.release()
        answers = await asyncio.gather(*(answer(supervisor, number) for number in range(5)))
        assert answers == [DEFAULT_REPLY] * 5
        assert len(engine.loads) == 2

    run(body, load_ms=50)


def test_a_request_waits_for_a_load_that_follows_a_failed_one_at_once() -> None:
    """It is answered with why that failed, not that the model is still loading."""

    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        await supervisor.release()
        engine.fail_next(LoadError("the file is truncated"))
        engine.fail_next(LoadError("the file is truncated"))
        supervisor.start_load()
        loading = next(one for one in asyncio.all_tasks() if "_load" in repr(one.get_coro()))
        # Before what waits for the load is woken.
        loading.add_done_callback(lambda _: supervisor.start_load())
        with pytest.raises(LoadError, match="the file is truncated"):
            await answer(supervisor)
        assert supervisor.state is ServiceState.FAILED

    run(body, load_ms=50)


def test_a_request_during_the_release_is_served() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        for _ in range(20):
            text, _ = await asyncio.gather(answer(supervisor), supervisor.release())
            assert text == DEFAULT_REPLY

    run(body)


def test_closing_ends_what_waits_and_what_runs() -> None:
    async def body(supervisor: EngineSupervisor, engine: FakeEngine) -> None:
        engine.pause()
        running = asyncio.create_task(answer(supervisor))
        await until(lambda: engine.in_flight == 1)
        await supervisor.close()
        with pytest.raises(DaemonError, match="stopping"):
            await running
        with pytest.raises(DaemonError, match="stopping"):
            await answer(supervisor)
        await supervisor.close()

    run(body)


def test_closing_ends_a_load() -> None:
    async def main() -> None:
        supervisor = EngineSupervisor(FakeEngine(load_ms=60_000), fake_model)
        supervisor.start_load()
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await supervisor.close()
        with pytest.raises(UnderkeelError):
            await supervisor.usable()

    asyncio.run(main())


class _Reshaping(FakeEngine):
    """Reports that a reshape is under way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reshaping = asyncio.Event()

    async def reshape(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        self.reshaping.set()
        return await super().reshape(spec, progress)


def test_closing_during_a_change_ends_it_for_good() -> None:
    """T16: a ladder move, a model change, a release and a reload that are under way."""

    async def main() -> None:
        for change in ("move", "fail", "exchange", "release", "reload"):
            engine = _Reshaping()
            supervisor = EngineSupervisor(engine, fake_model)
            supervisor.start_load()
            await until(lambda: supervisor.state is ServiceState.READY)  # noqa: B023
            engine.load_ms = 200
            if change == "fail":
                engine.fail_next(DIED)
            changes: dict[str, Callable[[], Awaitable[object]]] = {
                "move": partial(supervisor.move_to, 3),
                "fail": partial(supervisor.move_to, 3),
                "exchange": partial(supervisor.exchange, fake_model("/other.gguf")),
                "release": supervisor.release,
                "reload": supervisor.reload_model,
            }
            under_way = asyncio.ensure_future(changes[change]())
            if change in {"move", "fail", "exchange"}:
                await engine.reshaping.wait()
            else:
                await asyncio.sleep(0)
            await supervisor.close()
            await asyncio.gather(under_way, return_exceptions=True)
            supervisor.start_load()
            await asyncio.sleep(0.3)
            assert supervisor.state is ServiceState.STOPPING, change
            assert len(engine.loads) == 1, change
            with pytest.raises(DaemonError, match="stopping"):
                await supervisor.usable()

    asyncio.run(main())


def test_a_hundred_unloads_while_requests_are_encoded() -> None:
    """T8: the supervisor's state decides: a request that waits for the engine through a release
    or the last rung never has the old shape loaded behind it, and is answered all the same."""

    class Slow(FakeEngine):
        async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
            await asyncio.sleep(0.001)
            return await super().tokenise(text, special=special)

    async def main() -> None:
        engine = Slow()
        supervisor = EngineSupervisor(engine, fake_model)
        last = len(fake_model().ladder) - 1
        supervisor.start_load()
        for turn in range(100):
            await until(lambda: supervisor.state is ServiceState.READY)
            encoding = [asyncio.create_task(supervisor.tokenise("ab")) for _ in range(3)]
            await asyncio.sleep(0.0005 * (turn % 4))
            await (supervisor.move_to(last) if turn % 2 else supervisor.release())
            if supervisor.state is ServiceState.RELEASED:
                assert not engine._loaded
            assert await asyncio.gather(*encoding) == [[97, 98]] * 3
            await supervisor.usable(5)
        await supervisor.close()

    asyncio.run(main())
