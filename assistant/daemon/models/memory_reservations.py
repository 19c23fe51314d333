"""Several models planned over the same devices: what one is promised, no other is.

The model for completions is planned first and takes what it needs of the cards; the one for
explanations gets the rest. What a model that is loaded holds is missing from what is free by
itself; what one that is not loaded was promised is kept for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from assistant.daemon.models.loading import Credit, Loadable
from assistant.daemon.supervisor.engine_supervisor import ModelHost
from assistant.wire import ServiceState


@dataclass
class Ledger:
    """What each model was promised by its last plan.

    Attributes:
        hosts: who serves each, by what it is for.
    """

    hosts: dict[str, ModelHost] = field(default_factory=dict)
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
            host = self.hosts.get(other)
            if other == purpose or (host is not None and host.state is ServiceState.READY):
                continue
            for name, size in promised.items():
                found[name] = found.get(name, 0) - size
        return found


def held(host: ModelHost) -> Credit:
    """What a host's model holds now, and gives back when another takes its place."""
    if host.state is not ServiceState.READY or host.loadable is None:
        return {}
    return host.loadable.ladder[host.step].holds
