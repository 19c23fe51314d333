"""Applies a changed settings file to the running daemon; reports what is pending."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from assistant import paths
from assistant.daemon.process import logs
from assistant.daemon.service import Service
from assistant.errors import SettingsError
from assistant.settings import Settings, UnreadableSettingsError
from assistant.wire import ChangeNow, SettingsNow

log = logging.getLogger(__name__)

_POLL_S = 5.0


class Effect(StrEnum):
    """When a changed setting takes effect."""

    NOW = "now"
    NEXT_LOAD = "next load"
    RESTART = "restart"
    EDITORS = "editors"


_TABLES = {
    "completion": Effect.EDITORS,
    "daemon": Effect.NOW,
    "engine": Effect.RESTART,
    "model": Effect.NEXT_LOAD,
}
_WAITING = (Effect.NEXT_LOAD, Effect.RESTART)
# A table that is not listed here is read once, when the daemon starts.
_SINGLE = {
    "completion.budget_tokens": Effect.NOW,
    "completion.max_tokens": Effect.NOW,
    "daemon.log_format": Effect.RESTART,
    "daemon.tcp_port": Effect.RESTART,
}
_SECRET = {"key", "token", "password", "secret"}
_NOT_SECRET = ("_file", "_name")
_HIDDEN = "***"


def effect_of(key: str) -> Effect:
    """When a change of the setting `table.name` takes effect."""
    return _SINGLE.get(key) or _TABLES.get(key.partition(".")[0], Effect.RESTART)


def compare(
    old: Settings, new: Settings, in_effect: Settings | None = None
) -> tuple[ChangeNow, ...]:
    """The settings that differ.

    Args:
        in_effect: the settings that the daemon uses now: a change that it has already made is
            reported as in effect.
    """
    changes = []
    for table in old.__struct_fields__:
        before, after = getattr(old, table), getattr(new, table)
        for name in before.__struct_fields__:
            was, is_now = getattr(before, name), getattr(after, name)
            if was != is_now:
                key = f"{table}.{name}"
                effect = effect_of(key)
                if in_effect is not None and effect in _WAITING:
                    done = getattr(getattr(in_effect, table), name) == is_now
                    effect = Effect.NOW if done else effect
                change = ChangeNow(
                    key=key,
                    old=_shown(name, was),
                    new=_shown(name, is_now),
                    effect=effect.value,
                )
                changes.append(change)
    return tuple(changes)


def pending(in_effect: Settings, now: Settings) -> tuple[ChangeNow, ...]:
    """The settings of `now` that have not taken effect yet."""
    return tuple(change for change in compare(in_effect, now) if change.effect in _WAITING)


def advice(changes: tuple[ChangeNow, ...]) -> list[str]:
    """One line for each change: old and new value, and when it takes effect."""
    return [f"{change.key}: {change.old} -> {change.new}, {_when(change)}" for change in changes]


def _when(change: ChangeNow) -> str:
    match Effect(change.effect):
        case Effect.NOW:
            return "took effect"
        case Effect.NEXT_LOAD:
            # A load takes minutes and much memory: saving a file does not ask for that.
            how = f"models use {change.new}" if change.key == "model.name" else "restart"
            return f"takes effect with the next load of a model; now with: underkeel {how}"
        case Effect.RESTART:
            how = "restart"
            if change.key == "explain.name" and '""' not in {change.old, change.new}:
                how = f"models use --for explain {change.new}"
            return f"takes effect with: underkeel {how}"
        case Effect.EDITORS:
            return "takes effect when an editor is started again"


async def watch(path: Path, changed: Callable[[], Any], poll_s: float = _POLL_S) -> None:
    """Call `changed` whenever the file was written, created or removed, until cancelled.

    Looks at the file every `poll_s` seconds: this wakes an idle process less often than libraries
    that wait for events, and works on network file systems too.
    """
    known = _stamp(path)
    while True:
        await asyncio.sleep(poll_s)
        if (now := _stamp(path)) != known:
            known = now
            changed()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _shown(name: str, value: object) -> str:
    secret = not _SECRET.isdisjoint(name.split("_")) and not name.endswith(_NOT_SECRET)
    if secret and value and isinstance(value, str):
        return _HIDDEN
    return msgspec.json.encode(value).decode()


class Read(Protocol):
    """Reads the settings as at the start: the file, and over it the options of the command line."""

    def __call__(self, *, last: Settings) -> tuple[Settings, list[SettingsError]]:
        """A wrong value leaves its setting as it is in `last`."""
        ...


class Follower:
    """Reads the settings file again on request, and applies what can change at once.

    Attributes:
        path: the settings file.
    """

    def __init__(
        self,
        service: Service,
        read: Read,
        *,
        take_model: Callable[[Settings], None] = lambda _: None,
        path: Path | None = None,
    ) -> None:
        """`take_model`: called with the settings that the next load of a model uses."""
        self._service = service
        self._read = read
        self._take_model = take_model
        self._start = service.settings
        self.path = path or paths.config_file()
        self._last = SettingsNow(path=str(self.path), read_at=time.time())
        service.settings_now = lambda: self.now

    @property
    def now(self) -> SettingsNow:
        """What the last reading found, and the changes that have not taken effect yet."""
        return replace(self._last, pending=pending(self._in_effect(), self._service.settings))

    def reload(self) -> SettingsNow:
        """Read the file, and report what that changed.

        A wrong value leaves its setting unchanged; a file that cannot be read changes nothing.
        """
        before, served = self._service.settings, self._in_effect()
        settings, problems = self._read(last=before)
        unreadable = [one for one in problems if isinstance(one, UnreadableSettingsError)]
        if unreadable:
            settings, problems = before, [one.kept() for one in unreadable]
        changes = compare(before, settings, served)
        self._service.follow(settings)
        self._take_model(settings)
        logs.set_level(settings.daemon.log_level)
        known = self._last.problems
        self._last = SettingsNow(
            path=str(self.path),
            read_at=time.time(),
            changes=changes,
            problems=tuple(str(problem) for problem in problems),
        )
        for line in advice(changes):
            log.info("settings: %s", line)
        for problem in self._last.problems:
            if problem not in known:
                log.warning("settings: %s", problem)
        return self.now

    def _in_effect(self) -> Settings:
        """The settings at the start, with the models that were loaded since."""
        found, service = self._start, self._service
        loadable = service.supervisor.loadable
        if loadable is not None and loadable.model is not None:
            found = replace(found, model=loadable.model)
        second = service.models.plannings.get("explain") if service.models else None
        if second is not None:
            found = replace(found, explain=replace(found.explain, name=second.settings.name))
        return found
