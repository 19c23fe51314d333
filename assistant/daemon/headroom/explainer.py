"""A second model, for explanations and chats: its own engine, budget and governor.

It is loaded when it is first asked for, and gives its memory back after a while without a request.
Until it is ready, and where it cannot be loaded, the model for completions answers in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from assistant.daemon.headroom.budgets import Budgets
from assistant.daemon.headroom.governor import Governor
from assistant.daemon.http.prompts import Encoder
from assistant.daemon.supervisor.engine_supervisor import ModelHost, Planner
from assistant.engine.interface import ElasticEngine
from assistant.memory.degrade.ladder import Rules
from assistant.memory.probes.sampler import Reader
from assistant.settings import Settings
from assistant.wire import ServiceState

log = logging.getLogger(__name__)

# It gives way before ghost text does: it moves while the other still finds enough to be free.
_ACT_SHARE = 0.75


@dataclass(frozen=True)
class Desk:
    """Who answers a request, under which budgets."""

    host: ModelHost
    budgets: Budgets
    encoder: Encoder


class Explainer:
    """Keeps the second model.

    Attributes:
        desk: where its requests are answered.
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
    ) -> None:
        """`busy`: whether anybody is being answered by either model."""
        host = ModelHost(engine, planner, released=True)
        budgets = Budgets(settings.completion.budget_tokens, settings.completion.max_tokens)
        self.desk = Desk(host, budgets, Encoder(host))
        self.governor = Governor(
            host,
            look,
            budgets=budgets,
            rules=Rules(act_share=_ACT_SHARE),
            release_after_s=settings.explain.release_after_s,
            busy=busy,
        )
        host.follow(self.governor)

    @property
    def state(self) -> ServiceState:
        return self.desk.host.state

    def take(self) -> Desk | None:
        """Its desk if it is ready. Otherwise it is called for, and somebody else has to answer."""
        self.governor.active()
        if self.state is ServiceState.READY:
            return self.desk
        if self.state in {ServiceState.RELEASED, ServiceState.FAILED}:
            log.info("the model for explanations is loaded")
            self.desk.host.start_load()
        return None

    async def close(self) -> None:
        await self.desk.host.close()
