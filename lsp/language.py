"""What little the language server itself knows of languages: a table."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Language:
    """See `languages.toml`."""

    comment: tuple[str, ...]
    opens: tuple[str, ...]
    opening: re.Pattern[str] | None = None

    def is_comment(self, line: str) -> bool:
        """Whether a line holds nothing but a comment."""
        return line.lstrip().startswith(self.comment)

    def opens_block(self, line: str) -> bool:
        """Whether a deeper block follows after this line."""
        words = line.rstrip()
        if words.endswith(("{", "(", "[", "=>")):
            return True
        if self.opening is not None and self.opening.search(words):
            return True
        for mark in self.opens:
            if words.endswith(mark):
                before = words[: -len(mark)]
                return not (mark[0].isalpha() and before[-1:].isalnum())
        return False


@cache
def language(name: str) -> Language:
    """The table's row for an LSP language id; a default for those that it does not have."""
    rows = _rows()
    return rows.get(name, rows["default"])


def grammar(name: str) -> str:
    """The name, in `context.language`, of the language with an LSP language id."""
    names: dict[str, str] = _table()["grammar"]
    return names.get(name, name)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files("lsp") / "languages.toml").read_text("utf-8"))


@cache
def _rows() -> dict[str, Language]:
    table = {name: row for name, row in _table().items() if name not in {"alias", "grammar"}}
    aliases: dict[str, list[str]] = _table()["alias"]
    rows = {
        name: Language(
            comment=tuple(row["comment"]),
            opens=tuple(row["opens"]),
            opening=re.compile(row["opening"]) if "opening" in row else None,
        )
        for name, row in table.items()
    }
    return rows | {alias: rows[name] for name, names in aliases.items() for alias in names}
