"""Which files may be read: git's ignore rules, links, encodings, and names of secrets."""

# ruff: noqa: E501

from __future__ import annotations

import codecs
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from toy_counter import ToyCounter

import context
from context import FimLayout
from context.index.open_file import UnreadableError, inside, open_text, read_text
from context.index.project_index import Index
from context.index.read_policy import is_secret, is_skipped
from context.index.walk import Walk


def write(root: Path, files: Any) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        data = text if isinstance(text, bytes) else text.encode()
        (root / path).write_bytes(data)


def walked(root: Path) -> Any:
    return {found.path for found in Walk(root).files()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own for git's configuration."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def repository(tmp_path: Path, home: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


FILES = ("app/a.py", "app/private/x.py", "app/sub/deep/y.py", "app/sub/kept.log", "private/z.py")


@pytest.mark.parametrize("opened", ["", "app", "app/sub", "app/private", "private"])
@pytest.mark.parametrize(
    ("where", "lines"),
    [
        (".gitignore", "private/\n"),
        (".gitignore", "/app/private\n"),
        (".gitignore", "*.log\n!app/sub/kept.log\n"),
        (".gitignore", "deep/\n"),
        ("app/.gitignore", "private\n"),
        ("app/.gitignore", "/sub/deep\n"),
        (".git/info/exclude", "private/\n"),
        ("../home/.config/git/ignore", "private/\n"),
        (".gitignore", "*\n!app/\n!app/**\n"),
    ],
)
def test_rules_of_the_whole_repository_count(
    repository: Path, opened: Any, where: Any, lines: Any
) -> None:
    """C3: a folder inside a repository follows the rules of all folders above it, as git does."""
    write(repository, dict.fromkeys(FILES, "x = 1\n"))
    write(repository, {where: lines})
    root = repository / opened
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert walked(root) == set(listed)
    for path in FILES:
        if Path(path).is_relative_to(opened):
            inner = Path(path).relative_to(opened).as_posix()
            assert Walk(root).allows(inner) == (inner in listed)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".gitconfig", "[core]\n\texcludesFile = ~/mine\n"),
        (".gitconfig", '[user]\n\tname = x\n[Core]\n  excludesfile = "~/mine" ; mine\n'),
        (".config/git/config", "[core] excludesFile = ~/mine\n"),
        (".gitconfig", "[include]\n\tpath = more.inc\n"),
        (".gitconfig", "\ufeff[core]\n\texcludesFile = mine\n"),
        (".gitconfig", "[core]\n\texcludesFile = ~/\\\n\tmine\n".replace("\tmine", "mine")),
        (".gitconfig", "[core]\r\n\texcludesFile = ~/mine# mine\r\n"),
        (".gitconfig", '[core]\n\texcludesFile = "~/m"ine\n'),
        (
            ".gitconfig",
            "[core]\n\teditor = vi\n\texcludesFile = ~/other\n\texcludesfile = ~/mine\n",
        ),
        (
            ".gitconfig",
            '[includeIf "gitdir:~/../repository/"]\n\tpath = more.inc\n'.replace("~/..", "**"),
        ),
        (".gitconfig", '[includeIf "gitdir:repository/"]\n\tpath = more.inc\n'),
        (".gitconfig", '[includeIf "gitdir/i:REPOSITORY/.git"]\n\tpath = more.inc\n'),
        (
            ".gitconfig",
            '[includeIf "gitdir:./../repository/"]\n\tpath = more.inc\n'.replace("./..", "**"),
        ),
    ],
)
def test_the_users_own_file_counts(repository: Path, home: Path, file: Any, text: str) -> None:
    """C3: `core.excludesFile`, wherever the configuration names it."""
    write(home, {file: text, "mine": "notes.py\n"})
    write(home, {"more.inc": "[core]\n\texcludesFile = ~/mine\n"})
    write(repository, {"a.py": "a = 1\n", "notes.py": "n = 1\n"})
    assert walked(repository) == {"a.py"}


