"""Which files may be read: git's ignore rules, and the lists of secrets and of what is no source.

Order as in git (gitignore(5)): the `.gitignore` nearest to a file counts first, up to the root of
its repository, then the repository's `info/exclude`, then the user's file (`core.excludesFile`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pathspec

from context.index.open_file import UnreadableError, decoded, read_bytes

_MAX_BYTES = 1 << 20
_MAX_PATTERNS = 5000
_MOST_STARS = 3  # in one part of a path: each more may cost as much again as the name is long
_MOST_INCLUDES = 10
_HEADER = re.compile(r'\[\s*([\w.-]+)(?:\s+"((?:[^"\\]|\\.)*+)")?\s*\]')
_ENTRY = re.compile(r"(excludesfile|ignorecase|path)\s*(?:=(.*))?$", re.IGNORECASE)
_CONTINUED = re.compile(r"(?<!\\)((?:\\\\)*)\\\r?\n")
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b"}
_TRUE = {"true", "yes", "on", "1"}


@dataclass(frozen=True)
class Rules:
    """The patterns of one file, for what is below `folder` (relative to the walked root's
    repository, with a "/" at its end, or empty); with `folds_case` they are in lower case."""

    folder: str
    spec: pathspec.GitIgnoreSpec
    folds_case: bool = False

    def verdict(self, path: str) -> bool | None:
        """Whether a path below the folder is ignored; None where no pattern says anything."""
        below = path[len(self.folder) :]
        return self.spec.check_file(below.lower() if self.folds_case else below).include


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


def rules_in(path: Path, folder: str, *, fold_case: bool = False) -> Rules | None:
    """The patterns of one file; None where there are none. A link is not followed, as in git.

    Args:
        fold_case: case does not matter (`core.ignoreCase`, which git sets where file names have
            none).
    """
    if path.is_symlink():
        return None
    text = _text(path)
    if not text:
        return None
    return Rules(folder, patterns(_lines(text.lower() if fold_case else text)), fold_case)


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
        folds_case: the case of names does not matter in the repository.
    """

    prefix: str
    rules: tuple[Rules, ...]
    ignored: bool
    folds_case: bool = False


def outer_rules(root: Path) -> Outer:
    """The rules that the folders above a root, its repository and the user set for it."""
    repository = next((one for one in (root, *root.parents) if (one / ".git").exists()), None)
    if repository is None:
        return Outer("", (), ignored=False)
    core = _core_settings(repository)
    fold_case = core.get("ignorecase", "").lower() in _TRUE
    files = (*_users_files(core), exclude_file(repository))
    found = [rules_in(path, "", fold_case=fold_case) for path in files]
    rules = [one for one in found if one is not None]
    parts = PurePosixPath(root.relative_to(repository).as_posix()).parts
    folder, ignored = "", False
    for part in parts:
        own = rules_in(repository / folder / ".gitignore", folder, fold_case=fold_case)
        if own is not None:
            rules.append(own)
        folder += f"{part}/"
        ignored = ignored or is_ignored(folder, rules)
    return Outer(folder, tuple(rules), ignored, fold_case)


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


def _users_files(core: Mapping[str, str]) -> Iterator[Path]:
    """The user's file of excludes: the one that a configuration names, or the default."""
    if "excludesfile" not in core:
        yield _config_folder() / "ignore"
    elif core["excludesfile"]:
        yield Path(core["excludesfile"])


def _home() -> Path:
    return Path(os.environ.get("HOME") or Path.home())


def _config_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or _home() / ".config") / "git"


def _core_settings(repository: Path) -> dict[str, str]:
    """`excludesfile` and `ignorecase` of git's section `core`, where set: the last counts."""
    named = os.environ.get("GIT_CONFIG_GLOBAL")
    files = [Path(named)] if named else [_config_folder() / "config", _home() / ".gitconfig"]
    git = exclude_file(repository).parent.parent
    found: dict[str, str] = {}
    for file in (Path("/etc/gitconfig"), *files, git / "config"):
        found |= _core_in(file, (repository / ".git", git))
    return found


def _core_in(file: Path, gits: Sequence[Path], depth: int = 0) -> dict[str, str]:
    """The same in one configuration (git-config(1), "Syntax"), its includes read.

    Args:
        gits: the repository's `.git`, and where that leads to.
    """
    found: dict[str, str] = {}
    section, condition = "", ""
    for line in _lines(_CONTINUED.sub(r"\1", _text(file) or "")):
        line = line.strip()  # noqa: PLW2901
        if header := _HEADER.match(line):
            section, condition = header[1].lower(), header[2] or ""
            line = line[header.end() :].strip()  # noqa: PLW2901
        entry = _ENTRY.match(line)
        if entry is None:
            continue
        key, value = entry[1].lower(), "true" if entry[2] is None else _value(entry[2])
        if section == "core" and key == "ignorecase":
            found[key] = value
        elif section == "core" and key == "excludesfile":
            found[key] = _path(value, file)
        elif (
            key == "path"
            and depth < _MOST_INCLUDES
            and (section == "include" or (section == "includeif" and _holds(condition, file, gits)))
        ):
            found |= _core_in(Path(_path(value, file)), gits, depth + 1)
    return found


def _holds(condition: str, file: Path, gits: Sequence[Path]) -> bool:
    """Whether a condition of `includeIf` holds; of those only `gitdir` is known."""
    kind, _, pattern = condition.partition(":")
    if kind not in {"gitdir", "gitdir/i"} or not pattern:
        return False
    if pattern.startswith(("~/", "./")):
        start = _home() if pattern[0] == "~" else file.parent
        pattern = f"{start.as_posix()}/{pattern[2:]}"
    elif not pattern.startswith("/") and pattern[1:2] != ":":
        pattern = f"**/{pattern}"
    pattern += "**" if pattern.endswith("/") else ""
    paths = [
        path.as_posix().lstrip("/") for one in gits for path in (one, Path(os.path.realpath(one)))
    ]
    if kind == "gitdir/i":
        pattern, paths = pattern.lower(), [path.lower() for path in paths]
    spec = patterns([pattern])
    return any(map(spec.match_file, paths))


def _value(raw: str) -> str:
    """A value of a configuration without its quotes, escapes and comment."""
    made: list[str] = []
    quoted = False
    chars = iter(raw.strip())
    for char in chars:
        if char == "\\":
            escaped = next(chars, "")
            made.append(_ESCAPES.get(escaped, escaped))
        elif char == '"':
            quoted = not quoted
        elif char in "#;" and not quoted:
            break
        else:
            made.append(char)
    return "".join(made).strip()


def _path(value: str, file: Path) -> str:
    if value == "~" or value.startswith("~/"):
        return str(_home() / value[2:])
    return str(file.parent / value) if value else ""


@cache
def _spec(name: str) -> pathspec.GitIgnoreSpec:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return pathspec.GitIgnoreSpec.from_lines(lines)


_COPY = re.compile(r"(?:~|\.(?:bak|backup|old|orig|save|swp|tmp|copy|gpg|enc|\d{1,8}))\Z")


def is_secret(path: str) -> bool:
    """Whether a file's path (any form, `/` between parts) is on the list of secrets, or that of the
    file that it is a copy of; case does not matter."""
    name = path.lstrip("/").lower()
    spec = _spec("secrets.gitignore")
    return spec.match_file(name) or (
        (original := _COPY.sub("", name)) != name and spec.match_file(original)
    )


def is_skipped(path: str) -> bool:
    """Whether a path is never source: version control, caches, installed packages, lock files."""
    return _spec("skipped.gitignore").match_file(path)
