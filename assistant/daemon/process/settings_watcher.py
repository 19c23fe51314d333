"""Keeps the running daemon with its settings file, and remembers what has not taken effect yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from assistant import paths
from assistant.daemon.process import logs, settings_diff
from assistant.daemon.service import Service
from assistant.errors import SettingsError
from assistant.settings import Settings
from assistant.wire import SettingsNow

log = logging.getLogger(__name__)

Read = Callable[[], tuple[Settings, list[SettingsError]]]
"""Reads the settings as at the start: the file, and over it what the command line gave."""


class Follower:
    """Reads the settings again when told to, and gives the service what can change at once.

    Attributes:
        path: the file that is followed.
    """

    def __init__(
        self,
        service: Service,
        read: Read,
        *,
        take_model: Callable[[Settings], None] = lambda _: None,
        path: Path | None = None,
    ) -> None:
        """`take_model` is given settings whose model is to be used by the next load."""
        self._service = service
        self._read = read
        self._take_model = take_model
        self._start = service.settings
        self.path = path or paths.config_file()
        self._last = SettingsNow(path=str(self.path), read_at=time.time())
        service.settings_now = lambda: self.now

    @property
    def now(self) -> SettingsNow:
        """What the last reading found, and what of the file has not taken effect by now."""
        return replace(
            self._last, pending=settings_diff.pending(self._in_effect(), self._service.settings)
        )

    def reload(self) -> SettingsNow:
        """Read the file, and say what that changed; what cannot be read keeps its default."""
        settings, problems = self._read()
        before, served = self._service.settings, self._in_effect()
        changes = settings_diff.compare(before, settings, served)
        self._service.follow(settings)
        self._take_model(settings)
        logs.set_level(settings.daemon.log_level)
        told = self._last.problems
        self._last = SettingsNow(
            path=str(self.path),
            read_at=time.time(),
            changes=changes,
            problems=tuple(str(problem) for problem in problems),
        )
        for line in settings_diff.advice(changes):
            log.info("settings: %s", line)
        for problem in self._last.problems:
            if problem not in told:
                log.warning("settings: %s", problem)
        return self.now

    def _in_effect(self) -> Settings:
        """What the daemon was started with, but for models that have been loaded since."""
        found, service = self._start, self._service
        loadable = service.host.loadable
        if loadable is not None and loadable.model is not None:
            found = replace(found, model=loadable.model)
        second = service.models.plannings.get("explain") if service.models else None
        if second is not None:
            found = replace(found, explain=replace(found.explain, name=second.settings.name))
        return found