@pytest.mark.parametrize(
    "text",
    [
        '[includeIf "gitdir:elsewhere/"]\n\tpath = more.inc\n',
        '[includeIf "onbranch:x"]\n\tpath = more.inc\n',
        "[core]\n\texcludesFile = ~/mine\n\texcludesFile =\n",
        '[core "x"]\n\tpath = ~/mine\n',
        "# [core] excludesFile = ~/mine\n",
    ],
)
def test_what_does_not_hold_in_a_repository_does_not_count(
    repository: Path, home: Path, text: str
) -> None:
    """C3: conditions of includes, and an empty value, which names no file."""
    write(
        home, {".gitconfig": text, "mine": "*.py\n", "more.inc": "[core]\nexcludesFile = ~/mine\n"}
    )
    write(repository, {"a.py": "a = 1\n"})
    assert walked(repository) == {"a.py"}


@pytest.mark.parametrize("where", [".gitignore", "app/.gitignore", ".git/info/exclude"])
@pytest.mark.parametrize("ignores_case", [True, False])
def test_case_counts_where_it_does_for_git(
    repository: Path, where: str, ignores_case: bool
) -> None:
    """C3: git sets `core.ignoreCase` on file systems whose names have no case."""
    config = ["git", "-C", str(repository), "config", "core.ignoreCase", str(ignores_case).lower()]
    subprocess.run(config, check=True)
    write(repository, {"app/private/x.py": "x\n", "app/Notes.py": "x\n", "app/kept.py": "x\n"})
    write(repository, {where: "Private/\nNOTES.*\n"})
    found = {path for path in walked(repository) if path.endswith(".py")}
    hidden = {"app/private/x.py", "app/Notes.py"}
    assert found == {"app/kept.py"} | (set() if ignores_case else hidden)
    for path in hidden:
        assert Walk(repository).allows(path) == (not ignores_case)


NAMES = [
    "a.py",
    "x1.py",
    "xa.py",
    "x].py",
    "x-y.py",
    "[k].py",
    "a b.py",
    " lead.py",
    "#x.py",
    "!y.py",
    "back\\s.py",
    "q?.py",
    "star*.py",
    "Foo.py",
    "é.py",
    "trail ",
    "foo",
    "xé.py",
]
PATTERNS = [
    "a.py\t", "a.py ", "a.py\\ ", "trail", "trail\\ ", "[!a].py", "[^a].py", "?.py", "??.py", "[é].py", "x[[:digit:]].py",
    "x[[:alpha:]].py", "[[:space:]]lead.py", "[[:upper:]]oo.py", "x[[:nothing:]].py", "x[[:digit].py", "x[]]*.py",
    "x[\\]].py", "x[^]].py", "x[!]].py", "x[]-a].py", "x[+--]y.py", "x[a-].py", "[z-a].py", "[[]k].py", "\\[k\\].py",
    "[abc", "a.py\\", "\\", "/", "!", "//", "./a.py", "app//a.py", "\\#x.py", "\\!y.py", "back\\\\s.py", "back\\s.py", "q\\?.py",
    "star\\*.py", "star[*].py", "**", "/**", "***", "**/**", "app**/a.py", "a**", "ap*/**/a.py", "app/**/a.py", "app/sub/**/",
    "**/sub/", "sub/**", "app\\/a.py", "*/a.py", "*/*/a.py", "/*\n!/app", "*\n!*/\n!*.py", "app/*\n!app/sub/", "foo/", "FOO",
    "x[9-0].py", "x[\\1-\\2].py", "*[!a-z].py", "[A-Z]*", "a.py\0b", "a\0\nfoo", "é*",
]  # fmt: skip


