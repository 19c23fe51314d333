"""Which model is used: one line of the user's settings file, changed without touching the rest."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from assistant import paths
from assistant.errors import SettingsError

_TABLE = r"^[ \t]*\[[ \t]*{}[ \t]*\][ \t]*(#.*)?$"
_NEXT_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_NAME = re.compile(r"^([ \t]*name[ \t]*=[ \t]*)(?:\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')", re.MULTILINE)


def use_model(name: str, path: Path | None = None, *, table: str = "model") -> Path:
    """Write `name` of `table` into the settings file, which is made if need be; returns the file.

    Raises:
        SettingsError: the file is no TOML, says it in a form that cannot be changed safely, or
            cannot be written.
    """
    path = path or paths.config_file()
    try:
        target = path.resolve()  # a link into a dotfiles folder stays a link
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        fresh = with_model(text, name, table)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".new")
        beside.write_text(fresh, encoding="utf-8")
        if target.exists():
            beside.chmod(target.stat().st_mode & 0o777)
        beside.replace(target)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SettingsError(
            f"the settings cannot be changed ({error})",
            subject=str(path),
            advice=f"Write it yourself: name = {json.dumps(name)} under [{table}]",
        ) from error
    return path


def with_model(text: str, name: str, table: str = "model") -> str:
    """The settings' text with this model; comments and everything else stay.

    Args:
        table: "model", or that of another model.

    Raises:
        ValueError: the text is no TOML, or the result would not say what it should.
    """
    before = tomllib.loads(text)
    value = json.dumps(name, ensure_ascii=False)
    head = re.search(_TABLE.format(table), text, re.MULTILINE)
    if head is None:
        gap = "\n" if text and not text.endswith("\n\n") else ""
        ended = text if not text or text.endswith("\n") else text + "\n"
        fresh = f"{ended}{gap}[{table}]\nname = {value}\n"
    else:
        following = _NEXT_TABLE.search(text, head.end())
        stop = following.start() if following else len(text)
        inside = text[head.end() : stop]
        changed, count = _NAME.subn(lambda match: match[1] + value, inside, count=1)
        if not count:
            changed = (
                f"\nname = {value}{inside if inside.startswith(chr(10)) else chr(10) + inside}"
            )
        fresh = text[: head.end()] + changed + text[stop:]
    wanted = {**before, table: {**before.get(table, {}), "name": name}}
    if tomllib.loads(fresh) != wanted:
        raise ValueError(f"the table [{table}] is written in an unusual form")
    return fresh
