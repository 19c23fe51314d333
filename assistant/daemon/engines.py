"""Which engine answers by the settings: this machine's, a server's, or a server's before this
machine's; and how what it loads is planned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from assistant.daemon.loading import Loadable
from assistant.engine.interface import ElasticEngine
from assistant.engine.local import LlamaEngine
from assistant.engine.types import LoadSpec, ModelInfo
from assistant.errors import UnderkeelError
from assistant.memory.ladder import Rung
from assistant.settings import Settings

log = logging.getLogger(__name__)

_NOTHING = LoadSpec(path="", n_ctx=0)


def engine_for(settings: Settings) -> ElasticEngine:
    """The engine that the settings ask for; nothing is loaded or connected yet."""
    if not settings.remote.url:
        return local_engine(settings)
    from assistant.engine.remote import FallbackEngine, RemoteEngine

    remote = RemoteEngine(settings.remote)
    if not settings.remote.fallback:
        return remote
    return FallbackEngine(remote, local_engine(settings))


def local_engine(settings: Settings) -> ElasticEngine:
    """The engine for models of this machine."""
    return LlamaEngine(settings.engine.hang_s)


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
        rung = Rung("server", "a server answers: nothing of it is in this machine", _NOTHING, {})
        return Loadable((rung,))


def planner_for(settings: Settings, local: Callable[[], Loadable]) -> Callable[[], Loadable]:
    """`local` itself, or what stands before it where a server answers."""
    if not settings.remote.url:
        return local
    return ServerPlanning(local if settings.remote.fallback else None)


def is_checkpoint_folder(name: str) -> bool:
    """Whether a model's name is a folder of safetensors."""
    folder = Path(name).expanduser()
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