@pytest.mark.parametrize("ignores_case", ["false", "true"])
def test_patterns_mean_what_they_do_for_git(repository: Path, ignores_case: str) -> None:
    """C3: classes, ranges, escapes, stars and blanks, and broken patterns, which match nothing."""
    config = ["git", "-C", str(repository), "config", "core.ignoreCase", ignores_case]
    subprocess.run(config, check=True)
    for folder in ("", "app/", "app/sub/", "lib/foo/"):
        for name in NAMES:
            if not (repository / folder / name).exists():
                write(repository, {folder + name: "x\n"})
    for pattern in PATTERNS:
        write(repository, {".gitignore": f"{pattern}\n"})
        command = ["git", "-C", str(repository), "ls-files", "-z", "--others", "--exclude-standard"]
        listed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
        assert walked(repository) == set(listed.split("\0")) - {""}, pattern


def test_links_to_files_of_excludes_are_followed(repository: Path, home: Path) -> None:
    """C3: as git does, but for a `.gitignore` in the work tree."""
    write(
        home,
        {"dotfiles/ignore": "mine.py\n", "dotfiles/exclude": "ours.py\n", "dotfiles/x": "*.py\n"},
    )
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").symlink_to(home / "dotfiles/ignore")
    (repository / ".git/info/exclude").unlink(missing_ok=True)
    (repository / ".git/info/exclude").symlink_to(home / "dotfiles/exclude")
    (repository / ".gitignore").symlink_to(home / "dotfiles/x")
    write(repository, {f"{name}.py": "x\n" for name in ("mine", "ours", "kept")})
    assert {path for path in walked(repository) if path.endswith(".py")} == {"kept.py"}


@pytest.mark.parametrize(
    ("variable", "branch", "shown"),
    [("", "work", False), ("", "other", True), ("GIT_CONFIG_SYSTEM", "other", False)],
)
def test_where_a_configuration_holds(
    repository: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    branch: str,
    shown: bool,
) -> None:
    """C3: on one branch only, or for the whole system."""
    write(home, {".gitconfig": '[includeIf "onbranch:wo*"]\n\tpath = more.inc\n', "mine": "a.py\n"})
    write(home, {"more.inc": "[core]\n\texcludesFile = ~/mine\n"})
    if variable:
        monkeypatch.setenv(variable, str(home / "more.inc"))
    write(repository, {"a.py": "a\n", ".git/HEAD": f"ref: refs/heads/{branch}\n"})
    assert walked(repository) == ({"a.py"} if shown else set())


@pytest.mark.parametrize("version", ["2", "3", "4"])
def test_what_git_tracks_is_not_ignored(repository: Path, version: str) -> None:
    """C3: patterns are for files that git does not track; in every version of its index."""
    git = ["git", "-C", str(repository)]
    write(
        repository, {".gitignore": "*.gen.py\nprivate/\n!deep/\n", "a.py": "a\n", "b.gen.py": "b\n"}
    )
    write(repository, {"c.gen.py": "c\n", "private/kept.py": "k\n", "private/own.py": "o\n"})
    write(repository, {"private/deep/kept.py": "k\n", "private/deep/own.py": "o\n"})
    write(repository, {"private/.gitignore": "!own.py\n", "other/private/x.py": "x\n"})
    names = ["a.py", "b.gen.py", "private/kept.py", "private/deep/kept.py"]
    subprocess.run([*git, "add", "-f", *names], check=True)
    if version == "3":  # what is to be added makes it that
        subprocess.run([*git, "add", "-N", "-f", "c.gen.py"], check=True)
    subprocess.run([*git, "update-index", "--index-version", version], check=True)
    shown = {*names, *(["c.gen.py"] if version == "3" else [])}
    assert walked(repository) - {".gitignore"} == shown
    walk = Walk(repository)
    assert all(map(walk.allows, shown))
    assert not walk.allows("private/own.py") and not walk.allows("private/deep/own.py")
    assert not walk.allows("other/private/x.py")
    inner = Walk(repository / "private")
    assert {found.path for found in inner.files()} == {"kept.py", "deep/kept.py"}
    assert inner.allows("deep/kept.py") and not inner.allows("own.py")
    deeper = Walk(repository / "private" / "deep")
    assert {found.path for found in deeper.files()} == {"kept.py"}


