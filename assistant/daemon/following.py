"""Keeps the running daemon with its settings file, and remembers what has not taken effect yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from assistant import paths
from assistant.daemon import logs, reload
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
        now: what the last reading found.
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
        self.now = SettingsNow(path=str(self.path), read_at=time.time())
        service.settings_now = self.now

    def reload(self) -> SettingsNow:
        """Read the file, and say what that changed; what cannot be read keeps its default."""
        settings, problems = self._read()
        changes = reload.compare(self._service.settings, settings)
        self._service.follow(settings)
        self._take_model(settings)
        logs.set_level(settings.daemon.log_level)
        self.now = SettingsNow(
            path=str(self.path),
            read_at=time.time(),
            changes=changes,
            pending=reload.pending(self._start, settings),
            problems=tuple(str(problem) for problem in problems),
        )
        self._service.settings_now = self.now
        for line in reload.advice(changes):
            log.info("settings: %s", line)
        for problem in problems:
            log.warning("settings: %s", problem)
        return self.now
