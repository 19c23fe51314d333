"""Prompt texts, read from `wording.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources


def text(task: str, which: str, **fields: str) -> str:
    """A text of the table with its fields filled in; what a field holds is taken as it is."""
    return _table()[task][which].format(**fields)


@cache
def _table() -> dict[str, dict[str, str]]:
    return tomllib.loads((resources.files("lsp.actions") / "wording.toml").read_text("utf-8"))
