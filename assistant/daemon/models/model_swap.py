"""Changing the model of a running daemon: planned first, drained, loaded; the old one comes back
where the new one cannot be loaded."""

from __future__ import annotations

import asyncio
import logging

from msgspec.structs import replace

from assistant.daemon.models.loading import Credit, Planning
from assistant.daemon.models.memory_reservations import Ledger, held
from assistant.daemon.supervisor.engine_supervisor import ModelHost
from assistant.engine.types import ModelInfo
from assistant.errors import ModelError, UnderkeelError
from assistant.settings import ModelSettings
from assistant.wire import ServiceState

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

    async def use(self, name: str, purpose: str = "complete") -> ModelInfo:
        """Serve another model from now on. Requests in flight end first, new ones wait.

        Raises:
            ModelError: there is no such model, or this daemon has no such purpose.
            PlanError: it does not fit; nothing has changed.
            LoadError: it could not be loaded; the old model serves again.
        """
        planning, host = self.plannings.get(purpose), self.ledger.hosts.get(purpose)
        if planning is None or host is None:
            raise ModelError(
                f"this daemon has no model to {purpose} with",
                advice="Set it in the settings, and restart the daemon: underkeel restart",
            )
        if host.info is not None and host.info.server:
            raise ModelError(
                "a server answers: its model is not changed from here",
                subject=host.info.server,
                advice="Change [remote] in the settings",
            )
        async with self._changing:
            return await self._use(name, planning, host)

    async def _use(self, name: str, planning: Planning, host: ModelHost) -> ModelInfo:
        old: ModelSettings = planning.settings
        requested = replace(old, name=name)
        if host.state is ServiceState.READY:
            probe = planning.like(requested, lambda: _sum(planning.credit(), held(host)))
            loadable = await asyncio.to_thread(probe)
            info = await host.exchange(loadable)
            planning.settings = requested
            log.info("changed to name=%s", info.name)
            return info
        planning.settings = requested
        try:
            return await host.reload_model()
        except UnderkeelError:
            planning.settings = old
            host.start_load()
            raise


def _sum(one: Credit, other: Credit) -> Credit:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}
