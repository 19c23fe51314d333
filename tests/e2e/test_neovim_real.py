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

pytestmark = [pytest.mark.editor, pytest.mark.model]

ROOT = Path(__file__).parents[2]
CODE = "def add(a: int, b: int) -> int:\n    \n\n\nprint(add(2, 3))\n"


@pytest.fixture
def vim(tmp_path: Path, home: Path, moe_model: Path) -> Iterator[Session]:
    """An editor whose language server starts a daemon of its own; both end with it."""
    environment = {"PYTHONPATH": str(ROOT)}
    try:
        with neovim(tmp_path, kind=Session, environment=environment) as editor:
            assert isinstance(editor, Session)
            editor.timeout_s = 100.0
            editor.lua(
                "require('underkeel').setup({ cmd = { ..., '-m', 'assistant', 'lsp' } })",
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
