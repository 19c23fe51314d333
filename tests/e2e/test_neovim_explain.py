"""Explanations and edits in a real Neovim; the language server is scripted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvim_session import Session, session

pytestmark = pytest.mark.editor

SAMPLE = "def add(a, b):\n    return a + b\n\n# end\n"
EXPLAIN = "underkeel.explain"


@pytest.fixture
def vim(tmp_path: Path) -> Iterator[Session]:
    with session(tmp_path) as editor:
        editor.command("set columns=120")
        editor.open(tmp_path / "sample.py", SAMPLE)
        yield editor


def arguments(vim: Session, command: str = EXPLAIN) -> list[dict[str, Any]]:
    executed = [message["params"] for message in vim.log("workspace/executeCommand")]
    return [params["arguments"][0] for params in executed if params["command"] == command]


def panel(vim: Session) -> list[str]:
    """The lines of the explanation; empty where no window holds one."""
    lines: list[str] = vim.lua(
        """
        for _, win in ipairs(vim.api.nvim_list_wins()) do
          local buf = vim.api.nvim_win_get_buf(win)
          if vim.bo[buf].filetype == 'markdown' then
            return vim.api.nvim_buf_get_lines(buf, 0, -1, false)
          end
        end
        return {}
        """
    )
    return lines


def note(vim: Session) -> str:
    """The note above the explanation."""
    found = "vim.tbl_map(function(w) return vim.wo[w].winbar end, vim.api.nvim_list_wins())"
    notes: str = vim.lua(f"return table.concat({found})")
    return notes.removeprefix("%#UnderkeelStreaming#")


def wait_note(vim: Session, expected: str) -> None:
    vim.wait(
        "vim.iter(vim.api.nvim_list_wins()):any(function(w)"
        f" return vim.wo[w].winbar:find('{expected}', 1, true) ~= nil end)"
    )


def test_an_explanation_is_drawn_while_it_streams(vim: Session) -> None:
    vim.rules(explain={"deltas": ["It **adds** ", "two\nnumbers."], "hold": True})
    vim.keys(":1,2Underkeel explain<CR>")
    vim.wait("#vim.api.nvim_list_wins() == 2")
    vim.settle()
    assert panel(vim) == ["# sample.py:1-2", "", "It **adds** two", "numbers."]
    assert "writing" in note(vim)
    [argument] = arguments(vim)
    event = {"id": argument["id"], "kind": "delta", "text": "\n\n```python\nadd(1, 2)\n```"}
    vim.tell("scripted/send", {"method": "underkeel/explanation", "params": event})
    vim.settle()
    assert panel(vim)[-3:] == ["```python", "add(1, 2)", "```"]
    vim.release()
    wait_note(vim, "a asks")
    screen = vim.screen()
    assert any("It adds two" in row for row in screen), "the asterisks are concealed"
    assert screen[1].startswith("    return a + b"), "the code stays beside it"
    assert vim.lua("return vim.bo.filetype") == "python", "the cursor stays in the code"


def test_requests_of_each_kind(vim: Session) -> None:
    uri = vim.lua("return vim.uri_from_bufnr(0)")
    at = {"line": 1, "character": 4}
    vim.keys("jw")
    vim.keys(":Underkeel explain<CR>:Underkeel explain file<CR>:1,4Underkeel explain<CR>")
    vim.settle()
    document = {"uri": uri}
    assert [{k: v for k, v in a.items() if k != "id"} for a in arguments(vim)] == [
        {"textDocument": document, "kind": "symbol", "range": {"start": at, "end": at}},
        {"textDocument": document, "kind": "file", "range": {"start": at, "end": at}},
        {
            "textDocument": document,
            "kind": "selection",
            "range": {"start": {"line": 0, "character": 0}, "end": {"line": 4, "character": 0}},
        },
    ]
    assert len({argument["id"] for argument in arguments(vim)}) == 3


def test_a_diagnostic_is_explained_with_its_text(vim: Session) -> None:
    vim.keys(":Underkeel explain diagnostic<CR>")
    vim.settle()
    assert "no diagnostic on this line" in vim.messages()
    vim.lua(
        """
        vim.diagnostic.set(vim.api.nvim_create_namespace('test'), 0, {
          { lnum = 0, col = 4, end_lnum = 0, end_col = 7, message = 'unused', severity = 2 },
        })
        """
    )
    vim.keys(":Underkeel explain diagnostic<CR>")
    vim.settle()
    [argument] = arguments(vim)
    where = {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 7}}
    assert argument["range"] == where
    assert argument["diagnostic"] == {"range": where, "message": "unused", "severity": 2}


def test_cancelled_by_key(vim: Session) -> None:
    vim.rules(explain={"deltas": ["It adds"], "hold": True})
    vim.keys(":Underkeel explain<CR>")
    vim.wait("#vim.api.nvim_list_wins() == 2")
    vim.keys("<C-w>l")
    vim.wait("vim.bo.filetype == 'markdown'")  # typed at once, <C-c> would interrupt the jump
    vim.keys("<C-c>")
    wait_note(vim, "cancelled")
    vim.settle()
    [request] = vim.log("workspace/executeCommand")
    assert [c["params"]["id"] for c in vim.log("$/cancelRequest")] == [request["id"]]
    assert panel(vim)[-1] == "It adds"


def test_cancelled_by_closing_the_window(vim: Session) -> None:
    vim.rules(explain={"deltas": ["It adds"], "hold": True})
    vim.keys(":Underkeel explain<CR>")
    vim.wait("#vim.api.nvim_list_wins() == 2")
    vim.keys("<C-w>lq")
    vim.wait("#vim.api.nvim_list_wins() == 1")
    vim.settle()
    assert len(vim.log("$/cancelRequest")) == 1
    assert vim.messages() == ""


def test_follow_up_and_continue(vim: Session) -> None:
    vim.rules(explain={"deltas": ["It adds"], "result": {"stopReason": "limit"}})
    vim.keys(":Underkeel explain<CR>")
    wait_note(vim, "c continues")
    vim.rules(explain={"deltas": [" two numbers."], "result": {"stopReason": "end"}})
    vim.keys("<C-w>lc")
    wait_note(vim, "a asks")
    vim.rules(explain={"deltas": ["Yes."], "result": {"stopReason": "end"}})
    vim.keys("aIs it pure?<CR>")
    vim.wait("vim.fn.getline('$') == 'Yes.'")
    assert panel(vim)[2:] == ["It adds two numbers.", "", "---", "", "> Is it pure?", "", "Yes."]
    first, second, third = arguments(vim)
    assert second["continue"] == first["id"]
    assert third["followUp"] == {"of": second["id"], "question": "Is it pure?"}


def test_an_error_is_shown_in_place_of_the_text(vim: Session) -> None:
    vim.rules(explain={"error": "There is no model. Run: underkeel pull"})
    vim.keys(":Underkeel explain<CR>")
    vim.wait("#vim.api.nvim_list_wins() == 2")
    vim.settle()
    assert "**There is no model. Run: underkeel pull**" in panel(vim)


def test_text_for_a_closed_or_unknown_explanation_is_ignored(vim: Session) -> None:
    event = {"id": "nobody", "kind": "delta", "text": "x"}
    vim.tell("scripted/send", {"method": "underkeel/explanation", "params": event})
    vim.settle()
    assert vim.messages() == ""


def test_in_a_floating_window_where_configured(tmp_path: Path) -> None:
    with session(tmp_path, config="{ explain = { window = 'float', width = 40 } }") as vim:
        vim.open(tmp_path / "sample.py", SAMPLE)
        vim.rules(explain={"deltas": ["It adds."]})
        vim.keys(":Underkeel explain<CR>")
        vim.wait("#vim.api.nvim_list_wins() == 2")
        vim.settle()
        assert any("It adds." in row and "│" in row for row in vim.screen())


def test_a_code_action_opens_the_same_window(vim: Session) -> None:
    """What vim.lsp.buf.code_action does with the chosen action's command."""
    argument = {"textDocument": {"uri": "file:///x.py"}, "kind": "file"}
    command = {"title": "Explain", "command": EXPLAIN, "arguments": [argument]}
    vim.rules(explain={"deltas": ["All of it."]})
    client = "vim.lsp.get_clients({ name = 'underkeel' })[1]"
    vim.lua(f"{client}:exec_cmd(..., {{ bufnr = 0 }})", command)
    vim.wait("#vim.api.nvim_list_wins() == 2")
    vim.settle()
    assert panel(vim) == ["# x.py", "", "All of it."]


def test_an_edit_asks_for_its_instruction(vim: Session) -> None:
    vim.rules(edit={"result": {"applied": False, "message": "this would break the syntax"}})
    vim.keys(":2Underkeel edit<CR>add types<CR>")
    vim.wait("vim.fn.execute('messages'):find('break the syntax') ~= nil")
    [argument] = arguments(vim, "underkeel.edit")
    assert argument["instruction"] == "add types"
    assert argument["range"]["start"] == {"line": 1, "character": 0}
