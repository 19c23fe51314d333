"""Which files may be read: git's ignore rules, and the lists of secrets and of what is no source.

Order as in git (gitignore(5)): the `.gitignore` nearest to a file counts first, up to the root of
its repository, then the repository's `info/exclude`, then the user's file (`core.excludesFile`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pathspec

from context.index.open_file import UnreadableError, decoded, read_bytes

_MAX_BYTES = 1 << 20
_MAX_PATTERNS = 5000
_MOST_STARS = 3  # in one part of a path: each more may cost as much again as the name is long
_MOST_INCLUDES = 10
_SECTION = re.compile(r"\[\s*(\w+)\s*\]")
_EXCLUDES_FILE = re.compile(r"excludesfile\s*=\s*(.*)", re.IGNORECASE)
_INCLUDE = re.compile(r"path\s*=\s*(.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """The patterns of one file, for what is below `folder` (relative to the walked root's
    repository, with a "/" at its end, or empty)."""

    folder: str
    spec: pathspec.GitIgnoreSpec

    def verdict(self, path: str) -> bool | None:
        """Whether a path below the folder is ignored; None where no pattern says anything."""
        return self.spec.check_file(path[len(self.folder) :]).include


def patterns(lines: Sequence[str]) -> pathspec.GitIgnoreSpec:
    """Patterns in .gitignore's form; a broken one in somebody's file does not stop the others."""
    good = []
    for line in lines[:_MAX_PATTERNS]:
        simple = _bounded(line)
        try:
            pathspec.GitIgnoreSpec.from_lines([simple])
        except ValueError:
            continue
        good.append(simple)
    return pathspec.GitIgnoreSpec.from_lines(good)


def _bounded(pattern: str) -> str:
    """A pattern that is matched in bounded time. One with very many stars becomes wider."""
    if pattern.count("*") <= _MOST_STARS:
        return pattern
    parts = []
    for part in pattern.split("/"):
        if part.count("*") > _MOST_STARS:
            first, last = part.index("*"), part.rindex("*")
            part = f"{part[:first]}*{part[last + 1 :]}"  # noqa: PLW2901
        parts.append(part)
    deep = [at for at, part in enumerate(parts) if part == "**"]
    if len(deep) > _MOST_STARS:
        parts = [*parts[: deep[0]], "**", *parts[deep[-1] + 1 :]]
    return "/".join(parts)


def rules_in(path: Path, folder: str) -> Rules | None:
    """The patterns of one file; None where there are none. A link is not followed, as in git."""
    if path.is_symlink():
        return None
    text = _text(path)
    return Rules(folder, patterns(_lines(text))) if text else None


def _text(path: Path, max_bytes: int = _MAX_BYTES) -> str | None:
    """A configuration's text; what is not valid UTF-8 in it does not lose the rest."""
    try:
        return decoded(read_bytes(path, max_bytes), "replace")
    except UnreadableError:
        return None


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.split("\n")]


@dataclass(frozen=True)
class Outer:
    """What lies around a root.

    Attributes:
        prefix: the root's path in its repository, with a "/" at its end; empty for the repository
            itself, and outside of any.
        rules: those that hold in the root, the weakest first.
        ignored: the root itself is ignored.
    """

    prefix: str
    rules: tuple[Rules, ...]
    ignored: bool


def outer_rules(root: Path) -> Outer:
    """The rules that the folders above a root, its repository and the user set for it."""
    repository = next((one for one in (root, *root.parents) if (one / ".git").exists()), None)
    if repository is None:
        return Outer("", (), ignored=False)
    found = [rules_in(path, "") for path in (*_users_files(repository), exclude_file(repository))]
    rules = [one for one in found if one is not None]
    parts = PurePosixPath(root.relative_to(repository).as_posix()).parts
    folder, ignored = "", False
    for part in parts:
        if (one := rules_in(repository / folder / ".gitignore", folder)) is not None:
            rules.append(one)
        folder += f"{part}/"
        ignored = ignored or is_ignored(folder, rules)
    return Outer(folder, tuple(rules), ignored)


def is_ignored(path: str, rules: Sequence[Rules]) -> bool:
    """Whether a path is ignored, given rules with the weakest first; folders end with "/"."""
    for one in reversed(rules):
        verdict = one.verdict(path)
        if verdict is not None:
            return verdict
    return False


def exclude_file(repository: Path) -> Path:
    """`info/exclude` of the repository with this work tree.

    In a linked work tree and in a submodule `.git` is a file that names the real folder; of a work
    tree that folder names the one that all share in `commondir` (gitrepository-layout(5)).
    """
    git = repository / ".git"
    text = None if git.is_dir() else _text(git, 4096)
    if text is not None and text.startswith("gitdir:"):
        git = repository / text.removeprefix("gitdir:").strip()
        common = _text(git / "commondir", 4096)
        if common is not None:
            git = git / common.strip()
    return git / "info" / "exclude"


def _users_files(repository: Path) -> Iterator[Path]:
    """The user's file of excludes: the last that a configuration names, or the default."""
    home = Path(os.environ.get("HOME") or Path.home())
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "git"
    named = os.environ.get("GIT_CONFIG_GLOBAL")
    files = [Path(named)] if named else [config / "config", home / ".gitconfig"]
    own = exclude_file(repository).parent.parent / "config"
    value = ""
    for file in (Path("/etc/gitconfig"), *files, own):
        value = _setting(file, home) or value
    yield Path(value) if value else config / "ignore"


def _setting(file: Path, home: Path, depth: int = 0) -> str:
    """`core.excludesFile` in a git configuration (git-config(1), "Syntax"), its includes read."""
    text = _text(file)
    section, value = "", ""
    for line in _lines(text or ""):
        line = line.strip()  # noqa: PLW2901
        if found := _SECTION.match(line):
            section = found[1].lower()
            line = line[found.end() :].strip()  # noqa: PLW2901
        elif line.startswith("["):
            section = ""
        if section == "core" and (found := _EXCLUDES_FILE.match(line)):
            value = _path(found[1], file, home)
        elif section == "include" and depth < _MOST_INCLUDES and (found := _INCLUDE.match(line)):
            value = _setting(Path(_path(found[1], file, home)), home, depth + 1) or value
    return value


def _path(value: str, file: Path, home: Path) -> str:
    value = value.strip()
    if value.startswith('"'):
        value = value[1:].split('"', 1)[0]
    else:
        value = re.split(r"\s[#;]", value, maxsplit=1)[0].strip()
    if value.startswith("~/"):
        return str(home / value[2:])
    return str(file.parent / value) if value else ""


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
