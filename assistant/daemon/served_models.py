"""The models that a daemon serves: one for completions, perhaps a second one for explanations.

All are planned over the same devices. The model for completions is planned first and takes what it
needs of the GPUs; the one for explanations gets the rest. Memory that a loaded model holds is not
free anyway; what was reserved for a model that is not loaded is kept for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from assistant.daemon.budgets import Budgets
from assistant.daemon.engine_supervisor import EngineSupervisor, Planner
from assistant.daemon.governor import Governor
from assistant.daemon.http.prompts import Encoder
from assistant.daemon.loading import Credit, Loadable, Planning
from assistant.engine.types import ElasticEngine, ModelInfo
from assistant.errors import ModelError, UnderkeelError
from assistant.memory.ladder import Rules
from assistant.memory.planning.together import roles
from assistant.memory.sampler import Reader
from assistant.settings import ModelSettings, Settings
from assistant.wire import ModelNow, ServiceState


@dataclass
class Ledger:
    """What each model was promised by its last plan.

    Attributes:
        supervisors: who serves each, by what it is for.
    """

    supervisors: dict[str, EngineSupervisor] = field(default_factory=dict)
    _promised: dict[str, Credit] = field(default_factory=dict)

    def planner(self, purpose: str, plan: Callable[[], Loadable]) -> Callable[[], Loadable]:
        """`plan`, and a note of what it promised."""

        def planned() -> Loadable:
            loadable = plan()
            self._promised[purpose] = dict(loadable.ladder[0].holds)
            return loadable

        return planned

    def others(self, purpose: str) -> Credit:
        """What is not for `purpose`, though it is free: promised to models that are not loaded."""
        found: dict[str, int] = {}
        for other, promised in self._promised.items():
            supervisor = self.supervisors.get(other)
            if other == purpose or (
                supervisor is not None and supervisor.state is ServiceState.READY
            ):
                continue
            for name, size in promised.items():
                found[name] = found.get(name, 0) - size
        return found


def held(supervisor: EngineSupervisor) -> Credit:
    """What a host's model holds now, and gives back when another takes its place."""
    if supervisor.state is not ServiceState.READY or supervisor.loadable is None:
        return {}
    return supervisor.loadable.ladder[supervisor.step].holds


log = logging.getLogger(__name__)


class Models:
    """The models that a daemon serves, by what each is for.

    Attributes:
        plannings: how each is planned.
        ledger: what each was promised.
    """

    def __init__(self, plannings: dict[str, Planning], ledger: Ledger) -> None:
        self.plannings = plannings
        self.ledger = ledger
        self._changing = asyncio.Lock()

    def now(self, settings: Settings) -> tuple[ModelNow, ...]:
        """Each model with what it holds, loaded or not."""
        found = []
        for key, (purposes, loaded) in roles(settings).items():
            supervisor = self.ledger.supervisors.get(key)
            planning = self.plannings.get(key)
            if supervisor is not None and planning is not None:
                found.append(
                    ModelNow(
                        purposes=purposes,
                        name=planning.settings.name,
                        state=supervisor.state,
                        loaded=loaded,
                        bytes=dict(held(supervisor)),
                    )
                )
        return tuple(found)

    async def use(self, name: str, purpose: str = "complete") -> ModelInfo:
        """Serve another model from now on. Requests in flight end first, new ones wait.

        Raises:
            ModelError: there is no such model, or this daemon has no such purpose.
            PlanError: it does not fit; nothing has changed.
            LoadError: it could not be loaded; the old model serves again.
        """
        planning, supervisor = self.plannings.get(purpose), self.ledger.supervisors.get(purpose)
        if planning is None or supervisor is None:
            raise ModelError(
                f"this daemon has no model to {purpose} with",
                advice="Set it in the settings, and restart the daemon: underkeel restart",
            )
        if supervisor.info is not None and supervisor.info.server:
            raise ModelError(
                "a server answers: its model is not changed from here",
                subject=supervisor.info.server,
                advice="Change [remote] in the settings",
            )
        async with self._changing:
            return await self._use(name, planning, supervisor)

    async def _use(self, name: str, planning: Planning, supervisor: EngineSupervisor) -> ModelInfo:
        old: ModelSettings = planning.settings
        requested = replace(old, name=name)
        if supervisor.state is ServiceState.READY:
            probe = planning.like(requested, lambda: _sum(planning.credit(), held(supervisor)))
            loadable = await asyncio.to_thread(probe)
            info = await supervisor.exchange(loadable)
            planning.settings = requested
            log.info("changed to name=%s", info.name)
            return info
        planning.settings = requested
        try:
            return await supervisor.reload_model()
        except UnderkeelError:
            planning.settings = old
            supervisor.start_load()
            raise


def _sum(one: Credit, other: Credit) -> Credit:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}


# It gives way before ghost text does: it moves while the other still finds enough to be free.
_ACT_SHARE = 0.75


@dataclass(frozen=True)
class ServedModel:
    """Who answers a request, under which budgets."""

    supervisor: EngineSupervisor
    budgets: Budgets
    encoder: Encoder


class Explainer:
    """Keeps the second model, for explanations and chats: its own engine, budget and governor.

    It is loaded by the first request for it, and gives its memory back after some time without one.
    Until it is ready, and where it cannot be loaded, the model for completions answers instead.

    Attributes:
        served: where its requests are answered.
        governor: moves it on its own ladder.
    """

    def __init__(
        self,
        engine: ElasticEngine,
        planner: Planner,
        settings: Settings,
        look: Reader,
        *,
        busy: Callable[[], bool],
        identity: Callable[[], object] = lambda: None,
    ) -> None:
        """`busy`: whether anybody is being answered by either model.

        `identity`: of `EngineSupervisor`.
        """
        supervisor = EngineSupervisor(engine, planner, released=True, identity=identity)
        budgets = Budgets(settings.completion.budget_tokens, settings.completion.max_tokens)
        self.served = ServedModel(supervisor, budgets, Encoder(supervisor))
        self.governor = Governor(
            supervisor,
            look,
            budgets=budgets,
            rules=Rules(act_share=_ACT_SHARE),
            release_after_s=settings.explain.release_after_s,
            busy=busy,
        )
        supervisor.follow(self.governor)

    @property
    def state(self) -> ServiceState:
        return self.served.supervisor.state

    def take(self) -> ServedModel | None:
        """Its desk if it is ready. Otherwise it is called for, and somebody else has to answer."""
        self.governor.active()
        if self.state is ServiceState.READY:
            return self.served
        if self.state in {ServiceState.RELEASED, ServiceState.FAILED}:
            log.info("the model for explanations is loaded")
            self.served.supervisor.start_load()
        return None

    async def close(self) -> None:
        await self.served.supervisor.close()
