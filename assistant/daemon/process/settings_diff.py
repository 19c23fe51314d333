"""What a changed settings file changes in a running daemon. The deciding part is pure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from assistant.settings import Settings
from assistant.wire import ChangeNow

log = logging.getLogger(__name__)


class Effect(StrEnum):
    """When a changed setting counts."""

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
    """When a change of the setting `table.name` counts."""
    return _SINGLE.get(key) or _TABLES.get(key.partition(".")[0], Effect.RESTART)


def compare(
    old: Settings, new: Settings, in_effect: Settings | None = None
) -> tuple[ChangeNow, ...]:
    """What differs, setting by setting.

    Args:
        in_effect: what the daemon works by now: a setting that is so already need not wait.
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
                    there = getattr(getattr(in_effect, table), name) == is_now
                    effect = Effect.NOW if there else effect
                change = ChangeNow(
                    key=key,
                    old=_shown(name, was),
                    new=_shown(name, is_now),
                    effect=effect.value,
                )
                changes.append(change)
    return tuple(changes)


def pending(in_effect: Settings, now: Settings) -> tuple[ChangeNow, ...]:
    """Of the settings of `now`, those by which the daemon does not work yet."""
    return tuple(change for change in compare(in_effect, now) if change.effect in _WAITING)


def advice(changes: tuple[ChangeNow, ...]) -> list[str]:
    """The changes as sentences, with what to do about those that wait."""
    return [f"{change.key}: {change.old} -> {change.new}, {_said(change)}" for change in changes]


def _said(change: ChangeNow) -> str:
    match Effect(change.effect):
        case Effect.NOW:
            return "took effect"
        case Effect.NEXT_LOAD:
            # A model's load takes minutes and much memory: saving a file is no word for that.
            how = f"models use {change.new}" if change.key == "model.name" else "restart"
            return f"takes effect when a model is loaded next; at once with: underkeel {how}"
        case Effect.RESTART:
            how = "restart"
            if change.key == "explain.name" and '""' not in {change.old, change.new}:
                how = f"models use --for explain {change.new}"
            return f"takes effect with: underkeel {how}"
        case Effect.EDITORS:
            return "takes effect in each editor when it is started next"


async def watch(path: Path, changed: Callable[[], Any]) -> None:
    """Call `changed` whenever the file was written, made or removed, until cancelled.

    The folder is watched, since editors replace files instead of writing into them.
    """
    from watchfiles import awatch  # not for commands that only put changes into words

    while True:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            async for seen in awatch(path.parent, recursive=False, debounce=200, step=20):
                if any(Path(name).name == path.name for _, name in seen):
                    changed()
        except OSError as error:
            log.warning("the settings are not watched: %s", error)
            return
        await asyncio.sleep(1)  # the folder itself went away


def _shown(name: str, value: object) -> str:
    secret = not _SECRET.isdisjoint(name.split("_")) and not name.endswith(_NOT_SECRET)
    if secret and value and isinstance(value, str):
        return _HIDDEN
    return msgspec.json.encode(value).decode()
