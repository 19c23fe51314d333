"""Which engine answers by the settings: this machine's, a server's, or a server's before this
machine's; and how what it loads is planned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from assistant.daemon.models.loading import CheckpointPlanning, Credit, Loadable, Planning
from assistant.daemon.models.served_models import Explainer, Ledger, Models
from assistant.daemon.service import Service
from assistant.engine.local import LlamaEngine
from assistant.engine.types import ElasticEngine, LoadSpec, ModelInfo
from assistant.errors import ModelError, UnderkeelError
from assistant.memory.degrade.ladder import Rung
from assistant.memory.planning.plan import HOST_MEMORY
from assistant.memory.probes.sampler import Reader
from assistant.settings import ModelSettings, Settings

log = logging.getLogger(__name__)

_NOTHING = LoadSpec(path="", n_ctx=0)


def engine_for(settings: Settings) -> ElasticEngine:
    """The engine that the settings ask for; nothing is loaded or connected yet."""
    if not settings.remote.url:
        return local_engine(settings, settings.model.name)
    from assistant.engine.remote import FallbackEngine, RemoteEngine

    remote = RemoteEngine(settings.remote)
    if not settings.remote.fallback:
        return remote
    return FallbackEngine(remote, local_engine(settings, settings.model.name))


def local_engine(settings: Settings, name: str) -> ElasticEngine:
    """The engine for a model of this machine, by what the model is."""
    if is_checkpoint_folder(name):
        from assistant.engine.transformers import TransformersEngine

        return TransformersEngine(settings.engine.hang_s)
    return LlamaEngine(settings.engine.hang_s)


@dataclass
class LocalPlanning(Planning):
    """Plans whatever the settings name: a GGUF, or a folder of safetensors."""

    def __call__(self) -> Loadable:
        if is_checkpoint_folder(self.settings.name):
            return CheckpointPlanning(self.settings, self.look, self.credit)()
        return super().__call__()

    def like(self, settings: ModelSettings, credit: Callable[[], Credit]) -> LocalPlanning:
        if is_checkpoint_folder(settings.name) != is_checkpoint_folder(self.settings.name):
            raise ModelError(
                "a checkpoint and a GGUF need different engines",
                subject=settings.name,
                advice="Write it into the settings, and restart the daemon: underkeel restart",
            )
        return LocalPlanning(settings, self.look, credit)


def tell_changes(engine: ElasticEngine, to: Callable[[ModelInfo], None]) -> None:
    """Have `to` called each time that the engine goes over to another model by itself."""
    from assistant.engine.remote import FallbackEngine

    if isinstance(engine, FallbackEngine):
        engine.on_change = to


@dataclass
class ServerPlanning:
    """A planner where a server answers: there is nothing to plan, but for the fallback.

    Attributes:
        local: plans the model of this machine; None where it never answers.
    """

    local: Callable[[], Loadable] | None

    def __call__(self) -> Loadable:
        if self.local is not None:
            try:
                return self.local()
            except UnderkeelError as error:
                log.warning("no model of this machine stands by: %s", error)
        rung = Rung(
            "server",
            "a server answers: nothing of it is in this machine",
            _NOTHING,
            {HOST_MEMORY: 0},
        )
        return Loadable((rung,))


def planner_for(settings: Settings, local: Callable[[], Loadable]) -> Callable[[], Loadable]:
    """`local` itself, or what stands before it where a server answers."""
    if not settings.remote.url:
        return local
    return ServerPlanning(local if settings.remote.fallback else None)


def seat_models(service: Service, planning: Planning, ledger: Ledger, look: Reader) -> Models:
    """Give the service its second model, if the settings name one, and the way to change both.

    Args:
        planning: of the model for completions.
    """
    settings = service.settings
    ledger.hosts["complete"] = service.host
    plannings = {"complete": planning}
    explain = settings.explain
    if explain.name:
        model = replace(
            settings.model,
            name=explain.name,
            n_ctx=explain.n_ctx,
            n_seq_max=explain.n_seq_max,
            n_threads=explain.n_threads,
            cache_type=explain.cache_type,
            mlock=explain.mlock,
        )
        second = LocalPlanning(model, look, lambda: ledger.others("explain"))
        service.explainer = Explainer(
            local_engine(settings, explain.name),
            ledger.planner("explain", second),
            settings,
            look,
            busy=lambda: service.admission.inside > 0,
        )
        ledger.hosts["explain"] = service.explainer.desk.host
        plannings["explain"] = second
    return Models(plannings, ledger)


def is_checkpoint_folder(name: str) -> bool:
    """Whether a model's name is a folder of safetensors."""
    folder = Path(name).expanduser()
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
