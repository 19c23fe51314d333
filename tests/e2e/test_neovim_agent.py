"""The agent's panel in a real Neovim, on `underkeel acp` and a real daemon with a played model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from acp_tap import messages, wrong_messages
from chatting import ChattingEngine, call, environment, large_context, played
from daemons import serving
from neovim import Neovim, neovim

pytestmark = pytest.mark.editor

CODE = "def area(w, h):\n    return w + h\n"
FIX = call("replace_text", path="shape.py", old="w + h", new="w * h")
PLAN = call("update_plan", items=[{"text": "Fix area", "status": "in_progress"}])
TAP = Path(__file__).parents[1] / "equipment" / "acp_tap.py"
SCRIPT = [PLAN, call("read_file", path="shape.py"), FIX,
          call("run_command", command="python3 -c 'print(6)'"), "It **multiplies** now.",
          call("run_command", command="sleep 600")]  # fmt: skip


TEXT = "table.concat(vim.api.nvim_buf_get_lines({}, 0, -1, false), '\\n')"
TALK = TEXT.format("vim.fn.bufnr('underkeel://agent$')")


def conversation(vim: Neovim) -> str:
    text: str = vim.lua(f"return {TALK}")
    return text


def wait_note(vim: Neovim, part: str) -> None:
    """Wait until a window's line on top has this."""
    vim.wait(
        "vim.iter(vim.api.nvim_list_wins()):any(function(w)"
        f" return vim.wo[w].winbar:find('{part}', 1, true) ~= nil end)",
        what=part,
    )


@pytest.fixture
def vim(tmp_path: Path, home: Path) -> Iterator[Neovim]:
    folder = tmp_path / "work"
    (folder / ".git").mkdir(parents=True)
    (folder / "shape.py").write_text(CODE)
    with neovim(folder, environment=environment()) as editor:
        editor.lua("vim.o.columns, vim.o.lines = 120, 40")
        editor.lua("vim.ui.select = function(items, _, done) done(items[1]) end")
        editor.lua(
            "require('underkeel').setup({ enabled = false, cmd = { ... } })",
            sys.executable, str(TAP), str(tmp_path / "log.jsonl"), "lsp",
        )  # fmt: skip
        yield editor


def test_a_task_in_the_panel(vim: Neovim, tmp_path: Path, played_model: Path) -> None:
    """Selection attached, plan, diff, approvals by key in an unsaved buffer, stop, history."""
    engine = played(played_model, SCRIPT)

    async def main() -> None:
        async with serving(engine, planner=lambda: large_context(played_model)):
            await asyncio.to_thread(drive, vim, tmp_path / "work" / "shape.py", engine)

    asyncio.run(main())
    vim.close()
    log = tmp_path / "log.jsonl"
    assert not (wrong := wrong_messages(log)), "\n".join(wrong)
    methods = {message.get("method") for _, message in messages(log)}
    assert {"fs/read_text_file", "fs/write_text_file", "session/cancel", "session/load"} <= methods


def drive(vim: Neovim, path: Path, engine: ChattingEngine) -> None:
    vim.edit(path)
    vim.keys("Go# draft<Esc>")
    vim.keys(":1,2UnderkeelAgent Fix area.<CR>")
    wait_note(vim, "y allow")
    talk = conversation(vim)
    assert talk.startswith("> Fix area.\n> @shape.py:1-2\n\n")
    assert "**Plan**\n- [-] Fix area" in talk and "✓ Read shape.py" in talk
    assert "-    return w + h" in talk and "+    return w * h" in talk
    wait_note(vim, "tokens (")
    prompt = bytes(engine.asked[0].prompt).decode()
    assert "Attached text of" in prompt and "def area" in prompt

    vim.keys("d")
    assert vim.lua("return #vim.api.nvim_tabpage_list_wins(0)") == 2
    assert vim.lua(f"return vim.wo.diff and {TEXT.format(0)}") == (
        CODE.replace("+", "*") + "# draft"
    )  # fmt: skip
    assert path.read_text() == CODE, "nothing is written before the approval"
    vim.keys("y")
    wait_note(vim, "y allow")
    fixed = CODE.replace("+", "*") + "# draft\n"
    assert path.read_text() == fixed, "the unsaved line is kept"
    assert "python3 -c 'print(6)'" in conversation(vim)
    vim.keys("n")
    wait_note(vim, "ready")
    talk = conversation(vim)
    assert "✓ Edit shape.py" in talk and "✗ python3" in talk
    assert talk.endswith("It **multiplies** now.")
    assert "Allow this?" not in talk
    cursor = (
        "vim.api.nvim_win_get_cursor(vim.fn.win_findbuf(vim.fn.bufnr('underkeel://agent$'))[1])"
    )
    assert vim.lua(f"return {cursor}[1]") == talk.count("\n") + 1, "the window follows"
    assert any("It multiplies now." in row for row in vim.screen()), "Markdown is drawn"

    vim.command("wincmd p")
    vim.command("buffer shape.py")
    vim.keys("u")
    assert vim.lines() == [*CODE.splitlines(), "# draft"], "one undo step"
    vim.keys("<C-r>")
    vim.command("UnderkeelAgent")
    vim.keys("Wait.<C-s>")
    wait_note(vim, "y allow")
    vim.keys("y")
    wait_note(vim, "working")
    vim.keys("<C-c>")
    wait_note(vim, "ready")
    assert conversation(vim).endswith("*Stopped: cancelled.*")

    vim.keys("N")
    wait_note(vim, "ready")
    assert conversation(vim) == ""
    vim.keys("H")
    wait_note(vim, "ready")
    vim.wait(f"({TALK}):find('multiplies', 1, true)", what="the earlier session")
    vim.keys("U")
    vim.wait(f"({TALK}):find('Restored: shape.py', 1, true)", what="the undo")
    assert path.read_text() == CODE + "# draft\n"
    vim.keys("q")
    assert vim.lua("return #vim.api.nvim_list_wins()") == 1
