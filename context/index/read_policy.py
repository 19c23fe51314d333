"""Which files may be read: git's ignore rules, and the lists of secrets and of what is no source.

Order as in git (gitignore(5)): the `.gitignore` nearest to a file counts first, up to the root of
its repository, then the repository's `info/exclude`, then the user's file (`core.excludesFile`).
"""

from __future__ import annotations

import os
import re
import string
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath

import pathspec

from context.index.open_file import UnreadableError, decoded, read_bytes

_REPOSITORY = (".git", ".jj", ".sl")
"""What marks the root of a repository whose tool follows git's rules."""
_MAX_BYTES = 4 << 20
_MAX_PATTERNS = 100_000
_MAX_PATTERN_BYTES = 4096
_MOST_INCLUDES = 10
_HEADER = re.compile(r'\[\s*([\w.-]+)(?:\s+"((?:[^"\\]|\\.)*+)")?\s*\]')
_ENTRY = re.compile(r"(excludesfile|ignorecase|path|url)\s*(?:=(.*))?$", re.IGNORECASE)
_CONTINUED = re.compile(r"(?<!\\)((?:\\\\)*)\\\r?\n")
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b"}
_TRUE = {"true", "yes", "on", "1"}


class Patterns:
    """Patterns in .gitignore's form (gitignore(5)), matched as git does: byte by byte. Of those
    that match a path the last decides. Matching takes linear time, whatever the patterns are.
    """

    def __init__(self, lines: Sequence[str], *, fold_case: bool = False) -> None:
        """`fold_case`: case does not matter."""
        self._fold_case = fold_case
        self._kept: list[bool] = []  # of each pattern: it says that a path is not ignored
        self._plain: dict[tuple[bytes, bool, bool], int] = {}
        self._others: list[tuple[int, re.Pattern[bytes], bool, bool]] = []
        for line in lines[:_MAX_PATTERNS]:
            self._add(line.partition("\0")[0])
        self._others.reverse()

    def __bool__(self) -> bool:
        return bool(self._kept)

    def _add(self, line: str) -> None:
        if line.startswith("#"):
            return
        line = _without_trailing_blanks(line)
        kept, line = line.startswith("!"), line.removeprefix("!")
        pattern = (line.lower() if self._fold_case else line).encode("utf-8", "surrogateescape")
        if len(pattern) > _MAX_PATTERN_BYTES:
            return
        folders, pattern = pattern.endswith(b"/"), pattern.removesuffix(b"/")
        is_name, pattern = b"/" not in pattern, pattern.removeprefix(b"/")
        if not pattern:
            return
        at = len(self._kept)
        if not _GLOB.search(pattern):
            self._plain[pattern, is_name, folders] = at
        elif (regex := _glob(pattern, is_name, self._fold_case)) is not None:
            self._others.append((at, regex, is_name, folders))
        else:
            return
        self._kept.append(kept)

    def verdict(self, path: str) -> bool | None:
        """Whether a path is ignored, folders ending with "/"; None where no pattern matches it.
        The folders above it are not looked at."""
        is_folder = path.endswith("/")
        path = path.lower() if self._fold_case else path
        whole = path.strip("/").encode("utf-8", "surrogateescape")
        name = whole.rpartition(b"/")[2]
        found = max(
            self._plain.get((text, is_name, folders), -1)
            for text, is_name in ((name, True), (whole, False))
            for folders in ((False, True) if is_folder else (False,))
        )
        for at, regex, is_name, folders in self._others:
            if at < found:
                break
            if (is_folder or not folders) and regex.fullmatch(name if is_name else whole):
                found = at
                break
        return None if found < 0 else not self._kept[found]

    def ignores(self, path: str) -> bool:
        """Whether a path is ignored, or a folder above it."""
        above = path.strip("/").split("/")[:-1]
        folders = ("/".join(above[:count]) + "/" for count in range(1, len(above) + 1))
        return any(map(self.verdict, folders)) or bool(self.verdict(path))


def _without_trailing_blanks(line: str) -> str:
    """A line without the blanks at its end, of which one after a backslash stays."""
    text = line.rstrip(" ")
    escapes = len(text) - len(text.rstrip("\\"))
    return text + " " * (text != line and escapes % 2)


