"""Which files may be read: by their names, and by where their links lead."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pathspec


@cache
def _spec(name: str) -> pathspec.GitIgnoreSpec:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return pathspec.GitIgnoreSpec.from_lines(lines)


def is_secret(path: str) -> bool:
    """Whether a file's path (any form, `/` between parts) is on the list of secrets; case does not
    matter."""
    return _spec("secrets.gitignore").match_file(path.lstrip("/").lower())


def is_skipped(path: str) -> bool:
    """Whether a path is never source: version control, caches, installed packages, lock files."""
    return _spec("skipped.gitignore").match_file(path)
