"""The user's settings: one typed TOML file, checked against the range of every field.

Reads the file, and merges what an editor sends over it. A wrong file never stops anything: each
wrong value is reported, and its default is used, or the value that was read before.
"""

from __future__ import annotations

import codecs
import difflib
import re
import tomllib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import msgspec

from assistant import paths
from assistant.errors import SettingsError
from assistant.settings.fields import (
    ActionSettings,
    AgentSettings,
    CompletionSettings,
    DaemonSettings,
    EngineSettings,
    ExplainSettings,
    ModelSettings,
    NextEditSettings,
    RemoteSettings,
    Settings,
    StatisticsSettings,
    tables,
)
from assistant.settings.rules import Editor, Rule, checked, quoted, rule_of, stricter, takes_back

__all__ = [
    "ActionSettings",
    "AgentSettings",
    "CompletionSettings",
    "DaemonSettings",
    "Editor",
    "EngineSettings",
    "ExplainSettings",
    "ModelSettings",
    "NextEditSettings",
    "RemoteSettings",
    "Settings",
    "StatisticsSettings",
    "UnreadableSettingsError",
    "load",
    "overlay",
    "override",
    "rule_of",
    "tables",
    "written",
]

_LARGEST_FILE_BYTES = 1 << 20
_MOST_PROBLEMS = 50


class UnreadableSettingsError(SettingsError):
    """The file exists and cannot be read at all. Over the wire a `SettingsError`."""

    def kept(self) -> SettingsError:
        """The same for a program that keeps the settings it read before."""
        message = self.message.replace("the defaults are used", "the settings read before are kept")
        return SettingsError(message, subject=self.subject, advice=self.advice)


def load(
    path: Path | None = None, *, last: Settings | None = None
) -> tuple[Settings, list[SettingsError]]:
    """Read the settings file; a missing file gives the defaults.

    Args:
        last: the settings in use, where the file is read again.

    Returns:
        The settings, and what was wrong: a wrong value leaves its setting at the value of `last`,
        or at its default.
    """
    path = path or paths.config_file()
    try:
        raw = tomllib.loads(read_text(path))
    except FileNotFoundError:
        return Settings(), []
    except (OSError, ValueError, RecursionError) as error:
        problem = UnreadableSettingsError(
            f"the settings cannot be read ({_reason(error)}); the defaults are used",
            subject=str(path),
            advice="Fix or remove the file",
        )
        return Settings(), [problem]
    problems: list[SettingsError] = []
    found: dict[str, msgspec.Struct] = {}
    for name, value in raw.items():
        default = tables().get(name)
        if default is None:
            problems.append(_unknown_table(str(path), name))
        elif not isinstance(value, dict):
            problems.append(_no_table(str(path), name, value))
            if last is not None:
                found[name] = getattr(last, name)
        else:
            kept = getattr(last, name) if last is not None else None
            found[name] = _table(default, name, value, str(path), problems, last=kept)
    return msgspec.structs.replace(Settings(), **found), problems[:_MOST_PROBLEMS]


def written(path: Path | None = None) -> frozenset[str]:
    """What the settings file sets, as "table.name", also to its default; nothing of a file that
    cannot be read."""
    try:
        raw = tomllib.loads(read_text(path or paths.config_file()))
    except (OSError, ValueError, RecursionError):
        return frozenset()
    found = ((table, value) for table, value in raw.items() if isinstance(value, dict))
    return frozenset(f"{table}.{name}" for table, value in found for name in value)


def overlay(
    base: Settings, raw: object, source: str, own: AbstractSet[str] = frozenset()
) -> tuple[Settings, list[SettingsError]]:
    """The settings `base` after an editor's options are applied to them.

    An editor takes options from the workspace, which is not trusted. What it may set, and that it
    can only make the user's settings stricter, is in each field's rule (`Editor`).

    Args:
        raw: tables as in the file; None for no options.
        source: where the options are from, for the messages.
        own: the settings that the user's file sets, as of `written`. Those that differ from their
            defaults count in any case.

    Returns:
        The settings, and what was wrong: each refused value keeps the value of `base`.
    """
    if raw is None:
        return base, []
    if not isinstance(raw, Mapping):
        known = ", ".join(f"[{name}]" for name in _editor_tables())
        return base, [SettingsError("these are not tables", subject=source, advice=f"Use {known}")]
    problems: list[SettingsError] = []
    changed: dict[str, msgspec.Struct] = {}
    for name, value in raw.items():
        if name not in tables():
            problems.append(_unknown_table(source, str(name)))
        elif name not in _editor_tables():
            problems.append(
                SettingsError(
                    f"an editor cannot set [{name}]",
                    subject=source,
                    advice=f"Set it in {paths.config_file()}",
                )
            )
        elif not isinstance(value, Mapping):
            problems.append(_no_table(source, str(name), value))
        else:
            table = getattr(base, name)
            changed[name] = _table(table, name, value, source, problems, chosen=own)
    return msgspec.structs.replace(base, **changed), problems[:_MOST_PROBLEMS]