_GLOB = re.compile(rb"[*?\[\\]")
_STAR, _SLASH = b"*", b"/"
_SETS = {
    b"alnum": string.ascii_letters + string.digits,
    b"alpha": string.ascii_letters,
    b"blank": " \t",
    b"cntrl": "".join(map(chr, (*range(32), 127))),
    b"digit": string.digits,
    b"graph": "".join(map(chr, range(33, 127))),
    b"lower": string.ascii_lowercase,
    b"print": "".join(map(chr, range(32, 127))),
    b"punct": string.punctuation,
    b"space": " \t\n\v\f\r",
    b"upper": string.ascii_uppercase,
    b"xdigit": string.hexdigits,
}


def _glob(pattern: bytes, is_name: bool, fold_case: bool) -> re.Pattern[bytes] | None:
    """A regular expression for a whole name or path; None if the pattern can match nothing.

    What stands between two stars is taken at the first place where it fits, for good: a later one
    could only leave less for what follows.
    """
    found = _GLOB.search(pattern)
    plain = pattern[: found.start() if found is not None and not is_name else 0]
    try:
        parts = _parts(pattern[len(plain) :], fold_case)
    except ValueError:
        return None
    if is_name:
        return re.compile(_joined(parts[0]), re.DOTALL)
    # Git compares the plain start by itself, so that two stars after it begin a part.
    groups: list[list[bytes]] = [[]]  # of parts, with any number of folders between two groups
    for part in parts:
        if len(part) > 1 and set(part) == {_STAR}:
            groups.append([])
        else:
            groups[-1].append(_joined(part))
    first, *others = (b"/".join(group) for group in groups)
    if others:
        *middle, last = others
        first += b"/" * bool(first)
        first += b"".join(b"(?>(?:[^/]*/)*?%b/)" % group for group in middle if group)
        first += b"(?:.*/)?%b" % last if last else b".*"
    return re.compile(re.escape(plain) + first, re.DOTALL)


def _joined(part: list[bytes]) -> bytes:
    """A regular expression for one part of a path."""
    first, *others = (b"".join(run) for run in _split(part, _STAR))
    if not others:
        return first
    *middle, last = others
    return b"%b%b[^/]*%b" % (first, b"".join(b"(?>[^/]*?%b)" % run for run in middle if run), last)


def _split(items: Sequence[bytes], at: bytes) -> list[list[bytes]]:
    found: list[list[bytes]] = [[]]
    for item in items:
        if item == at:
            found.append([])
        else:
            found[-1].append(item)
    return found


def _parts(pattern: bytes, fold_case: bool) -> list[list[bytes]]:
    """The parts of a path's pattern: stars, and regular expressions of one byte each.

    Raises:
        ValueError: it matches nothing.
    """
    found: list[bytes] = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"\\":
            at += 1
            char = bytes((_byte(pattern, at),))
            found.append(char if char == _SLASH else re.escape(char))
        elif char == b"?":
            found.append(b"[^/]")
        elif char == b"[":
            members, at = _members(pattern, at + 1, fold_case)
            found.append(b"[%b]" % b"".join(b"\\x%02x" % one for one in sorted(members)))
        else:
            found.append(char if char in {_STAR, _SLASH} else re.escape(char))
        at += 1
    return _split(found, _SLASH)


def _members(pattern: bytes, at: int, fold_case: bool) -> tuple[set[int], int]:
    """The bytes of a bracket expression whose content begins at `at`, and the place of its end.

    Raises:
        ValueError: it matches nothing.
    """
    negated = pattern[at : at + 1] in {b"!", b"^"}
    at += negated
    found: set[int] = set()
    first, before = at, -1
    while at < len(pattern) and (at == first or pattern[at : at + 1] != b"]"):
        named = _NAMED_SET.match(pattern, at)
        is_range = pattern[at : at + 1] == b"-" and before >= 0
        if is_range and pattern[at + 1 : at + 2] not in {b"", b"]"}:
            at += 1 + (pattern[at + 1 : at + 2] == b"\\")
            found.update(range(before, _byte(pattern, at) + 1))
            before = -1
        elif named is not None:
            name = b"alpha" if fold_case and named[1] in {b"upper", b"lower"} else named[1]
            if name not in _SETS:
                raise ValueError
            found.update(_SETS[name].encode())
            before, at = -1, named.end() - 1
        else:
            at += pattern[at : at + 1] == b"\\"
            before = _byte(pattern, at)
            found.add(before)
        at += 1
    found = (set(range(256)) - found if negated else found) - {ord("/")}
    if at >= len(pattern) or not found:
        raise ValueError
    return found, at


