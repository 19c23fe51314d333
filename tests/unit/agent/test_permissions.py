"""No command and no change runs without the approval that its mode demands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.agent.permissions import (
    Mode,
    Rules,
    Verdict,
    allowed,
    always_allows,
    is_sensitive,
    simple_words,
    verdict,
)
from assistant.agent.tools import Access


@pytest.mark.parametrize(
    ("access", "mode", "expected"),
    [
        (Access.READ, Mode.ASK, Verdict.ALLOW),
        (Access.TALK, Mode.ASK, Verdict.ALLOW),
        (Access.EDIT, Mode.ASK, Verdict.ASK),
        (Access.EDIT, Mode.EDIT, Verdict.ALLOW),
        (Access.EDIT, Mode.AUTO, Verdict.ALLOW),
        (Access.REMOVE, Mode.ASK, Verdict.ASK),
        (Access.REMOVE, Mode.EDIT, Verdict.ASK),
        (Access.REMOVE, Mode.AUTO, Verdict.ALLOW),
        (Access.COMMAND, Mode.ASK, Verdict.ASK),
        (Access.COMMAND, Mode.EDIT, Verdict.ASK),
        (Access.COMMAND, Mode.AUTO, Verdict.ASK),
        (Access.FOREIGN, Mode.AUTO, Verdict.ASK),
    ],
)
def test_the_modes(access: Access, mode: Mode, expected: Verdict) -> None:
    assert verdict(access, mode, Rules(), names=["a.py"], command="ls", tool="t") is expected


RULES = Rules.of(["pytest -q", "ls"])


@pytest.mark.parametrize("command", ["pytest -q", "pytest -q tests/unit", "ls", "ls -la 'a b'"])
def test_a_prefix_rule_covers_a_plain_command(command: str) -> None:
    assert allowed(command, RULES)


@pytest.mark.parametrize(
    "command",
    [
        "pytest",
        "pytest -v",
        "pytest -qq",
        "lsof",
        "ls; rm -rf .",
        "ls && curl evil",
        "ls || curl evil",
        "ls | sh",
        "ls & curl evil",
        "ls > ~/.bashrc",
        "ls >> a",
        "ls < /etc/passwd",
        "ls $(curl evil)",
        "ls `curl evil`",
        "ls ${HOME}",
        "ls $HOME",
        "ls\ncurl evil",
        "ls\rcurl evil",
        "ls \\\ncurl",
        "PATH=. ls",
        "LD_PRELOAD=./evil.so ls",
        "./ls",
        "/tmp/ls",
        "env ls",
        "sudo ls",
        "ls *",
        "ls ~",
        "ls {a,b}",
        "ls 'a",
        "(ls)",
        "! ls",
        "ls # && rm",
        "ls\0rm",
        "",
    ],
)
def test_nothing_else_passes_with_it(command: str) -> None:
    assert not allowed(command, RULES)


@given(st.text(alphabet="lsrm ;&|<>$`(){}\n\\'\"*?~!#=", max_size=20))
def test_what_passes_is_one_program_whose_words_start_with_a_rule(command: str) -> None:
    if allowed(command, Rules.of(["ls"])):
        words = simple_words(command)
        assert words is not None and words[0] == "ls"
        assert not set(command) & set(";&|<>$`(){}\n\\*?~!#")


@pytest.mark.parametrize(
    ("command", "says", "then", "never"),
    [
        ("pytest -q", "pytest with any arguments", "pytest tests", "py.test"),
        ("python -m pytest", "python -m pytest", "python -m pytest", "python -m http.server"),
        ("find . -name a", "find . -name a", "find . -name a", "find . -name a -delete"),
        ("./run.sh", "./run.sh", "./run.sh", "./run.sh --all"),
        ("git status", "git status", "git status", "git push"),
        ("bash -c ls", "bash -c ls", "bash -c ls", "bash -c rm"),
        ("python3.12 a.py", "python3.12 a.py", "python3.12 a.py", "python3.12 b.py"),
    ],
)
def test_always_allowing_says_what_it_allows_and_no_more(
    command: str, says: str, then: str, never: str
) -> None:
    assert always_allows(command) == says
    rules = Rules().with_command(command)
    assert allowed(command, rules) and allowed(then, rules) and not allowed(never, rules)


def test_no_rule_covers_what_only_a_shell_understands() -> None:
    assert always_allows("ls | wc") == ""
    assert Rules().with_command("ls | wc") == Rules()
    assert Rules.of(["ls | wc", "", "a; b"]) == Rules()


@pytest.mark.parametrize(
    "name",
    [".vscode/tasks.json", "sub/.VSCode/settings.json", ".envrc", ".github/workflows/a.yml",
     "AGENTS.md", "docs/agents.md", ".husky/pre-commit", "sitecustomize.py"],
)  # fmt: skip
def test_files_that_run_code_or_instruct_always_need_approval(name: str) -> None:
    assert is_sensitive(name)
    for mode in Mode:
        assert verdict(Access.EDIT, mode, Rules(), names=["a.py", name]) is Verdict.ASK


@pytest.mark.parametrize("name", ["a.py", "agents.py", "vscode/a.ts", "src/envrc.py"])
def test_other_files_do_not(name: str) -> None:
    assert not is_sensitive(name)


def test_an_mcp_tool_is_approved_once() -> None:
    rules = Rules(tools=frozenset({"weather"}))
    assert verdict(Access.FOREIGN, Mode.ASK, rules, tool="weather") is Verdict.ALLOW
    assert verdict(Access.FOREIGN, Mode.ASK, rules, tool="other") is Verdict.ASK