@pytest.mark.parametrize("damage", [b"", b"DIRC", b"DIRC\0\0\0\2\0\0\1\0", b"junk" * 100])
def test_an_index_that_cannot_be_read_tracks_nothing(repository: Path, damage: bytes) -> None:
    """C3: then patterns ignore what they name."""
    write(repository, {".gitignore": "*.gen.py\n", "a.py": "a\n", "b.gen.py": "b\n"})
    subprocess.run(["git", "-C", str(repository), "add", "-f", "b.gen.py"], check=True)
    (repository / ".git" / "index").write_bytes(damage)
    assert walked(repository) - {".gitignore"} == {"a.py"}
    (repository / ".git" / "index").unlink()
    assert walked(repository) - {".gitignore"} == {"a.py"}


@pytest.mark.parametrize("name", ["bare.git", "mirror", "deep/er/bare", ".git.bak"])
def test_a_bare_repository_is_no_source(repository: Path, name: str) -> None:
    """C25: git's own folder is left out by what is in it, whatever it is called."""
    write(repository, {"a.py": "a\n", "objects/x.py": "x\n", "refs/y.py": "y\n"})
    subprocess.run(["git", "init", "-q", "--bare", str(repository / name)], check=True)
    assert walked(repository) == {"a.py", "objects/x.py", "refs/y.py"}
    walk = Walk(repository)
    assert not walk.allows(f"{name}/config") and not walk.allows(f"{name}/hooks/x.py")
    assert walk.allows("objects/x.py")
    assert walked(repository / name) == set()


@pytest.mark.parametrize(
    "tool", [".hg", ".jj", ".svn", ".bzr", "_darcs", ".pijul", "CVS", ".sl", ".repo"]
)
def test_the_folders_of_other_tools_are_no_source(repository: Path, tool: str) -> None:
    """C25: at the root and in a repository inside."""
    write(repository, {"a.py": "a\n", f"{tool}/store/x.py": "x\n"})
    write(repository, {f"in/{tool}/store/x.py": "x\n", "in/b.py": "b\n"})
    assert walked(repository) == {"a.py", "in/b.py"}
    assert not Walk(repository).allows(f"in/{tool}/store/x.py")