_NAMED_SET = re.compile(rb"\[:([^\]]*):\]")


def _byte(pattern: bytes, at: int) -> int:
    if at >= len(pattern):
        raise ValueError
    return pattern[at]


@dataclass(frozen=True)
class Rules:
    """The patterns of one file, for what is below `folder` (relative to the walked root's
    repository, with a "/" at its end, or empty)."""

    folder: str
    patterns: Patterns

    def verdict(self, path: str) -> bool | None:
        """Whether a path below the folder is ignored; None where no pattern says anything."""
        return self.patterns.verdict(path[len(self.folder) :])


def rules_in(
    path: Path, folder: str, *, fold_case: bool = False, follows: bool = True
) -> Rules | None:
    """The patterns of one file; None where there are none.

    Args:
        fold_case: case does not matter (`core.ignoreCase`, which git sets where file names have
            none).
        follows: whether a link is followed; git follows none that is called `.gitignore` in a
            work tree.
    """
    if not follows and path.is_symlink():
        return None
    text = _text(path)
    if not text:
        return None
    return Rules(folder, Patterns(_lines(text), fold_case=fold_case))


def _text(path: Path, max_bytes: int = _MAX_BYTES) -> str | None:
    """A configuration's text; what is not valid UTF-8 in it does not lose the rest."""
    try:
        data = read_bytes(path, max_bytes)
    except UnreadableError:
        return None
    try:
        return decoded(data, "surrogateescape")
    except UnreadableError:
        return data.decode("utf-8", "surrogateescape")


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
        repository: where it is; None outside of any.
    """

    prefix: str
    rules: tuple[Rules, ...]
    ignored: bool
    folds_case: bool = False
    repository: Path | None = None

    def tracks(self, path: str) -> bool:
        """Whether git tracks a path below the root, or something in a folder that ends with "/":
        no pattern ignores such a file."""
        return self.repository is not None and self.prefix + path in tracked(self.repository)


def outer_rules(root: Path) -> Outer:
    """The rules that the folders above a root, its repository and the user set for it."""
    marked = (one for one in (root, *root.parents) if any((one / x).exists() for x in _REPOSITORY))
    repository = next(marked, None)
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
        own = rules_in(
            repository / folder / ".gitignore", folder, fold_case=fold_case, follows=False
        )
        if own is not None:
            rules.append(own)
        folder += f"{part}/"
        ignored = ignored or is_ignored(folder, rules)
    return Outer(folder, tuple(rules), ignored, fold_case, repository)


def tracked(repository: Path) -> frozenset[str]:
    """The files that git tracks in a work tree, and the folders of these, which end with "/".

    Empty where its index cannot be read.
    """
    file = _git_folder(repository) / "index"
    try:
        status = file.stat()
    except OSError:
        return frozenset()
    return _tracked(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _tracked(file: Path, _mtime_ns: int, _size_bytes: int) -> frozenset[str]:
    try:
        data = read_bytes(file, _MOST_INDEX_BYTES)
        sha256 = _SHA256.search(_text(file.with_name("config")) or "")
        names = [name.decode("utf-8", "surrogateescape") for name in _names(data, bool(sha256))]
    except (UnreadableError, ValueError, IndexError, struct.error):
        return frozenset()
    found: set[str] = set()
    for name in names:
        folder = name.rpartition("/")[0]
        while folder and f"{folder}/" not in found:
            found.add(f"{folder}/")
            folder = folder.rpartition("/")[0]
    return frozenset(found.union(names))


_MOST_INDEX_BYTES = 64 << 20
_SHA256 = re.compile(r"objectformat\s*=\s*sha256", re.IGNORECASE)
_EXTENDED = 0x4000


def _names(data: bytes, sha256: bool) -> Iterator[bytes]:
    """The paths in git's index, of version 2 to 4 (gitformat-index(5)).

    Raises:
        ValueError, IndexError, struct.error: it is cut off or of another form.
    """
    mark, version, count = struct.unpack_from(">4sII", data)
    if mark != b"DIRC" or version not in {2, 3, 4}:
        raise ValueError
    at, name = 12, b""
    for _ in range(count):
        start = at
        at += 40 + (32 if sha256 else 20)
        (flags,) = struct.unpack_from(">H", data, at)
        at += 4 if version > 2 and flags & _EXTENDED else 2
        if version == 4:
            drop, at = _offset(data, at)
            end = data.index(b"\0", at)
            name = name[: len(name) - drop] + data[at:end]
            at = end + 1
        else:
            end = data.index(b"\0", at)
            name = data[at:end]
            at = start + (end - start + 8) // 8 * 8
        yield name


def _offset(data: bytes, at: int) -> tuple[int, int]:
    """A number in git's variable width, and the place behind it."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = (value + 1) << 7 | data[at] & 0x7F
    return value, at + 1


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
    git = _git_folder(repository)
    common = _text(git / "commondir", 4096) if git != repository / ".git" else None
    return git / (common or "").strip() / "info" / "exclude"


