"""Neovim, language server, daemon, worker and model, all of them real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from neovim import neovim
from nvim_session import Session

pytestmark = [pytest.mark.editor, pytest.mark.model, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
CODE = "def add(a: int, b: int) -> int:\n    \n\n\nprint(add(2, 3))\n"


@pytest.fixture
def vim(tmp_path: Path, home: Path, moe_model: Path) -> Iterator[Session]:
    """An editor whose language server starts a daemon of its own; both end with it."""
    environment = {"PYTHONPATH": str(ROOT)}
    try:
        with neovim(tmp_path, kind=Session, environment=environment) as editor:
            assert isinstance(editor, Session)
            editor.timeout_s = 240.0
            editor.lua(
                """
                require('underkeel').setup({
                  cmd = { ..., '-m', 'assistant', 'lsp' },
                  settings = { completion = { time_limit_ms = 60000 } }, -- the machine may be busy
                })
                """,
                sys.executable,
            )
            yield editor
    finally:
        stop = [sys.executable, "-m", "assistant", "stop"]
        subprocess.run(stop, env={**os.environ, **environment}, timeout=60)


def test_a_real_model_completes_in_a_real_editor(vim: Session, tmp_path: Path) -> None:
    vim.open(tmp_path / "sample.py", CODE)
    vim.keys("jAreturn ")
    vim.wait("require('underkeel').is_visible()", what="ghost text")
    shown = vim.ghost_text()
    assert "a" in shown and "b" in shown
    before = vim.lines()
    vim.keys("<Tab>")
    vim.wait("vim.fn.getline(2) ~= '    return '")
    assert "\n".join(vim.lines()) == "\n".join(before).replace("return ", f"return {shown}", 1)
    compile("\n".join(vim.lines()), "sample.py", "exec")
    assert "upcycled" in vim.wait("require('underkeel').status().model")
    assert vim.lua("return require('underkeel').statusline()").startswith("underkeel")


WRONG = "def total(prices: list[float]) -> float:\n    return sum(pricess)\n"


def notes(vim: Session) -> str:
    """The notes above all windows."""
    windows = "vim.tbl_map(function(w) return vim.wo[w].winbar end, vim.api.nvim_list_wins())"
    text: str = vim.lua(f"return table.concat({windows})")
    return text


def panel(vim: Session) -> str:
    """The explanation so far."""
    text: str = vim.lua(
        """
        for _, buf in ipairs(vim.api.nvim_list_bufs()) do
          if vim.bo[buf].filetype == 'markdown' then
            return table.concat(vim.api.nvim_buf_get_lines(buf, 2, -1, false), '\\n')
          end
        end
        return ''
        """
    )
    return text


def test_a_real_model_explains_fixes_and_is_cancelled(vim: Session, tmp_path: Path) -> None:
    vim.open(tmp_path / "sample.py", WRONG)
    vim.keys(":Underkeel explain<CR>")
    vim.wait(
        "vim.iter(vim.api.nvim_list_wins()):any(function(w)"
        " return vim.wo[w].winbar:find('a asks') or vim.wo[w].winbar:find('continues')"
        " end)",
        what="the end of the explanation",
    )
    assert len(panel(vim).split()) > 5
    vim.keys("<C-w>lq")
    vim.wait("#vim.api.nvim_list_wins() == 1")

    vim.keys(":Underkeel explain file<CR>")
    vim.wait("#vim.api.nvim_list_wins() == 2")
    vim.keys(":Underkeel cancel<CR>")
    vim.wait(
        "vim.iter(vim.api.nvim_list_wins()):any(function(w)"
        " return vim.wo[w].winbar:find('cancelled') ~= nil end)"
    )
    vim.keys("<C-w>lq")
    vim.wait("#vim.api.nvim_list_wins() == 1")

    vim.lua(
        """
        vim.diagnostic.set(vim.api.nvim_create_namespace('test'), 0, {
          { lnum = 1, col = 15, end_lnum = 1, end_col = 22, severity = 1, source = 'pyflakes',
            message = "undefined name 'pricess'" },
        })
        """
    )
    vim.keys("j:Underkeel fix<CR>")
    vim.wait("vim.bo.filetype == 'diff'", what="the proposed fix")
    diff = vim.lines()[vim.lines().index("+++ sample.py") + 1 :]
    assert "-    return sum(pricess)" in diff
    before = [line[1:] for line in diff if line[:1] in (" ", "-")]
    after = [line[1:] for line in diff if line[:1] in (" ", "+")]
    assert before == WRONG.splitlines(), "the whole file is in the hunk"
    assert vim.lua("return vim.api.nvim_buf_get_lines(1, 0, -1, false)") == before
    vim.keys("y")
    vim.wait("#vim.api.nvim_list_wins() == 1")
    assert vim.lines() == after