def test_a_linked_work_tree_has_its_own_index(repository: Path, tmp_path: Path) -> None:
    """C3, C25: what is tracked there is not ignored there."""
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    write(repository, {".gitignore": "*.gen.py\n", "b.gen.py": "b\n"})
    subprocess.run([*git, "add", "-f", ".gitignore", "b.gen.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    tree = tmp_path / "tree"
    subprocess.run([*git, "worktree", "add", "-q", str(tree)], check=True)
    write(tree, {"c.gen.py": "c\n"})
    assert walked(tree) == {".gitignore", "b.gen.py"}


@pytest.mark.parametrize(
    ("condition", "shown"),
    [
        ("hasconfig:remote.*.url:https://example.org/**", False),
        ("hasconfig:remote.*.url:https://example.org/harbour/quay.git", False),
        ("hasconfig:remote.*.url:https://*.org/*/quay.git", False),
        ("hasconfig:remote.*.url:https://example.com/**", True),
        ("hasconfig:remote.*.url:", True),
        ("hasconfig:remote.*.pushurl:https://example.org/**", True),
        ("hasconfig:", True),
    ],
)
def test_an_include_may_depend_on_a_remote(
    repository: Path, home: Path, condition: str, shown: bool
) -> None:
    """C3: as git itself decides."""
    git = ["git", "-C", str(repository)]
    url = "https://example.org/harbour/quay.git"
    subprocess.run([*git, "remote", "add", "origin", url], check=True)
    write(home, {".gitconfig": f'[includeIf "{condition}"]\n\tpath = more.inc\n', "mine": "a.py\n"})
    write(home, {"more.inc": "[core]\n\texcludesFile = ~/mine\n"})
    write(repository, {"a.py": "a\n"})
    assert walked(repository) == ({"a.py"} if shown else set())
    if condition.endswith(("/**", ".git")) and "push" not in condition:
        found = subprocess.run([*git, "check-ignore", "a.py"], check=False, capture_output=True)
        assert (found.returncode == 1) is shown


def test_long_lists_of_patterns_are_read_to_their_end(repository: Path) -> None:
    """C3, C4: a list that a program wrote, with a null character in it."""
    lines = [f"build/{number}.py" for number in range(60_000)]
    write(repository, {".gitignore": "\n".join(["\0", *lines, "last.py", "*.log"])})
    write(repository, {"last.py": "x\n", "kept.py": "x\n", "build/59999.py": "x\n", "a.log": "x\n"})
    assert walked(repository) - {".gitignore"} == {"kept.py"}


def test_a_configuration_that_includes_itself_ends(repository: Path, home: Path) -> None:
    """C3: includes are bounded."""
    write(home, {".gitconfig": "[include]\n\tpath = .gitconfig\n"})
    write(repository, {"a.py": "a = 1\n"})
    assert walked(repository) == {"a.py"}


def test_repositories_inside_have_their_own_exclude_files(repository: Path, tmp_path: Path) -> None:
    """C3: a nested repository, a submodule and a linked work tree each have an `info/exclude`."""
    nested = repository / "nested"
    subprocess.run(["git", "init", "-q", str(nested)], check=True)
    write(nested, {".git/info/exclude": "hidden.py\n", "hidden.py": "h = 1\n", "b.py": "b = 1\n"})
    write(repository, {"a.py": "a = 1\n"})
    assert walked(repository) == {"a.py", "nested/b.py"}
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    tree = tmp_path / "tree"
    subprocess.run([*git, "worktree", "add", "-q", str(tree)], check=True)
    write(repository, {".git/info/exclude": "hidden.py\n"})
    write(tree, {"hidden.py": "h = 1\n", "c.py": "c = 1\n"})
    assert walked(tree) == {"c.py"}, "C25: its `.git` is a file, and no source"


def test_an_ignore_file_in_utf_16_is_read(repository: Path) -> None:
    """C4: as a shell on Windows writes it."""
    write(repository, {".gitignore": "first.py\r\nlast.py\r\n".encode("utf-16")})
    write(repository, {f"{name}.py": "x = 1\n" for name in ("first", "last", "kept")})
    assert {path for path in walked(repository) if path.endswith(".py")} == {"kept.py"}


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, b""])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("where", [".gitignore", "sub/.gitignore", ".git/info/exclude"])
def test_ignore_files_are_read_as_they_are_written(
    repository: Path, mark: Any, end: Any, where: Any
) -> None:
    """C4: a byte order mark, CRLF and bytes that are not UTF-8 lose no pattern."""
    lines = (b"first.py", b"# \xe9t\xe9", b"[broken", b"last.py")
    write(repository, {where: mark + end.join(lines) + end})
    write(repository, {f"sub/{name}.py": "x = 1\n" for name in ("first", "last", "kept")})
    assert {path for path in walked(repository) if path.endswith(".py")} == {"sub/kept.py"}


@pytest.mark.parametrize(
    "pattern", ["*a" * 40 + "b", "**/" * 40 + "b", "a*" * 40 + "/b", "?" * 300]
)
def test_patterns_of_others_cost_little(repository: Path, pattern: Any) -> None:
    """T1: a pattern of somebody's .gitignore is matched in bounded time, whatever it is."""
    write(repository, {".gitignore": pattern + "\n", "a" * 200 + ".py": "x = 1\n"})
    write(repository, {f"{'aa/' * 30}c.py": "x = 1\n"})
    assert len(walked(repository)) in {2, 3}


VCS = [
    ".git",
    ".hg",
    ".svn",
    ".jj",
    ".bzr",
    ".pijul",
    "_darcs",
    ".sl",
    ".repo",
    "_FOSSIL_",
    ".fslckout",
    ".fossil",
]