def _git_folder(repository: Path) -> Path:
    """What `.git` is, or where it leads to."""
    git = repository / ".git"
    text = None if git.is_dir() else _text(git, 4096)
    if text is None or not text.startswith("gitdir:"):
        return git
    return repository / text.removeprefix("gitdir:").strip()


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
    for file in (*_system_files(), *files, git / "config"):
        found |= _core_in(file, (repository / ".git", git))
    return found


def _system_files() -> Iterator[Path]:
    """The configurations of the system: where git's packages for Linux and macOS keep them."""
    if os.environ.get("GIT_CONFIG_NOSYSTEM", "").lower() in _TRUE:
        return
    if named := os.environ.get("GIT_CONFIG_SYSTEM"):
        yield Path(named)
        return
    for folder in ("/etc", "/usr/local/etc", "/opt/homebrew/etc"):
        yield Path(folder, "gitconfig")


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


def _remote_urls(file: Path) -> Iterator[str]:
    """The addresses of a repository's remotes; those that included files name do not count."""
    section = ""
    for line in _lines(_CONTINUED.sub(r"\1", _text(file) or "")):
        line = line.strip()  # noqa: PLW2901
        if header := _HEADER.match(line):
            section = header[1].lower()
            line = line[header.end() :].strip()  # noqa: PLW2901
        entry = _ENTRY.match(line) if section == "remote" else None
        if entry is not None and entry[1].lower() == "url" and entry[2] is not None:
            yield _value(entry[2])


def _holds(condition: str, file: Path, gits: Sequence[Path]) -> bool:
    """Whether a condition of `includeIf` holds; git's `gitdir`, `onbranch` and `hasconfig` are
    known."""
    kind, _, pattern = condition.partition(":")
    if kind == "hasconfig":
        name, _, pattern = pattern.partition(":")
        known = Patterns([f"/{pattern}"])
        urls = _remote_urls(gits[-1] / "config") if name.lower() == "remote.*.url" else ()
        return bool(pattern) and any(known.verdict(url) for url in urls)
    if kind == "onbranch":
        head = (_text(_git_folder(gits[0].parent) / "HEAD", 4096) or "").strip()
        branch = head.removeprefix("ref: refs/heads/")
        pattern = f"/{pattern}" + "**" * pattern.endswith("/")
        return branch != head and bool(Patterns([pattern]).verdict(branch))
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
    known = Patterns([pattern])
    return any(map(known.verdict, paths))


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
    if value.startswith("~"):
        return os.path.expanduser(value)  # noqa: PTH111 - it raises nothing for unknown users
    return str(file.parent / value) if value else ""


@cache
def _spec(name: str) -> pathspec.GitIgnoreSpec:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return pathspec.GitIgnoreSpec.from_lines(lines)


_COPY = re.compile(r"(?:~|\.(?:bak|backup|old|orig|save|swp|tmp|copy|gpg|enc|\d{1,8}))\Z")


@lru_cache(maxsize=4096)
def is_secret(path: str) -> bool:
    """Whether a file's path (any form, `/` between parts) is on the list of secrets, or that of the
    file that it is a copy of; case does not matter."""
    name = path.lstrip("/").lower()
    spec = _spec("secrets.gitignore")
    return spec.match_file(name) or (
        (original := _COPY.sub("", name)) != name and spec.match_file(original)
    )


def hidden_part(root: Path) -> str:
    """The end of a folder's path from its first hidden folder on, with a "/" at its end; empty
    where no part is hidden. Names on the list of secrets may begin there: `.ssh/config`."""
    parts = root.parts
    first = next((at for at, part in enumerate(parts) if part[:1] == "." and part[1:]), None)
    return "".join(f"{part}/" for part in parts[first:]) if first is not None else ""


def is_skipped(path: str) -> bool:
    """Whether a path is never source: version control, caches, installed packages, lock files."""
    return _spec("skipped.gitignore").match_file(path)
