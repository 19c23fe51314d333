"""The Neovim plugin: configuration, command, status, health, help, other versions of Neovim."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from neovim import PLUGIN, NeovimError, neovim, program
from nvim_session import Session, session

pytestmark = pytest.mark.editor

HELP = (PLUGIN / "doc" / "underkeel.txt").read_text(encoding="utf-8")


@pytest.fixture
def vim(tmp_path: Path) -> Iterator[Session]:
    with session(tmp_path) as editor:
        editor.open(tmp_path / "sample.py", "x = 1\n")
        yield editor


def send_status(vim: Session, **status: object) -> None:
    vim.tell("scripted/send", {"method": "underkeel/status", "params": status})
    vim.settle()


# Configuration


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{ cmd = 'underkeel' }", "config.cmd must be a table"),
        ("{ cmd = {} }", "config.cmd must be a list of strings"),
        ("{ ghots = {} }", "unknown field config.ghots; the fields are agent, cmd, edit, enabled"),
        ("{ ghost = { auto = 1 } }", "config.ghost.auto must be a boolean"),
        ("{ mappings = { acept = 'x' } }", "unknown field config.mappings.acept"),
        ("{ explain = { window = 'tab' } }", "config.explain.window must be 'split' or 'float'"),
    ],
)
def test_a_wrong_configuration_raises_an_error(tmp_path: Path, config: str, message: str) -> None:
    with neovim(tmp_path) as vim, pytest.raises(NeovimError, match=re.escape(message)):
        vim.lua(f"require('underkeel').setup({config})")


def test_a_missing_program_is_reported_once_with_advice(tmp_path: Path) -> None:
    with neovim(tmp_path) as vim:
        vim.lua(
            """
            messages = {}
            vim.notify = function(message) messages[#messages + 1] = message end
            require('underkeel').setup({ cmd = { 'no-such-underkeel', 'lsp' } })
            require('underkeel').enable()
            """
        )
        vim.keys("ix = 1<Tab><Esc>")
        messages = vim.lua("return messages")
        assert len(messages) == 1
        assert "the program 'no-such-underkeel' was not found" in messages[0]
        assert "uv tool install PATH" in messages[0], "never a bare name from a registry (T21)"
        assert "install underkeel" not in messages[0]


def test_nothing_is_mapped_or_started_before_setup(tmp_path: Path) -> None:
    with neovim(tmp_path) as vim:
        vim.keys("ix<Esc>")
        assert vim.lua("return #vim.api.nvim_get_keymap('i')") == vim.lua(
            "return #vim.tbl_filter(function(m) return not (m.desc or ''):find('Underkeel') end,"
            " vim.api.nvim_get_keymap('i'))"
        )
        assert vim.lua("return package.loaded.underkeel == nil")
        assert vim.lua("return vim.fn.exists(':Underkeel')") == 2


def test_settings_reach_the_server(tmp_path: Path) -> None:
    with session(tmp_path, config="{ settings = { completion = { max_tokens = 9 } } }") as vim:
        vim.open(tmp_path / "sample.py", "")
        [initialize] = vim.log("initialize")
        params = initialize["params"]
        assert params["initializationOptions"] == {"underkeel": {"completion": {"max_tokens": 9}}}
        assert params["capabilities"]["textDocument"]["inlineCompletion"] is not None
        offered = params["capabilities"]["experimental"]["underkeel"]
        assert offered == {"status": True, "explanation": True, "completionUpdate": True}


def test_every_autocommand_has_a_description(vim: Session) -> None:
    described = vim.lua(
        """
        local own = vim.tbl_filter(function(autocmd)
          return (autocmd.group_name or ''):find('^Underkeel')
        end, vim.api.nvim_get_autocmds({}))
        return vim.tbl_map(function(autocmd) return autocmd.desc or '' end, own)
        """
    )
    assert len(described) > 5
    assert all(described)


def test_highlights_of_the_user_take_priority(tmp_path: Path) -> None:
    before = "vim.api.nvim_set_hl(0, 'UnderkeelGhost', { fg = '#123456' })"
    with session(tmp_path, before=before) as vim:
        vim.command("colorscheme habamax")
        vim.lua(before)
        vim.command("doautocmd ColorScheme")
        found = vim.lua("return vim.api.nvim_get_hl(0, { name = 'UnderkeelGhost' })")
        assert found == {"fg": 0x123456}
        counter = vim.lua("return vim.api.nvim_get_hl(0, { name = 'UnderkeelCounter' })")
        assert counter["link"] == "MoreMsg"


# Status


def test_the_statusline_follows_the_server(vim: Session) -> None:
    line = "return require('underkeel').statusline()"
    assert vim.lua(line) == "underkeel: idle", "the server runs and has reported nothing"
    send_status(vim, state="loading", message="starter-moe", progress=0.43)
    assert vim.lua(line) == "underkeel: loading 43/100"
    budget = {"tokens": 1024, "level": 0, "reason": ""}
    send_status(vim, state="ready", message="", progress=None, budget=budget, vram=None)
    assert vim.lua(line) == "underkeel"
    budget = {"tokens": 512, "level": 2, "reason": "the KV cache is nearly full"}
    send_status(vim, state="ready", message="", budget=budget)
    assert vim.lua(line) == "underkeel: 512 tokens"
    vim.command("Underkeel disable python")
    assert vim.lua(line) == "underkeel: off"
    send_status(vim, state="error", message="the model cannot be loaded")
    assert vim.lua(line) == "underkeel: error"


def test_the_status_window_shows_every_field(vim: Session) -> None:
    send_status(
        vim,
        state="ready",
        message="",
        model="starter-moe",
        budget={"tokens": 512, "level": 2, "reason": "VRAM is short"},
        vram={"usedBytes": 3 << 30, "freeBytes": 1 << 29},
        kv={"usedTokens": 900, "totalTokens": 8192},
        tokensPerSecond=21.53,
        cacheHits=0.873,
        ladder={"rung": "smaller", "gaveUp": "half of the context", "reason": "VRAM was short"},
        prompt={"tokens": 498, "budgetTokens": 512, "cut": ["far prefix", "repository context"]},
    )
    vim.command("Underkeel status")
    assert vim.lines() == [
        "state    ready",
        "model    starter-moe",
        "budget   512 tokens, level 2",
        "reason   VRAM is short",
        "prompt   498 of 512 tokens",
        "omitted  far prefix, repository context",
        "reduced  half of the context: VRAM was short",
        "VRAM     3.0 GiB used, 0.5 GiB free",
        "KV       900 of 8192 tokens",
        "cache    87 % of prompt tokens",
        "speed    21.5 tokens/s",
    ]
    vim.keys("q")
    vim.wait("#vim.api.nvim_list_wins() == 1")


def test_the_status_window_shows_any_name_and_reason(vim: Session) -> None:
    """S12: what comes from a model's file or a server may hold line ends and control characters."""
    send_status(vim, state="error", message="two\nlines\r\n", model="a\n[/INST]\x1b[31m%d %s\0")
    vim.command("Underkeel status")
    shown = vim.lines()
    assert shown == ["state    error", "message  two lines ", "model    a [/INST] [31m%d %s "]
    vim.keys("q")


def test_progress_reports_loading_before_any_status(vim: Session) -> None:
    def progress(**value: object) -> None:
        params = {"token": "load", "value": value}
        vim.tell("scripted/send", {"method": "$/progress", "params": params})
        vim.settle()

    progress(kind="begin", title="Loading", percentage=0)
    progress(kind="report", percentage=50)
    line = "return require('underkeel').statusline()"
    assert vim.lua(line) == "underkeel: loading 50/100"
    progress(kind="end")
    assert vim.lua(line) == "underkeel"


# Command


def test_the_command_completes(vim: Session) -> None:
    def complete(line: str) -> list[str]:
        found: list[str] = vim.lua("return vim.fn.getcompletion(..., 'cmdline')", line)
        return found

    assert complete("Underkeel re") == ["restart"]
    assert {"enable", "disable", "explain", "plan", "status"} <= set(complete("Underkeel "))
    assert complete("Underkeel explain ") == ["diagnostic", "file", "symbol"]
    assert complete("1,2Underkeel explain f") == ["file"]
    assert "python" in complete("Underkeel disable py")
    assert complete("Underkeel restart x") == []


def test_an_unknown_subcommand_lists_the_subcommands(vim: Session) -> None:
    vim.keys(":Underkeel explode<CR>")
    vim.wait("vim.fn.execute('messages'):find('unknown subcommand') ~= nil")
    assert "the subcommands are ask, cancel, disable" in vim.messages().replace("\n", " ")


def test_output_of_the_command_line_program_opens_in_a_window(tmp_path: Path) -> None:
    fake = tmp_path / "underkeel"
    fake.write_text('#!/bin/sh\necho "plan for $*"\necho "width $COLUMNS" >&2\n')
    fake.chmod(0o755)
    with neovim(tmp_path) as vim:
        vim.lua("require('underkeel').setup({ enabled = false, cmd = { ..., 'lsp' } })", str(fake))
        vim.command("Underkeel plan starter-moe")
        vim.wait("vim.fn.getline(1) ~= ''")
        assert vim.lines() == ["plan for plan starter-moe", "width 78"]


# Health and help


def test_checkhealth(vim: Session) -> None:
    vim.command("checkhealth underkeel")
    report = "\n".join(vim.lines())
    assert "Ghost text is drawn by Underkeel" in report
    assert "server 1, positions in utf-8" in report
    assert "accept: <Tab>" in report
    assert "ERROR" not in report


def test_checkhealth_without_a_program_says_what_to_do(tmp_path: Path) -> None:
    with neovim(tmp_path) as vim:
        vim.lua("require('underkeel').config.cmd = { 'no-such-underkeel', 'lsp' }")
        vim.command("checkhealth underkeel")
        report = "\n".join(vim.lines())
        assert "The program 'no-such-underkeel' was not found on the PATH" in report
        assert "uv tool install PATH" in report
        assert "No language server is running" in report


def test_the_help_covers_every_name(tmp_path: Path) -> None:
    with neovim(tmp_path) as vim:
        public = vim.lua(
            """
            local names = {}
            for name, value in pairs(require('underkeel')) do
              names[#names + 1] = name
            end
            return names
            """
        )
        subcommands = vim.lua("return require('underkeel.command').list()")
        config = vim.lua("return vim.tbl_keys(require('underkeel').config)")
        keys = vim.lua("return require('underkeel').config.mappings")
    missing = [name for name in public if f"*underkeel.{name}" not in HELP]
    missing += [s["name"] for s in subcommands if f"\n{s['name']} " not in HELP]
    missing += [name for name in config if f"{name} = " not in HELP]
    missing += [key for key in keys.values() if key not in HELP]
    assert missing == []


def test_the_help_file_makes_tags(tmp_path: Path) -> None:
    doc = tmp_path / "doc"
    doc.mkdir()
    (doc / "underkeel.txt").write_text(HELP, encoding="utf-8")
    with neovim(tmp_path) as vim:
        vim.lua("vim.cmd.helptags(...)", str(doc))
    tags = {line.split("\t")[0] for line in (doc / "tags").read_text().splitlines()}
    assert {"underkeel", ":Underkeel", "underkeel.setup()"} <= tags
    referred = set(re.findall(r"\|([^|\s]*[Uu]nderkeel[^|\s]*)\|", HELP))
    assert referred <= tags
    assert all(len(line) <= 79 for line in HELP.splitlines())


# Other versions of Neovim


def test_the_functions_of_neovim_0_10_work_too(tmp_path: Path) -> None:
    """Runs on the installed Neovim with has('nvim-0.11') denied: the plugin then starts its client
    by autocommand and calls client functions with a dot, which 0.11 still accepts."""
    before = """
      local has = vim.fn.has
      vim.fn.has = function(what) return what == 'nvim-0.11' and 0 or has(what) end
      vim.deprecate = function() end
      vim.lsp.enable, vim.lsp.config = nil, nil
    """
    with session(tmp_path, before=before, encoding="utf-16") as vim:
        vim.open(tmp_path / "sample.py", "s = 'ä🚢'\n")
        item = {"insertText": "🚢 im Hafen", "relative": [-2, 0]}
        vim.rules({"after": "ä🚢", "items": [item]})
        vim.keys("$i")
        vim.wait_ghost(" im Hafen")
        vim.keys("<Tab>")
        vim.wait_ghost("")
        assert vim.lines() == ["s = 'ä🚢 im Hafen'"]
        vim.command("Underkeel restart")
        vim.wait("(vim.lsp.get_clients({ name = 'underkeel' })[1] or {}).id == 2")


def test_neovim_s_own_inline_completion_is_used_where_it_exists(tmp_path: Path) -> None:
    """Neovim 0.12 has vim.lsp.inline_completion; no registry has 0.12, so its three functions are
    recorded here. This shows what the plugin calls, not that 0.12 answers."""
    before = """
      calls, item = {}, { insert_text = 'one two', range = { start_col = 0 } }
      vim.lsp.inline_completion = {
        enable = function(on, filter) calls[#calls + 1] = { 'enable', on, filter.bufnr } end,
        select = function(opts) calls[#calls + 1] = { 'select', opts.count } end,
        get = function(opts)
          if opts and opts.on_accept then opts.on_accept(item) end
          return item ~= nil
        end,
      }
    """
    with session(tmp_path, before=before) as vim:
        vim.open(tmp_path / "sample.py", "\n")
        vim.keys("io<M-Right><M-]><M-[>")
        vim.wait("vim.fn.getline(1) == 'one'")
        vim.lua("item = nil")
        vim.command("set noexpandtab")
        vim.keys("<Tab>")
        vim.wait("vim.fn.getline(1) == 'one\\t'")
        vim.command("Underkeel disable")
        assert vim.lua("return calls") == [
            ["enable", True, 1],
            ["select", 1],
            ["select", -1],
            ["enable", False, 1],
        ]
        assert vim.ghost() == []


def test_neovim_s_own_requests_follow_when_the_server_starts_or_is_ready(tmp_path: Path) -> None:
    """Neovim 0.12 requests at CursorMovedI; what was typed before would wait for the next key."""
    before = """
      moves = 0
      vim.lsp.inline_completion = { enable = function() end }
      vim.api.nvim_create_autocmd('CursorMovedI', { callback = function() moves = moves + 1 end })
    """
    go = tmp_path / "go"
    with session(tmp_path, config="{ enabled = false }", before=before) as vim:
        (tmp_path / "sample.py").write_text("x = 1\n")
        vim.lua(
            """
            local config = require('underkeel').config
            local wait = 'until [ -e "$0" ]; do sleep 0.02; done; exec "$@"'
            config.cmd = vim.list_extend({ 'sh', '-c', wait, ... }, config.cmd)
            require('underkeel').enable()
            """,
            str(go),
        )
        vim.edit(tmp_path / "sample.py")
        vim.keys("A + y")
        vim.lua("moves = 0")
        go.touch()
        vim.wait("#vim.lsp.get_clients({ bufnr = 0, name = 'underkeel' }) == 1")
        vim.wait("moves == 1")
        for state in ("loading", "ready"):
            params = {"state": state, "message": ""}
            vim.tell("scripted/send", {"method": "underkeel/status", "params": params})
        vim.wait("moves == 2")
        vim.keys("<Esc>")


def test_lazy_start_with_the_built_in_package_manager(tmp_path: Path) -> None:
    """The README's instructions for packages: the folder under pack/*/start, two lines of init."""
    start = tmp_path / "config" / "nvim" / "pack" / "underkeel" / "start"
    start.mkdir(parents=True)
    (start / "underkeel").symlink_to(PLUGIN)
    init = tmp_path / "config" / "nvim" / "init.lua"
    init.write_text("require('underkeel').setup({ cmd = { 'true' } })\n")
    binary = program()
    assert binary is not None
    done = subprocess.run(
        [binary, "--headless", "-i", "NONE", "+echo exists(':Underkeel')", "+qall"],
        env={"XDG_CONFIG_HOME": str(tmp_path / "config"), "PATH": "/usr/bin:/bin", "HOME": "/"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "2"), sys.platform