@pytest.mark.parametrize("name", VCS)
def test_version_control_is_no_source_as_folder_or_file(name: str) -> None:
    """C25: in a linked work tree `.git` is a file, and other tools have such files too."""
    assert is_skipped(name) and is_skipped(f"{name}/config") and is_skipped(f"sub/{name}")
    assert not is_skipped(f"x{name}.py")


@pytest.mark.parametrize(
    "names",
    [
        (".env", "settings-dev"),
        ("id_rsa", "config.txt"),
        ("plain.txt", ".env"),
        ("plain.txt", "keys/server.pem"),
        ("folder/config", "home/.ssh/config"),
        ("a.txt", "b.txt", ".env", "settings-dev"),
    ],
)
def test_every_name_of_a_link_counts(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path, names: Any
) -> None:
    """C5: a file is hidden if any name is secret: its own, a link's on the way, or the last."""
    *links, last = (tmp_path / name for name in names)
    write(tmp_path, {names[-1]: "TOKEN=1\n"})
    for link, target in zip(links, [*links[1:], last], strict=True):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))
    workspace = context.Workspace([tmp_path], counter, layout, control)
    document = workspace.open(links[0], "TOKEN=1\n")
    assert workspace.prompt(document, 3, 500).ids == ()
    assert "secrets" in workspace.hidden(workspace.document(links[0], "x"))
    assert workspace.explain(document, 0, 5, 500).passages == ()
    assert workspace.overview(document, 500).passages == ()
    workspace.visited(document, 0, 8)
    assert workspace.recent.newest() == []


