"""Next edits in a real Neovim with the real language server, which needs no model for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from neovim import Neovim, neovim

pytestmark = pytest.mark.editor

ROOT = Path(__file__).resolve().parents[2]
FAR = "def load():\n    pass\n" + "\n# more" * 60 + "\n\nload()\n"
_MARKS = (
    "local found = {} "
    "local ns = vim.api.nvim_get_namespaces()['underkeel.next_edit'] "
    "for _, m in ipairs(vim.api.nvim_buf_get_extmarks(0, ns, 0, -1, { details = true })) do "
    "  for _, line in ipairs({ m[4].virt_text or {}, unpack(m[4].virt_lines or {}) }) do "
    "    for _, chunk in ipairs(line) do found[#found + 1] = m[2] .. ':' .. chunk[1] end "
    "  end "
    "end return found"
)


@pytest.fixture
def vim(tmp_path: Path, home: Path) -> Iterator[Neovim]:
    with neovim(tmp_path) as editor:
        editor.lua("vim.env.PYTHONPATH = ...", str(ROOT))
        editor.lua(
            "require('underkeel').setup({ cmd = { ..., '-m', 'lsp' },"
            " settings = { completion = { enabled = false } } })",
            sys.executable,
        )
        yield editor


def edit(vim: Neovim, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    vim.edit(path)
    vim.wait(
        "(function() local c = vim.lsp.get_clients({ bufnr = 0, name = 'underkeel' })[1]"
        " return c and c.initialized end)()",
        what="the language server",
    )


def marks(vim: Neovim) -> list[str]:
    vim.wait("require('underkeel.next_edit').visible()", what="a next edit")
    found: list[str] = vim.lua(_MARKS)
    return found


def test_tab_accepts_one_after_the_other_and_undo_takes_one_back(
    vim: Neovim, tmp_path: Path
) -> None:
    edit(vim, tmp_path / "a.py", "def load():\n    pass\n\nx = load()\ny = load()\n")
    vim.keys("wcwread<Esc>")
    assert marks(vim) == ["3:read"]
    assert vim.cursor()[0] == 1, "nothing moves by itself"
    vim.keys("<Tab>")
    assert vim.lines()[3] == "x = read()"
    assert marks(vim) == ["4:read"]
    vim.keys("<Tab>")
    assert vim.lines()[4] == "y = read()"
    vim.keys("u")
    assert vim.lines()[3:] == ["x = read()", "y = load()"]


def test_escape_rejects_and_is_remembered(vim: Neovim, tmp_path: Path) -> None:
    edit(vim, tmp_path / "a.py", "def load():\n    pass\n\nx = load()\n")
    vim.keys("wcwread<Esc>")
    marks(vim)
    vim.keys("<Esc>")
    assert vim.lua("return require('underkeel.next_edit').visible()") is False
    assert vim.lines()[3] == "x = load()"
    assert vim.lua("return vim.fn.maparg('<Tab>', 'n')") == "", "the keys are free again"


def test_tab_jumps_to_an_edit_off_the_screen_then_accepts_it(vim: Neovim, tmp_path: Path) -> None:
    edit(vim, tmp_path / "a.py", FAR)
    line = FAR.split("\n").index("load()")
    vim.keys("wcwread<Esc>")
    assert marks(vim) == [f"0: <Tab> next edit: line {line + 1}"]
    vim.keys("<Tab>")
    assert vim.cursor()[0] == line + 1
    assert vim.lines()[line] == "load()"
    vim.keys("<Tab>")
    assert vim.lines()[line] == "read()"


def test_a_new_line_is_shown_above_its_place(vim: Neovim, tmp_path: Path) -> None:
    edit(vim, tmp_path / "a.py", "import sys\n\nx = 1\n")
    vim.keys("Gccx = json.dumps(sys.argv)<Esc>0")
    assert marks(vim) == ["0:import json"]
    vim.keys("<Tab>")
    assert vim.lines()[:2] == ["import json", "import sys"]