def override(base: Settings, options: Mapping[str, tuple[str, object]]) -> Settings:
    """The settings `base` under options of the command line.

    Args:
        options: for each option the setting that it changes ("table.name") and its value, None if
            it was left out.

    Raises:
        SettingsError: a value is out of the range of its setting.
    """
    for option, (setting, value) in options.items():
        if value is None:
            continue
        table, name = setting.split(".")
        own = getattr(base, table)
        kind, rule = rule_of(next(f for f in msgspec.structs.fields(own) if f.name == name))
        try:
            changed = msgspec.structs.replace(own, **{name: checked(kind, rule, value)})
        except ValueError as error:
            what = str(error).partition(". ")[0]
            raise SettingsError(what, subject=option, advice=f"Use {rule.accepted}") from error
        base = msgspec.structs.replace(base, **{table: changed})
    return base


def _table(
    own: msgspec.Struct,
    table: str,
    raw: Mapping[str, Any],
    source: str,
    problems: list[SettingsError],
    *,
    chosen: AbstractSet[str] | None = None,
    last: msgspec.Struct | None = None,
) -> msgspec.Struct:
    """`own` with the accepted values of `raw`; `problems` gets the others.

    A refused value leaves its setting as it is in `last`, or else in `own`.

    Args:
        chosen: for an editor's options, the settings that the user's file sets.
    """
    fields = {field.name: field for field in msgspec.structs.fields(own)}
    good: dict[str, Any] = {}
    for key, item in raw.items():
        field = fields.get(key)
        if field is None:
            problems.append(_unknown_key(source, table, str(key)))
            continue
        kind, rule = rule_of(field)
        kept = getattr(own if last is None else last, key)
        try:
            value = checked(kind, rule, item)
            good[key] = value
            if chosen is not None:
                is_set = kept != field.default or f"{table}.{key}" in chosen
                good[key] = stricter(rule, kept, value, chosen=is_set)
                problems += _taken_back(rule, value, f"{source}: {table}.{key}")
        except ValueError as error:
            good[key] = kept
            used = msgspec.json.encode(kept).decode()
            used = f"{used} is used" if last is None else f"{used}, the last valid value, is used"
            problems.append(SettingsError(f"{error}. {used}", subject=f"{source}: {table}.{key}"))
    return msgspec.structs.replace(own, **good)


def _taken_back(rule: Rule, value: Any, subject: str) -> list[SettingsError]:
    """What to say of an editor's entries that would take back the user's."""
    if rule.editor is not Editor.ADD or not any(map(takes_back, value)):
        return []
    first = next(filter(takes_back, value))
    return [SettingsError(f"an editor can only add; {quoted(first)} is ignored", subject=subject)]


_MOST_PARTS = 1000
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Also where files that have marks were joined.
_MARK_OF_LINE = re.compile("^\ufeff+", re.MULTILINE)


def read_text(path: Path) -> str:
    """The file's text, without byte order marks, in UTF-8 or in the encoding of its mark.

    Raises:
        OSError, ValueError: it cannot be read, is too large, or is no such text.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE_BYTES + 1)
    if len(content) > _LARGEST_FILE_BYTES:
        raise ValueError(f"it is larger than {_LARGEST_FILE_BYTES >> 20} MiB")
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:4]:
        raise ValueError("it is UTF-16 without a byte order mark; save it as UTF-8")
    text = _MARK_OF_LINE.sub("", content.decode(encoding))
    # The time that `tomllib` takes for a name grows with the square of its parts.
    names = (line.partition("=")[0] for line in text.splitlines() if not line.startswith("#"))
    if any(name.count(".") > _MOST_PARTS for name in names):
        raise ValueError(f"a name has more than {_MOST_PARTS} parts")
    return text


def _reason(error: Exception) -> str:
    match error:
        case OSError():
            return error.strerror or str(error)
        case UnicodeDecodeError():
            return f"byte {error.start} is not {error.encoding.upper()}"
        case RecursionError():
            return "it is nested too deeply"
    return str(error)


def _editor_tables() -> list[str]:
    return [
        name
        for name, table in tables().items()
        if any(rule_of(one)[1].editor is not Editor.NEVER for one in msgspec.structs.fields(table))
    ]


def _unknown_table(source: str, name: str) -> SettingsError:
    if owners := _owners(name):
        return SettingsError(
            f"{name} is outside of a table and is ignored",
            subject=source,
            advice=f"Put it under [{owners[0]}]",
        )
    return SettingsError(
        f"there is no table [{quoted(name)[1:-1]}]; it is ignored",
        subject=source,
        advice=_nearest(name, list(tables())),
    )


def _no_table(source: str, name: str, value: object) -> SettingsError:
    return SettingsError(
        f"{name} is not a table but {quoted(value)}; it is ignored",
        subject=source,
        advice=f"Write [{name}], and its settings below",
    )


def _unknown_key(source: str, table: str, key: str) -> SettingsError:
    owners = _owners(key)
    known = list(tables()[table].__struct_fields__)
    return SettingsError(
        "there is no such setting; it is ignored",
        subject=f"{source}: {table}.{quoted(key)[1:-1]}",
        advice=f"Put it under [{owners[0]}]" if owners else _nearest(key, known),
    )


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:100].lower().replace("-", "_"), known, 1, 0.6)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}"


def _owners(name: str) -> list[str]:
    """The tables that have a setting of this name."""
    return [table for table, default in tables().items() if name in default.__struct_fields__]