def test_every_name_of_a_folder_counts(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    """C5: a link on the way may lead through a folder of secrets, or be one itself."""
    write(tmp_path, {"plain/config": "TOKEN=1\n", "other/config": "x = 1\n"})
    (tmp_path / ".ssh").symlink_to("plain")
    (tmp_path / "first").symlink_to(".ssh")
    (tmp_path / "second").symlink_to(tmp_path / "first")
    (tmp_path / "harmless").symlink_to("other")
    workspace = context.Workspace([tmp_path], counter, layout, control)
    for name in (".ssh/config", "first/config", "second/config", "first/new"):
        assert "secrets" in workspace.hidden(workspace.open(tmp_path / name, "TOKEN=1\n")), name
    assert workspace.hidden(workspace.open(tmp_path / "harmless/config", "x = 1\n")) == ""


@pytest.mark.parametrize(
    ("folder", "file", "shown"),
    [
        (".ssh", "config", False),
        (".kube", "config", False),
        (".aws", "config", False),
        (".docker", "config.json", False),
        (".config/gcloud", "settings.txt", False),
        (".config/gh", "hosts.yml", False),
        (".config/gh", "config.yml", True),
        (".gnupg/deep", "x.txt", False),
        (".config/nvim", "init.lua", True),
        ("kube", "config", True),
        ("secrets", "app.py", True),
    ],
)
def test_a_folder_of_secrets_may_be_opened_itself(
    counter: ToyCounter,
    layout: FimLayout,
    control: dict[str, int],
    tmp_path: Path,
    folder: str,
    file: str,
    shown: bool,
) -> None:
    """C5: its name counts too, in the editor as in the index."""
    root = tmp_path / folder
    write(root, {file: "x = 1\n"})
    workspace = context.Workspace([root], counter, layout, control)
    assert (workspace.hidden(workspace.open(root / file, "x = 1\n")) == "") is shown
    assert (walked(root) == {file}) is shown and Walk(root).allows(file) is shown


@pytest.mark.parametrize("mark", [".git", ".jj", ".sl"])
def test_repositories_of_other_tools_follow_the_same_rules(
    tmp_path: Path, home: Path, mark: str
) -> None:
    """C3: a folder inside one; where no repository is, the folders above have no say."""
    write(tmp_path, {"outer/.gitignore": "private.py\n", "outer/app/private.py": "x\n"})
    assert walked(tmp_path / "outer/app") == {"private.py"}
    (tmp_path / "outer" / mark).mkdir()
    assert walked(tmp_path / "outer/app") == set()


def test_the_users_excludes_count_for_every_name(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    """C5: the same rule for the user's own patterns."""
    write(tmp_path, {"private/plan.py": "x = 1\n"})
    (tmp_path / "open.py").symlink_to("private/plan.py")
    workspace = context.Workspace([tmp_path], counter, layout, control, excludes=["/private/"])
    assert "exclude" in workspace.hidden(workspace.open(tmp_path / "open.py", "x = 1\n"))


def test_a_loop_of_links_is_no_error(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    """C5: names end somewhere."""
    (tmp_path / "a.py").symlink_to("b.py")
    (tmp_path / "b.py").symlink_to("a.py")
    workspace = context.Workspace([tmp_path], counter, layout, control)
    assert workspace.hidden(workspace.open(tmp_path / "a.py", "x = 1\n")) == ""


def test_no_absolute_path_is_shown(
    counter: ToyCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    """C6: of files outside of all folders a model sees the name, not where they are."""
    workspace = context.Workspace([], counter, layout, control)
    other = workspace.open(tmp_path / "other.py", "def quay(depth):\n    return depth\n" * 3)
    workspace.visited(other, 0, 60)
    main = workspace.open(tmp_path / "main.py", "x = quay(")
    shown = counter.decode(workspace.prompt(main, 9, 500, rest=True).ids)
    assert "other.py" in shown and str(tmp_path) not in shown
    explained = workspace.explain(main, 0, 9, 500)
    assert str(tmp_path) not in "".join(one.text for one in explained.passages)


def test_links_out_of_the_workspace_are_refused(tmp_path: Path) -> None:
    """T7: one function opens paths; a link that leads out is refused, at any part of the path."""
    root, out = tmp_path / "root", tmp_path / "out"
    write(root, {"a.py": "a = 1\n"})
    write(out, {"notes.txt": "outside\n"})
    (root / "file.py").symlink_to(out / "notes.txt")
    (root / "folder").symlink_to(out)
    (root / "inner.py").symlink_to("a.py")
    (root / "twice.py").symlink_to("file.py")
    (root / "new.py").symlink_to(out / "missing.py")
    for name in (
        "file.py",
        "folder/notes.txt",
        "twice.py",
        "../out/notes.txt",
        "folder/new.py",
        "new.py",
    ):
        assert inside(root / name, [root]) is None
        assert read_text(root / name, 100, [root]) is None
    assert open_text(root / "inner.py", 100, [root]) == "a = 1\n"
    assert inside(root / "not" / "yet.py", [root]) == root / "not" / "yet.py"
    assert inside(root / "file.py", [root, out]) == out / "notes.txt"
    assert open_text(root / "file.py", 100) == "outside\n", "without roots, any file"
    assert inside(root / "a\0b", [root]) is None
    index = Index([root])
    assert not index.update(root / "file.py") and not index.update(root / "folder" / "notes.txt")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xc3\xa9\n", "café\n"),
        (b"\xef\xbb\xbfx\n", "x\n"),
        ("x\u00e9\n".encode("utf-16"), "xé\n"),
        (codecs.BOM_UTF16_BE + "x\n".encode("utf-16-be"), "x\n"),
        ("x\n".encode("utf-32"), "x\n"),
        (b"", ""),
        ("é\n".encode("latin-1"), None),
        ("€ é\n".encode("cp1252"), None),
        ("日本\n".encode("shift-jis"), None),
        ("x = 1\n".encode("utf-16-le"), None),
        (b"\0\1\2", None),
        (b"\xef\xbb\xbf\xff", None),
        (codecs.BOM_UTF16_LE + b"\x00\xd8\x00", None),
    ],
)
def test_one_decision_on_encodings(tmp_path: Path, data: bytes, text: str | None) -> None:
    """C26: UTF-8, or what a byte order mark says; anything else is refused, for all commands."""
    path = tmp_path / "a.py"
    path.write_bytes(data)
    if text is None:
        with pytest.raises(UnreadableError, match=r"UTF-8|binary"):
            open_text(path, 1000)
    else:
        assert open_text(path, 1000) == text


def test_odd_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    """T7: what is not a regular file of a fair size is not read, and never waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("x" * 101)
    for name, reason in (
        ("pipe", "regular"),
        ("large", "large"),
        (".", "director"),
        ("no", "No such"),
    ):
        with pytest.raises(UnreadableError, match=f"(?i){reason}|regular"):
            open_text(tmp_path / name, 100)


@pytest.mark.parametrize(
    "path",
    [
        ".ENV", ".Env.Production", "ID_RSA", "Id_Ed25519.pub", "server.PEM", "Server.Key", "a/.SSH/config",
        "serviceAccountKey.json", "kubeconfig", "prod.kubeconfig", ".yarnrc.yml", "local.settings.json",
        "terraform.tfvars.json", "prod.auto.tfvars.json", "firebase-adminsdk-x1.json", ".flaskenv",
        "key.P12", ".dockerconfigjson", "Credentials.JSON", ".terraformrc", "application_default_credentials.json",
        "NuGet.Config", ".vault-token", "wp-config.php", "gcp-key.json", "GoogleService-Info.plist", ".bash_history",
        ".env~", ".env-production", "env.secret", "htpasswd", "etc/shadow", ".composer/auth.json", "wg0.conf",
        "key.properties", "gh/hosts.yml", "dump.pgpass", "appsettings.Production.json", "ID_RSA~", "logins.json",
    ],
)  # fmt: skip
def test_names_of_secret_files_in_any_case(path: Any) -> None:
    """T9: names are folded in case, and the list holds what tools of today write."""
    assert is_secret(path) and is_secret(f"deep/{path}")


@pytest.mark.parametrize(
    "path",
    ["environment.py", "keys.ts", "secrets.go", "Credentials.java", "config.json", "settings.json",
     "token.rs", "password_reset.py", "src/kube/config.go", ".env.example", "id.rsa.md"],
)  # fmt: skip
def test_names_of_plain_files(path: Any) -> None:
    """T9: a list that is too wide would hide code."""
    assert not is_secret(path)


@pytest.mark.parametrize("path", [
    "server.pem.bak", "tls.key.old", "a.JKS.orig", ".npmrc~", ".git-credentials.save", ".docker/config.json.bak",
    "terraform.tfvars.bak", ".pgpass.1", "id_rsa.gpg", ".netrc.gpg", "hosts.pem.enc", "passwords.kdbx.copy",
    "heroku.netrc", "cert.pkcs12", "a.p7b", "docker-config.json", "kube.config", "k3s.yaml", "aws_credentials.json",
    "new_user_credentials.csv", "aws-credentials", "creds.yaml", "rootkey.csv", ".secrets/token", "api_token.txt",
    "group_vars/all/vault.yml", "ansible-vault.pass", ".vault-password", "fish_history", ".irb_history", ".config/hub",
    ".snowflake/config.toml", ".databrickscfg", "kaggle.json", ".huggingface/token", ".sentryclirc", ".cvspass",
    ".msmtprc", "sasl_passwd", "wg-home.conf", "home.nmconnection", ".vscode/sftp.json", "FileZilla.xml", "WinSCP.ini",
])  # fmt: skip
def test_copies_and_more_tools_files_are_secret(path: str) -> None:
    """T9: copies that editors and people leave, encrypted ones, and files that hold a login."""
    assert is_secret(path) and is_secret(f"deep/{path}")


@pytest.mark.parametrize("path", [
    "tokenizer.json", "token.py", "keys.py", "vault.go", "config.json", "history.py", "monkey.txt", "creds.go",
    "password.py", "kube/config/a.go", "user_credentials/a.py", "a.py.bak", "config.json.old", "notes.txt~", "hub.py", "kube.go", "tokens.json", "wg.conf.md",
])  # fmt: skip
def test_names_like_those_of_secrets_are_read(path: str) -> None:
    """T9: source that is about keys, and copies of what is no secret."""
    assert not is_secret(path)
