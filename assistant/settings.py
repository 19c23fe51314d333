"""The user's settings: one TOML file, typed, with defaults that work.

A wrong file never stops anything: `load` returns the settings that could be read, with a list of
what could not and which default stands instead.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from assistant import paths
from assistant.errors import SettingsError


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model is served, and how.

    `name` is a catalogue name or the path of a GGUF. Zeros and empty texts: decided by the plan.
    `weights` is of a checkpoint alone: stored as it is, or in NF4; empty takes what fits.
    `mlock` keeps its pages in memory by force; `keep_warm_s` touches those that are mapped so often
    while nobody asks, so that the kernel does not take them for unused (0: never).
    `vram_margin_mib` is left free on each card; `vram_overhead_mib` is what the driver takes of it
    for a process (-1: what is usual).
    """

    name: str = "starter-moe"
    n_ctx: int = 8192
    n_seq_max: int = 4
    n_threads: int = 0
    cache_type: str = ""
    weights: Literal["", "as they are", "nf4"] = ""
    mlock: bool = False
    keep_warm_s: float = 120.0
    vram_margin_mib: int = 256
    vram_overhead_mib: int = -1


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What llama.cpp is started with.

    `backend_libraries` are further ggml backends (say, a Vulkan or SYCL library built for the same
    llama.cpp) that the worker loads beside its own. They are code: only the user's own settings
    file may name them. A worker that owes an answer and says nothing for `hang_s` is ended.
    """

    backend_libraries: tuple[str, ...] = ()
    hang_s: float = 60.0


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server that answers in place of a model of this machine; none where `url` is empty.

    What is asked goes to it, so only the user's own settings file may name one. `kind` "auto" asks
    the server what it is. `model` is the name it knows; empty takes its first. The API key is the
    first line of `key_file`, or the keyring's entry `key_name` (service/user); `certificates` is a
    bundle of authorities to trust besides the system's. `tokenizer` is a tokenizer.json or a GGUF
    that holds the model's vocabulary, `family` its row in families.toml, `n_ctx` the context where
    the server does not tell. `retries` bounds the tries after the first, `silence_s` the wait for
    its next word. With `fallback` the model of [model] answers while the server cannot.
    """

    url: str = ""
    kind: Literal["auto", "llama-server", "vllm", "openai"] = "auto"
    model: str = ""
    key_file: str = ""
    key_name: str = ""
    certificates: str = ""
    tokenizer: str = ""
    family: str = ""
    n_ctx: int = 0
    parallel: int = 0
    retries: int = 2
    connect_s: float = 5.0
    silence_s: float = 60.0
    fallback: bool = True


class ExplainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A second model for explanations and chats, planned together with that of [model].

    `name` is as in [model]; empty lets one model do both. It gives its memory back after
    `release_after_s` without a request; 0 keeps it.
    """

    name: str = ""
    n_ctx: int = 8192
    n_seq_max: int = 2
    n_threads: int = 0
    cache_type: str = ""
    mlock: bool = False
    release_after_s: float = 600.0


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The daemon's own limits.

    `max_waiting` bounds the queue; a request past it gets 429. `request_limit_s` ends any request.
    `max_body_bytes` bounds a request's size. After `release_after_s` without a request the model's
    memory is given back until the next one; 0 keeps it for good. `rungs_off` names rungs of the
    ladder never to stand on, `rung` the only one to stand on (`assistant.memory.planning.rungs`).
    `tcp_port` listens on that loopback port too, where every request must show the token that the
    address file holds; 0 is for Unix sockets only, and for any free port where there are none.
    `log_format` "json" writes a JSON object a line.
    """

    max_waiting: int = 64
    request_limit_s: float = 120.0
    max_body_bytes: int = 8 * 1024 * 1024
    release_after_s: float = 1800.0
    rungs_off: tuple[str, ...] = ()
    rung: str = ""
    tcp_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


class CompletionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ghost text.

    `budget_tokens` is the most a completion prompt may take; `max_tokens` bounds the answer;
    `time_limit_ms` bounds the wait for one. After `first_line_ms` any whole line is answer enough.
    `debounce_ms` is the least wait after a key. `ahead` computes what may be wanted next, not on a
    battery unless `ahead_on_battery`. `workspace` shows the model other files of the workspace.
    `excludes` are files that it is never shown: patterns in .gitignore's form.
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
    excludes: tuple[str, ...] = ()


class ActionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Code actions: explanations and edits.

    `context_tokens` is the most that their prompts take of the budget; `explain_tokens` and
    `edit_tokens` bound the answers: an explanation that is cut can be continued, an edit that is
    cut is not made.
    """

    enabled: bool = True
    context_tokens: int = 2048
    explain_tokens: int = 640
    edit_tokens: int = 1024


class StatisticsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts of what became of suggestions, kept on this machine: `underkeel stats`."""

    enabled: bool = True


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "model": ModelSettings,
    "engine": EngineSettings,
    "remote": RemoteSettings,
    "explain": ExplainSettings,
    "daemon": DaemonSettings,
    "completion": CompletionSettings,
    "actions": ActionSettings,
    "statistics": StatisticsSettings,
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Each attribute is a table of the TOML file."""

    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    remote: RemoteSettings = RemoteSettings()
    explain: ExplainSettings = ExplainSettings()
    daemon: DaemonSettings = DaemonSettings()
    completion: CompletionSettings = CompletionSettings()
    actions: ActionSettings = ActionSettings()
    statistics: StatisticsSettings = StatisticsSettings()


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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
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
