"""The user's settings: one TOML file, typed, with defaults that work.

A wrong file never stops anything: `load` returns the settings that could be read, with a list of
what could not and which default stands instead.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import msgspec

from assistant import paths
from assistant.errors import SettingsError


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model is served, and how.

    `name` is a catalogue name or the path of a GGUF. Zeros and empty texts: decided by the plan.
    """

    name: str = "starter-moe"
    n_ctx: int = 8192
    n_seq_max: int = 4
    n_threads: int = 0
    cache_type: str = ""
    mlock: bool = False


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What llama.cpp is started with.

    `backend_libraries` are further ggml backends (say, a Vulkan or SYCL library built for the same
    llama.cpp) that the worker loads beside its own. They are code: only the user's own settings
    file may name them.
    """

    backend_libraries: tuple[str, ...] = ()


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The daemon's own limits.

    `max_waiting` bounds the queue; a request past it gets 429. `request_limit_s` ends any request.
    `max_body_bytes` bounds a request's size. After `release_after_s` without a request the model's
    memory is given back until the next one; 0 keeps it for good. `rungs_off` names rungs of the
    ladder never to stand on, `rung` the only one to stand on (`assistant.memory.rungs`).
    """

    max_waiting: int = 64
    request_limit_s: float = 120.0
    max_body_bytes: int = 8 * 1024 * 1024
    release_after_s: float = 1800.0
    rungs_off: tuple[str, ...] = ()
    rung: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class CompletionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ghost text.

    `budget_tokens` is the most a completion prompt may take; `max_tokens` bounds the answer;
    `time_limit_ms` bounds the wait for one. After `first_line_ms` any whole line is answer enough.
    `debounce_ms` is the least wait after a key. `ahead` computes what may be wanted next, not on a
    battery unless `ahead_on_battery`. `workspace` shows the model other files of the workspace.
    """

    enabled: bool = True
    languages_off: tuple[str, ...] = ()
    budget_tokens: int = 1024
    max_tokens: int = 64
    time_limit_ms: int = 8000
    first_line_ms: int = 600
    debounce_ms: int = 60
    ahead: bool = True
    ahead_on_battery: bool = False
    workspace: bool = True


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "model": ModelSettings,
    "engine": EngineSettings,
    "daemon": DaemonSettings,
    "completion": CompletionSettings,
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Each attribute is a table of the TOML file."""

    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    daemon: DaemonSettings = DaemonSettings()
    completion: CompletionSettings = CompletionSettings()


def load(path: Path | None = None) -> tuple[Settings, list[SettingsError]]:
    """Read the settings file; a missing file gives the defaults.

    Returns:
        The settings, and what was wrong: each wrong value falls back to its own default.
    """
    path = path or paths.config_file()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings(), []
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problem = SettingsError(
            f"the settings cannot be read ({error})",
            subject=str(path),
            advice="Mend or remove the file; the defaults are used",
        )
        return Settings(), [problem]
    return _typed(raw, path)


def overlay(
    base: Settings, raw: object, source: str, tables: Collection[str]
) -> tuple[Settings, list[SettingsError]]:
    """Settings that somebody else than the user's file names, such as an editor, over `base`.

    Args:
        raw: tables as in the file; None says nothing.
        source: who names them, for the messages.
        tables: those that `source` may change.

    Returns:
        The settings, and what was wrong: each wrong value keeps the value of `base`.
    """
    if raw is None:
        return base, []
    problems: list[SettingsError] = []
    if not isinstance(raw, dict):
        return base, [_problem(source, "settings", "this is not a table", sorted(tables))]
    changed: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in tables or not isinstance(value, dict):
            problems.append(_problem(source, str(name), "no such table here", sorted(tables)))
            continue
        old = getattr(base, name)
        good = _good_fields(old, name, value, source, problems)
        changed[name] = msgspec.structs.replace(old, **good)
    return msgspec.structs.replace(base, **changed), problems


def _typed(raw: dict[str, Any], path: Path) -> tuple[Settings, list[SettingsError]]:
    problems: list[SettingsError] = []
    sections: dict[str, Any] = {}
    for name, value in raw.items():
        kind = _SECTIONS.get(name)
        if kind is None or not isinstance(value, dict):
            problems.append(_problem(path, name, f"there is no table [{name}]", sorted(_SECTIONS)))
            continue
        sections[name] = _section(kind, name, value, path, problems)
    return Settings(**sections), problems


def _section(
    kind: type[msgspec.Struct],
    table: str,
    value: dict[str, Any],
    path: Path,
    problems: list[SettingsError],
) -> msgspec.Struct:
    return kind(**_good_fields(kind(), table, value, path, problems))


def _good_fields(
    fallback: msgspec.Struct,
    table: str,
    value: dict[str, Any],
    source: Path | str,
    problems: list[SettingsError],
) -> dict[str, Any]:
    """The values that are of the right type; `problems` gets the others, `fallback` stands."""
    fields = {field.name: field for field in msgspec.structs.fields(fallback)}
    good: dict[str, Any] = {}
    for key, item in value.items():
        field = fields.get(key)
        if field is None:
            problems.append(_problem(source, f"{table}.{key}", "no such setting", sorted(fields)))
            continue
        try:
            good[key] = msgspec.convert(item, field.type)
        except msgspec.ValidationError as error:
            what = f"{error}; {getattr(fallback, key)!r} is used"
            problems.append(_problem(source, f"{table}.{key}", what, []))
    return good


def _problem(path: Path | str, key: str, what: str, known: list[str]) -> SettingsError:
    advice = f"Known are: {', '.join(known)}" if known else "Mend the value"
    return SettingsError(what, subject=f"{path}: {key}", advice=advice)
