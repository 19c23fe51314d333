"""What needs the user's approval. Pure: nothing that a file, a command's output or the model says
is an input here but the call itself, so none of them can widen what is allowed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from assistant.agent.tools import Access


class Mode(StrEnum):
    """What happens without a question. Commands are outside of it: see `Rules`."""

    ASK = "ask"
    EDIT = "edit"
    AUTO = "auto"


MODES: dict[Mode, str] = {
    Mode.ASK: "Every change is shown and needs approval.",
    Mode.EDIT: "Files are created and edited without questions; moves and deletions ask.",
    Mode.AUTO: "All changes of files are made without questions.",
}


class Verdict(StrEnum):
    """The decision about one call."""

    ALLOW = "allow"
    ASK = "ask"


@dataclass(frozen=True)
class Rules:
    """What the user has allowed for good.

    Attributes:
        commands: prefixes of command lines, as words.
        exact: whole command lines, as words.
        tools: names of MCP tools.
    """

    commands: tuple[tuple[str, ...], ...] = ()
    exact: frozenset[tuple[str, ...]] = frozenset()
    tools: frozenset[str] = frozenset()

    @classmethod
    def of(cls, commands: Sequence[str]) -> Rules:
        """From command lines as a user writes them; those that are no plain command are ignored."""
        words = (simple_words(command) for command in commands)
        return cls(tuple(one for one in words if one))

    def with_command(self, command: str) -> Rules:
        """With what "always allow" allows for a command line; see `always_allows`."""
        words = simple_words(command)
        if words is None:
            return self
        if runs_anything(words[0]):
            return replace(self, exact=self.exact | {words})
        return replace(self, commands=(*self.commands, words[:1]))


# In a shell these do more than name a program and its arguments.
_SHELL = re.compile(r"[;&|<>`$(){}\[\]*?~!#\\\n\r\x00-\x1f\x7f]")
_ASSIGNMENT = re.compile(r"^\w+=")
# A prefix of these would allow any program, so only the whole command line is allowed.
_RUNS_ANYTHING = frozenset(
    (
        "sh",
        "bash",
        "zsh",
        "dash",
        "fish",
        "ksh",
        "env",
        "sudo",
        "doas",
        "su",
        "xargs",
        "find",
        "ssh",
        "nohup",
        "time",
        "timeout",
        "nice",
        "exec",
        "eval",
        "source",
        "command",
        "watch",
        "parallel",
        "script",
        "python",
        "python3",
        "node",
        "deno",
        "bun",
        "perl",
        "ruby",
        "php",
        "lua",
        "awk",
        "gawk",
        "sed",
        "npx",
        "uvx",
        "pipx",
        "docker",
        "podman",
        "kubectl",
        "make",
        "git",
        "npm",
        "pnpm",
        "yarn",
        "uv",
        "poetry",
        "cargo",
        "go",
        "tox",
        "nox",
    )
)
# Files that run code, or instruct the next session, once the project is opened.
_SENSITIVE = re.compile(
    r"(^|/)(\.vscode|\.idea|\.devcontainer|\.husky|\.github/workflows|\.zed|\.nvim|\.cargo)(/|$)"
    r"|(^|/)(\.envrc|\.exrc|\.nvim\.lua|\.pre-commit-config\.yaml|\.gitlab-ci\.yml|\.gitattributes"
    r"|\.gitmodules|\.npmrc|agents\.md|claude\.md|sitecustomize\.py|usercustomize\.py)$",
    re.IGNORECASE,
)


def verdict(
    access: Access,
    mode: Mode,
    rules: Rules,
    *,
    names: Sequence[str] = (),
    command: str = "",
    tool: str = "",
) -> Verdict:
    """Whether a call may run.

    Args:
        names: of the files it writes, relative to the workspace.
        command: the whole command line.
        tool: the MCP tool, for `Access.FOREIGN`.
    """
    match access:
        case Access.READ | Access.TALK:
            return Verdict.ALLOW
        case Access.COMMAND:
            return Verdict.ALLOW if allowed(command, rules) else Verdict.ASK
        case Access.FOREIGN:
            return Verdict.ALLOW if tool in rules.tools else Verdict.ASK
        case Access.EDIT | Access.REMOVE:
            if any(is_sensitive(name) for name in names):
                return Verdict.ASK
            enough = {Access.EDIT: (Mode.EDIT, Mode.AUTO), Access.REMOVE: (Mode.AUTO,)}[access]
            return Verdict.ALLOW if mode in enough else Verdict.ASK


def is_sensitive(name: str) -> bool:
    """Whether a file runs code or gives instructions when the project is opened."""
    return _SENSITIVE.search(name) is not None


def simple_words(command: str) -> tuple[str, ...] | None:
    """The words of a command that is one program with its arguments; None where a shell would do
    more: chain, redirect, expand or assign."""
    if _SHELL.search(command):
        return None
    try:
        words = tuple(shlex.split(command))
    except ValueError:
        return None
    if not words or _ASSIGNMENT.match(words[0]):
        return None
    return words


def allowed(command: str, rules: Rules) -> bool:
    """Whether a prefix rule covers a command line."""
    words = simple_words(command)
    if words is None:
        return False
    if words in rules.exact:
        return True
    return any(words[: len(prefix)] == prefix for prefix in rules.commands if prefix)


def always_allows(command: str) -> str:
    """What "always allow" would allow, for the user: the program with any arguments, or only this
    command line where the program could run any other. Empty where no rule can cover it."""
    words = simple_words(command)
    if words is None:
        return ""
    return command if runs_anything(words[0]) else f"{words[0]} with any arguments"


def runs_anything(program: str) -> bool:
    """Whether a program runs what its arguments or the workspace's files name."""
    name = program.rpartition("/")[2].lower()
    return (
        "/" in program
        or name in _RUNS_ANYTHING
        or re.match(r"^(python|pip|node|ruby|perl)[\d.]*$", name) is not None
    )
