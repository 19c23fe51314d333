"""A model that is changed while the daemon runs, and two that are planned over the same memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, Memory, serving, until
from fake_engine import FakeEngine

from assistant.daemon.loading import Credit, Loadable, Planning
from assistant.daemon.served_models import Explainer, Ledger, Models
from assistant.engine.types import LoadSpec
from assistant.errors import LoadError, ModelChangedError, ModelError, PlanError
from assistant.memory.devices import Device, DeviceKind
from assistant.memory.ladder import Rung
from assistant.memory.planning import Machine, credited
from assistant.settings import ExplainSettings, ModelSettings, Settings
from assistant.wire import ChatMessage, CompletionRequest, ServiceState

GIB = 1 << 30
SIZES = {"small": 2 * GIB, "large": 8 * GIB, "huge": 40 * GIB}


class Played(Planning):
    """Plans models of known sizes without a file."""

    def __call__(self) -> Loadable:
        size, supervisor = SIZES[self.settings.name], self.look().host_memory
        free = supervisor.available_bytes + self.credit().get("CPU", 0)
        if size > free:
            raise PlanError("it does not fit", shortfall_bytes=size - free)
        spec = LoadSpec(path=f"/{self.settings.name}.gguf", n_ctx=1024)
        return Loadable((Rung("plan", "", spec, {"CPU": size}), Rung("unload", "", None, {})))

    def like(self, settings: ModelSettings, credit: object) -> Played:
        assert callable(credit)
        return Played(settings, self.look, credit)


class Named(FakeEngine):
    """Says the name of its file as its model's."""

    async def describe(self):  # type: ignore[no-untyped-def]
        from msgspec.structs import replace

        info = await super().describe()
        return replace(info, name=Path(info.path).stem)


@asynccontextmanager
async def changing(
    engine: FakeEngine, *, explain: FakeEngine | None = None, memory: Memory | None = None
) -> AsyncIterator[Daemon]:
    ledger, look = Ledger(), memory or Memory(total_bytes=10 * GIB)
    planning = Played(ModelSettings(name="small"), look)
    planning.credit = lambda: ledger.others("complete")
    settings = Settings(explain=ExplainSettings(name="large"))
    planner = ledger.planner("complete", planning)
    async with serving(engine, planner=planner, look=look, settings=settings) as daemon:
        service = daemon.service
        plannings: dict[str, Planning] = {"complete": planning}
        ledger.supervisors["complete"] = service.supervisor
        if explain is not None:
            second = planning.like(ModelSettings(name="large"), lambda: ledger.others("explain"))
            plannings["explain"] = second
            service.explainer = Explainer(
                explain, ledger.planner("explain", second), settings, look, busy=bool
            )
            ledger.supervisors["explain"] = service.explainer.served.supervisor
        service.models = Models(plannings, ledger)
        yield daemon


async def said(daemon: Daemon, **more: Any) -> str:
    request = CompletionRequest(**{"prompt": (1, 2), "temperature": 0.0, "max_tokens": 64, **more})
    return "".join([chunk.content async for chunk in daemon.client.complete(request)])


def test_a_running_request_ends_on_the_old_model_and_the_next_is_the_new_ones(home: Path) -> None:
    async def main() -> None:
        engine = Named(reply=lambda request: request.prompt_model, token_ms=5)
        async with changing(engine) as daemon:
            old = asyncio.create_task(said(daemon))
            await until(lambda: bool(engine.in_flight))
            info = await daemon.client.use_model("large")
            assert info.name == "large"
            assert await old == "small"
            assert await said(daemon) == "large"
            with pytest.raises(ModelChangedError):
                await said(daemon, prompt_model="small")
            assert (await daemon.client.status()).deaths == 0

    asyncio.run(main())


def test_a_text_that_waits_is_encoded_again_for_the_new_model(home: Path) -> None:
    """Its client knows nothing of models; who sends tokens meant those of one."""

    async def main() -> None:
        engine = Named(reply=lambda request: request.prompt_model, token_ms=60)
        async with changing(engine) as daemon:
            old = asyncio.create_task(said(daemon))
            await until(lambda: bool(engine.in_flight))
            change = asyncio.create_task(daemon.client.use_model("large"))
            await until(lambda: not daemon.service.supervisor._gate._open.is_set())
            text = asyncio.create_task(said(daemon, prompt="def f"))
            tokens = asyncio.create_task(said(daemon))
            await until(lambda: daemon.service.admission.inside == 3)
            assert not change.done(), "it waits for running requests"
            assert "waiting" in (await daemon.client.status()).stage
            assert await old == "small"
            assert (await change).name == "large"
            assert await text == "large"
            assert not (await daemon.client.status()).stage
            with pytest.raises(ModelChangedError) as caught:
                await tokens
            assert "small" in str(caught.value) and "Encode it again" in caught.value.advice

    asyncio.run(main())


def test_memory_is_given_back_while_answers_are_waited_for(home: Path) -> None:
    async def main() -> None:
        engine = Named(reply=lambda request: request.prompt_model, token_ms=5)
        async with changing(engine) as daemon:
            supervisor = daemon.service.supervisor
            old = asyncio.create_task(said(daemon))
            await until(lambda: bool(engine.in_flight))
            change = asyncio.create_task(daemon.client.use_model("large"))
            await until(lambda: not supervisor._gate._open.is_set())
            assert await asyncio.wait_for(supervisor.move_to(0), 5)
            assert not change.done()
            assert (await old, (await change).name) == ("small", "large")

    asyncio.run(main())


