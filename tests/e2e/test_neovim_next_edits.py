"""Twenty situations of next edits in one real Neovim with the real language server, without a
model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from neovim import Neovim, neovim

pytestmark = pytest.mark.editor

ROOT = Path(__file__).resolve().parents[2]
RENAME = "def load():\n    pass\n\nx = load()\ny = load()\n"
USER = "from shared import load\n\nload()\n"
FAR = "def load():\n    pass\n" + "\n# more" * 60 + "\n\nload()\n"
_MARKS = (
    "local found = {} "
    "local ns = vim.api.nvim_get_namespaces()['underkeel.next_edit'] "
    "for _, m in ipairs(vim.api.nvim_buf_get_extmarks(0, ns, 0, -1, { details = true })) do "
    "  local d = m[4] "
    "  if d.hl_group then found[#found + 1] = m[2] .. '-' .. (d.end_row or m[2]) end "
    "  for _, line in ipairs({ d.virt_text or {}, unpack(d.virt_lines or {}) }) do "
    "    for _, chunk in ipairs(line) do found[#found + 1] = m[2] .. ':' .. chunk[1] end "
    "  end "
    "end return found"
)
_VISIBLE = "require('underkeel.next_edit').visible()"


class Situations:
    """The editor, and a new file for each situation."""

    def __init__(self, vim: Neovim, folder: Path) -> None:
        self.vim, self.folder, self._files = vim, folder, 0

    def open(self, text: str, suffix: str = ".py", name: str = "") -> Path:
        self._files += 1
        path = self.folder / (name or f"file{self._files}{suffix}")
        path.write_bytes(text.encode())
        self.vim.edit(path)
        self.vim.wait(
            "(function() local c = vim.lsp.get_clients({ bufnr = 0, name = 'underkeel' })[1]"
            " return c and c.initialized end)()",
            what="the language server",
        )
        return path

    def marks(self) -> list[str]:
        """What is drawn: "line:new text", and "first-last line" of old text."""
        self.vim.wait(_VISIBLE, what="a next edit")
        found: list[str] = self.vim.lua(_MARKS)
        return found

    def nothing(self) -> None:
        """No edit comes: longer than the pause and an answer of the server take."""
        self.vim.lua("vim.wait(400)")
        assert self.vim.lua(f"return {_VISIBLE}") is False


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Situations]:
    folder = tmp_path_factory.mktemp("next-edits")
    home = folder / "home"
    home.mkdir(mode=0o700)
    project = folder / "project"
    (project / ".git").mkdir(parents=True)
    (project / "user.py").write_text(USER, encoding="utf-8")
    with neovim(project, environment={"UNDERKEEL_HOME": str(home)}) as vim:
        vim.lua("vim.env.PYTHONPATH = ...", str(ROOT))
        vim.lua(
            "require('underkeel').setup({ cmd = { ..., '-m', 'lsp' },"
            " settings = { completion = { enabled = false } } })"
            " require('underkeel.next_edit').PAUSE_MS = 20",
            sys.executable,
        )
        yield Situations(vim, project)


@pytest.fixture(autouse=True)
def normal_mode(at: Situations) -> Iterator[None]:
    yield
    at.vim.keys("<C-\\><C-n>")
    at.vim.command("silent! only!")
    at.vim.command("%bwipeout!")


def test_a_rename_is_finished_and_nothing_moves_by_itself(at: Situations) -> None:
    at.open(RENAME)
    at.vim.keys("wcwread<Esc>")
    assert at.marks() == ["3-3", "3:read"]
    assert at.vim.cursor()[0] == 1
    at.vim.keys("<Tab>")
    assert at.vim.lines()[3] == "x = read()"


def test_a_call_follows_its_signature(at: Situations) -> None:
    at.open("def f(a, b):\n    return a\n\n\nx = f(1, 2)\n")
    at.vim.keys("fadw0fbib, <Esc>f,i<Esc>")
    at.vim.command("call setline(1, 'def f(b, a):')")
    at.vim.command("doautocmd TextChanged")
    assert at.marks() == ["4-4", "4:2, 1"]
    at.vim.keys("<Tab>")
    assert at.vim.lines()[4] == "x = f(2, 1)"


def test_a_missing_import_is_shown_above_its_place(at: Situations) -> None:
    at.open("import sys\n\nx = 1\n")
    at.vim.keys("Gccx = json.dumps(sys.argv)<Esc>0")
    assert at.marks() == ["0:import json"]
    at.vim.keys("<Tab>")
    assert at.vim.lines()[:2] == ["import json", "import sys"]


def test_siblings_get_the_same_change(at: Situations) -> None:
    at.open("x = get(url)\ny = get(path)\nz = get(name)\n")
    at.vim.keys("f)i, timeout=5<Esc>j0f)i, timeout=5<Esc>0")
    assert at.marks() == ["2:, timeout=5"]
    at.vim.keys("<Tab>")
    assert at.vim.lines()[2] == "z = get(name, timeout=5)"


def test_a_deletion_marks_what_goes(at: Situations) -> None:
    at.open("def f(a, b):\n    return a\n\n\nx = f(1, 2)\n")
    at.vim.keys("f,d3l")
    assert at.vim.lines()[0] == "def f(a):"
    assert at.marks() == ["4-4"]
    at.vim.keys("<Tab>")
    assert at.vim.lines()[4] == "x = f(1)"


def test_tab_jumps_far_then_accepts(at: Situations) -> None:
    at.open(FAR)
    line = FAR.split("\n").index("load()")
    at.vim.keys("wcwread<Esc>")
    at.marks()
    at.vim.keys("<Tab>")
    assert at.vim.cursor()[0] == line + 1 and at.vim.lines()[line] == "load()"
    at.vim.keys("<Tab>")
    assert at.vim.lines()[line] == "read()"
    at.vim.keys("<C-o>")
    assert at.vim.cursor()[0] == 1, "the jump list leads back"


def test_an_edit_off_the_screen_has_a_hint(at: Situations) -> None:
    at.open(FAR)
    line = FAR.split("\n").index("load()")
    at.vim.keys("wcwread<Esc>")
    assert at.marks() == [f"0: <Tab> next edit: line {line + 1}"]


def test_tab_after_tab_takes_one_after_the_other(at: Situations) -> None:
    at.open(RENAME)
    at.vim.keys("wcwread<Esc>")
    assert at.marks() == ["3-3", "3:read"]
    at.vim.keys("<Tab>")
    assert at.marks() == ["4-4", "4:read"]
    at.vim.keys("<Tab>")
    assert at.vim.lines()[3:] == ["x = read()", "y = read()"]
    at.nothing()
    assert at.vim.lua("return vim.fn.maparg('<Tab>', 'n')") == "", "the keys are free again"


def test_escape_rejects_and_is_remembered(at: Situations) -> None:
    at.open("def load():\n    pass\n\n\nx = load()\n")
    at.vim.keys("wcwread<Esc>")
    at.marks()
    at.vim.keys("<Esc>")
    assert at.vim.lua(f"return {_VISIBLE}") is False
    assert at.vim.lines()[4] == "x = load()"
    at.vim.keys("jA  # 1<Esc>")
    at.nothing()


def test_an_accepted_edit_is_one_undo_step(at: Situations) -> None:
    at.open(RENAME)
    at.vim.keys("wcwread<Esc>")
    at.marks()
    at.vim.keys("<Tab>")
    assert at.vim.lines()[0::3] == ["def read():", "x = read()"]
    at.vim.keys("u")
    assert at.vim.lines()[0::3] == ["def read():", "x = load()"]


def test_an_open_completion_menu_keeps_its_keys(at: Situations) -> None:
    at.open("def load():\n    pass\n\n\nx = load()\nreader = reading = 1\n")
    at.vim.keys("wciwread<C-n>")
    assert at.vim.lua("return vim.fn.pumvisible()") == 1
    at.nothing()
    at.vim.keys("<C-y><Esc>")


def test_an_active_snippet_keeps_tab(at: Situations) -> None:
    at.open("def load():\n    pass\n\n\nx = load()\n")
    at.vim.keys("wdei")
    at.vim.lua("vim.snippet.expand('${1:read}${2:_all}')")
    at.vim.keys("read")
    assert at.vim.lua("return vim.snippet.active()") is True
    at.nothing()
    at.vim.lua("vim.snippet.stop()")


def test_ghost_text_goes_first(at: Situations) -> None:
    at.open(RENAME)
    at.vim.lua(
        "local ghost = require('underkeel.ghost')"
        " _G.visible, ghost.visible = ghost.visible, function() return true end"
    )
    try:
        at.vim.keys("wcwread<Esc>")
        at.nothing()
    finally:
        at.vim.lua("require('underkeel.ghost').visible = _G.visible")


def test_line_ends_of_windows(at: Situations) -> None:
    path = at.open(RENAME.replace("\n", "\r\n"))
    at.vim.keys("wcwread<Esc>")
    assert at.marks() == ["3-3", "3:read"]
    at.vim.keys("<Tab>")
    at.vim.command("write")
    assert path.read_bytes() == b"def read():\r\n    pass\r\n\r\nx = read()\r\ny = load()\r\n"


def test_tabs_keep_their_columns(at: Situations) -> None:
    at.open("def f(size):\n\tif size:\n\t\treturn\tsize\n")
    at.vim.keys("fsciwwidth<Esc>")
    assert at.marks() == ["1-1", "1:width"]
    at.vim.keys("<Tab>")
    at.marks()
    at.vim.keys("<Tab>")
    assert at.vim.lines() == ["def f(width):", "\tif width:", "\t\treturn\twidth"]


def test_columns_after_other_scripts(at: Situations) -> None:
    at.open("def f(größe):\n    return '😀é', größe\n")
    at.vim.keys("f(lciwbreite<Esc>")
    assert at.marks() == ["1-1", "1:breite"]
    at.vim.keys("<Tab>")
    assert at.vim.lines()[1] == "    return '😀é', breite"


def test_a_replacement_of_several_lines(at: Situations) -> None:
    at.open("def f(a, b):\n    return a\n\n\nx = f(\n    1,\n    2,\n)\n")
    at.vim.command("call setline(1, 'def f(b, a):')")
    at.vim.command("doautocmd TextChanged")
    assert at.marks() == ["5-6", "6:    2,", "6:    1,"]
    at.vim.keys("<Tab>")
    assert at.vim.lines()[4:] == ["x = f(", "    2,", "    1,", ")"]


def test_the_end_of_a_file_without_a_line_end(at: Situations) -> None:
    path = at.open("def load():\n    pass\n\n\nx = load")
    at.vim.keys("wcwread<Esc>")
    assert at.marks() == ["4-4", "4:read"]
    at.vim.keys("<Tab>")
    at.vim.command("set nofixendofline | write")
    assert path.read_bytes().endswith(b"\nx = read")


def test_a_buffer_that_may_not_be_changed_stays_as_it_is(at: Situations) -> None:
    at.open(RENAME)
    at.vim.keys("wcwread<Esc>")
    at.marks()
    at.vim.command("setlocal nomodifiable | let v:errmsg = ''")
    at.vim.keys("<Tab>")
    assert at.vim.lines()[3] == "x = load()"
    assert at.vim.lua("return vim.v.errmsg") == ""
    at.vim.command("setlocal modifiable")


def test_a_second_window_on_the_same_file(at: Situations) -> None:
    at.open(FAR)
    line = FAR.split("\n").index("load()")
    at.vim.command("split | normal! G")
    at.vim.command("wincmd j | normal! gg")
    at.vim.keys("wcwread<Esc>")
    assert at.marks() == [f"0: <Tab> next edit: line {line + 1}"], "it counts where the cursor is"
    at.vim.keys("<Tab>")
    assert at.vim.cursor()[0] == line + 1
    at.vim.keys("<Tab>")
    assert at.vim.lines()[line] == "read()"


def test_a_file_that_imports_the_name_follows(at: Situations) -> None:
    """The rename of a function continues in another file: a hint names it, and Tab opens it; then
    its uses there follow."""
    at.open("def load():\n    pass\n", name="shared.py")
    for _ in range(40):  # until the index has been built
        at.vim.keys("ggwciwread<Esc>")
        at.vim.lua("vim.wait(300)")
        if at.vim.lua(f"return {_VISIBLE}"):
            break
        at.vim.keys("u")
    found = at.marks()
    assert found == ["0: <Tab> next edit: user.py:1"]
    at.vim.keys("<Tab>")
    assert at.vim.lua("return vim.fn.expand('%:t')") == "user.py"
    assert at.marks() == ["0-0", "0:read"]
    at.vim.keys("<Tab>")
    assert at.marks() == ["2-2", "2:read"], "what uses the import follows"
    at.vim.keys("<Tab>")
    assert at.vim.lines() == ["from shared import read", "", "read()"]