def test_what_does_not_fit_changes_nothing(home: Path) -> None:
    async def main() -> None:
        engine = Named(reply=lambda request: request.prompt_model)
        async with changing(engine) as daemon:
            loads = len(engine.loads)
            with pytest.raises(PlanError):
                await daemon.client.use_model("huge")
            assert len(engine.loads) == loads
            assert await said(daemon) == "small"

    asyncio.run(main())


def test_the_old_models_memory_counts_for_the_new(home: Path) -> None:
    async def main() -> None:
        memory = Memory(total_bytes=9 * GIB)
        async with changing(Named(), memory=memory) as daemon:
            assert memory().host_memory.available_bytes < SIZES["large"]
            assert (await daemon.client.use_model("large")).name == "large"

    asyncio.run(main())


def test_the_old_model_comes_back_if_the_new_one_cannot_be_loaded(home: Path) -> None:
    async def main() -> None:
        engine = Named(reply=lambda request: request.prompt_model)
        async with changing(engine) as daemon:
            engine.fail_next(LoadError("its tensors are wrong"))
            with pytest.raises(LoadError, match="small serves again"):
                await daemon.client.use_model("large")
            assert await said(daemon) == "small"
            assert [Path(spec.path).stem for spec in engine.loads] == ["small", "small"]

    asyncio.run(main())


def test_a_model_that_was_given_back_is_changed_too(home: Path) -> None:
    async def main() -> None:
        engine = Named(reply=lambda request: request.prompt_model)
        async with changing(engine) as daemon:
            await daemon.service.supervisor.release()
            assert (await daemon.client.use_model("large")).name == "large"
            await daemon.service.supervisor.release()
            with pytest.raises(PlanError):
                await daemon.client.use_model("huge")
            await until(lambda: daemon.service.supervisor.state is ServiceState.READY)
            assert await said(daemon) == "large"

    asyncio.run(main())


def test_chats_go_to_the_second_model_once_it_is_ready(home: Path) -> None:
    async def chat(daemon: Daemon) -> str:
        messages = [ChatMessage(role="user", content="why?")]
        return "".join([chunk.content async for chunk in daemon.client.chat(messages)])

    async def main() -> None:
        small, large = _Chatting("small"), _Chatting("large")
        async with changing(small, explain=large, memory=Memory(total_bytes=16 * GIB)) as daemon:
            assert not large.loads, "nobody has asked for an explanation yet"
            assert await chat(daemon) == "small", "it answers while the other is loaded"
            explainer = daemon.service.explainer
            assert explainer is not None
            await until(lambda: explainer.state is ServiceState.READY)
            assert await chat(daemon) == "large"
            assert await said(daemon) == "small", "completions stay where they were"
            status = await daemon.client.status()
            assert status.explain_model is not None
            assert Path(status.explain_model.path).stem == "large"

    asyncio.run(main())


def test_a_second_model_that_does_not_fit_leaves_chats_to_the_first(home: Path) -> None:
    async def main() -> None:
        memory = Memory(total_bytes=8 * GIB)
        async with changing(
            _Chatting("small"), explain=_Chatting("large"), memory=memory
        ) as daemon:
            messages = [ChatMessage(role="user", content="why?")]
            explainer = daemon.service.explainer
            assert explainer is not None
            for _ in range(2):
                chunks = [chunk.content async for chunk in daemon.client.chat(messages)]
                assert "".join(chunks) == "small"
                await until(lambda: explainer.state is not ServiceState.LOADING)
            assert explainer.state is ServiceState.FAILED

    asyncio.run(main())


def test_an_unknown_purpose_is_reported(home: Path) -> None:
    async def main() -> None:
        async with changing(Named()) as daemon:
            with pytest.raises(ModelError, match="explain"):
                await daemon.client.use_model("large", "explain")

    asyncio.run(main())


class _Chatting(FakeEngine):
    """A model with a chat template, that says its name."""

    def __init__(self, name: str) -> None:
        super().__init__(reply=lambda _: name)

    async def describe(self):  # type: ignore[no-untyped-def]
        from msgspec.structs import replace

        template = "{{ messages[0].content }}"
        return replace(await super().describe(), chat_template=template)


def test_what_one_model_is_promised_no_other_is() -> None:
    def plan(size: int) -> Loadable:
        spec = LoadSpec(path="/x")
        return Loadable((Rung("plan", "", spec, {"CPU": size, "CUDA0": 2 * size}),))

    class Host:
        state = ServiceState.RELEASED

    ledger = Ledger()
    first, second = Host(), Host()
    ledger.supervisors |= {"complete": first, "explain": second}  # type: ignore[dict-item]
    ledger.planner("complete", lambda: plan(3))()
    assert ledger.others("complete") == {}
    assert ledger.others("explain") == {"CPU": -3, "CUDA0": -6}
    first.state = ServiceState.READY  # what it holds is missing from what is free by itself
    assert ledger.others("explain") == {}
    ledger.planner("explain", lambda: plan(5))()
    assert ledger.others("complete") == {"CPU": -5, "CUDA0": -10}


@pytest.mark.parametrize(
    ("credit", "free"), [({"CPU": 3}, 8), ({"CPU": -9}, 0), ({"CPU": 99}, 10), ({"CUDA0": 1}, 5)]
)
def test_credit_stays_within_the_device(credit: Credit, free: int) -> None:
    machine = Machine(Device("CPU", DeviceKind.CPU, 10, 5))
    assert credited(machine, credit).host_memory.free_bytes == free
