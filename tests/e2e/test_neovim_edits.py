"""Edits in a real Neovim: by code action, by name, by instruction; the language server is scripted.

Nothing changes before the user has seen the diff and accepted it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvim_session import Session, session

pytestmark = pytest.mark.editor

SAMPLE = ["def add(a, b):", "    return a - b", "", "# end"]
FIXED = ["def add(a, b):", "    return a + b", "", "# end"]
MINUS = {"start": {"line": 1, "character": 13}, "end": {"line": 1, "character": 14}}


def changes(
    new: str = "+", where: dict[str, Any] = MINUS, description: str | None = None
) -> dict[str, Any]:
    """A WorkspaceEdit as the server makes them."""
    annotation = {"label": "Underkeel", "needsConfirmation": True}
    if description is not None:
        annotation["description"] = description
    edit = {"range": where, "newText": new, "annotationId": "underkeel"}
    return {
        "documentChanges": [{"textDocument": "here", "edits": [edit]}],
        "changeAnnotations": {"underkeel": annotation},
    }


FIX = {
    "title": "Fix this error",
    "kind": "quickfix.underkeel.fix",
    "resolve": {"edit": changes()},
}
DOCUMENT = {
    "title": "Document this",
    "kind": "refactor.rewrite.underkeel.document",
    "resolve": {"edit": changes()},
}


@pytest.fixture
def vim(tmp_path: Path) -> Iterator[Session]:
    with session(tmp_path) as editor:
        editor.command("set columns=120")
        editor.open(tmp_path / "sample.py", "\n".join(SAMPLE) + "\n")
        editor.keys("j")
        yield editor


def wait_preview(vim: Session) -> list[str]:
    """The lines of the diff, once its window is there; the cursor is in it."""
    vim.wait("vim.bo.filetype == 'diff'", what="the diff")
    return vim.lines()


def test_a_fix_is_shown_before_it_is_made(vim: Session) -> None:
    vim.rules(actions=[FIX, DOCUMENT])
    vim.keys(":Underkeel fix<CR>")
    assert wait_preview(vim) == [
        "--- sample.py",
        "+++ sample.py",
        "@@ -1,4 +1,4 @@",
        " def add(a, b):",
        "-    return a - b",
        "+    return a + b",
        " ",
        " # end",
    ]
    screen = vim.screen()
    assert "y applies this edit, q discards it" in screen
    assert "    return a - b" in screen[1], "not yet"
    vim.keys("y")
    vim.wait("#vim.api.nvim_list_wins() == 1")
    assert vim.lines() == FIXED
    assert vim.lua("return vim.bo.modified"), "never saved by itself"
    vim.keys("u")
    vim.wait("vim.fn.getline(2) == '    return a - b'")
    [request] = vim.log("textDocument/codeAction")
    assert request["params"]["context"]["only"] == ["quickfix.underkeel.fix"]


def test_the_diagnostics_at_the_cursor_are_sent(vim: Session) -> None:
    vim.lua(
        """
        vim.diagnostic.set(vim.api.nvim_create_namespace('test'), 0, {
          { lnum = 0, col = 4, end_lnum = 0, end_col = 7, message = 'elsewhere' },
          { lnum = 1, col = 13, end_lnum = 1, end_col = 14, message = 'wrong sign', severity = 1 },
        })
        """
    )
    vim.rules(actions=[FIX])
    vim.keys(":Underkeel fix<CR>")
    wait_preview(vim)
    [request] = vim.log("textDocument/codeAction")
    diagnostics = request["params"]["context"]["diagnostics"]
    assert diagnostics == [{"range": MINUS, "message": "wrong sign", "severity": 1}]


@pytest.mark.parametrize("key", ["q", "n", ":quit<CR>"])
def test_a_discarded_fix_changes_nothing(vim: Session, key: str) -> None:
    vim.rules(actions=[FIX])
    vim.keys(":Underkeel fix<CR>")
    wait_preview(vim)
    vim.keys(key)
    vim.wait("#vim.api.nvim_list_wins() == 1")
    assert vim.lines() == SAMPLE
    assert not vim.lua("return vim.bo.modified")


def test_neovim_s_own_code_action_shows_it_too(vim: Session) -> None:
    vim.rules(actions=[FIX, DOCUMENT])
    vim.lua("vim.ui.select = function(items, _, choose) choose(items[2], 2) end")
    vim.lua("vim.lsp.buf.code_action()")
    wait_preview(vim)
    vim.keys("y")
    vim.wait("#vim.api.nvim_list_wins() == 1")
    assert vim.lines() == FIXED
    assert len(vim.log("codeAction/resolve")) == 1


def test_a_syntax_error_is_noted_above_the_diff(vim: Session) -> None:
    broken = {
        "edit": changes(
            "((", description="BREAKS THE SYNTAX near line 2; replaces 1 line with 1 line"
        )
    }
    vim.rules(actions=[FIX | {"resolve": broken}])
    vim.keys(":Underkeel fix<CR>")
    note = "This BREAKS THE SYNTAX near line 2; replaces 1 line with 1 line."
    assert wait_preview(vim)[:3] == [note, "", "--- sample.py"]


def test_an_edit_for_an_older_text_is_not_made(vim: Session) -> None:
    vim.rules(actions=[FIX])
    vim.keys(":Underkeel fix<CR>")
    wait_preview(vim)
    vim.keys("<C-w>k")
    vim.wait("vim.bo.filetype == 'python'")
    vim.keys("Go# more<Esc><C-w>j")
    vim.wait("vim.bo.filetype == 'diff'")
    vim.keys("y")
    vim.wait("vim.fn.execute('messages'):find('has changed since') ~= nil")
    vim.wait("#vim.api.nvim_list_wins() == 1")
    assert vim.lines() == [*SAMPLE, "# more"]


def test_a_new_file_is_shown_whole(vim: Session, tmp_path: Path) -> None:
    uri = (tmp_path / "test_sample.py").as_uri()
    start = {"line": 0, "character": 0}
    edit = {"range": {"start": start, "end": start}, "newText": "def test_add():\n    pass\n"}
    created = {"kind": "create", "uri": uri, "options": {"ignoreIfExists": True}}
    text = {"textDocument": {"uri": uri, "version": None}, "edits": [edit]}
    tests = {
        "title": "Write tests for this",
        "kind": "refactor.rewrite.underkeel.tests",
        "resolve": {"edit": {"documentChanges": [created, text]}},
    }
    vim.rules(actions=[tests])
    vim.keys(":Underkeel tests<CR>")
    assert wait_preview(vim) == [
        "--- /dev/null",
        "+++ test_sample.py",
        "@@ -0,0 +1,2 @@",
        "+def test_add():",
        "+    pass",
    ]
    assert not (tmp_path / "test_sample.py").exists()
    vim.keys("y")
    vim.wait("#vim.api.nvim_list_wins() == 1")
    written = vim.lua("return vim.api.nvim_buf_get_lines(vim.uri_to_bufnr(...), 0, -1, false)", uri)
    assert written == ["def test_add():", "    pass"]


def test_the_user_chooses_among_several(vim: Session) -> None:
    other = FIX | {"title": "Fix the other error", "resolve": {"edit": changes("*")}}
    vim.rules(actions=[FIX, other])
    # Neovim's own list blocks every other request; a picker of the user's takes its place here.
    vim.lua(
        """
        vim.ui.select = function(items, options, choose)
          offered = vim.tbl_map(options.format_item, items)
          choose(items[2], 2)
        end
        """
    )
    vim.keys(":Underkeel fix<CR>")
    assert "+    return a * b" in wait_preview(vim)
    assert vim.lua("return offered") == ["Fix this error", "Fix the other error"]


def test_nothing_to_fix_and_an_error_are_reported(vim: Session) -> None:
    vim.rules(actions=[DOCUMENT])
    vim.keys(":Underkeel fix<CR>")
    vim.wait("vim.fn.execute('messages'):find('nothing to fix here') ~= nil")
    vim.rules(actions=[FIX | {"resolve": {"error": "There is no model. Run: underkeel pull"}}])
    vim.keys(":Underkeel fix<CR>")
    vim.wait("vim.fn.execute('messages'):find('There is no model') ~= nil")
    assert vim.lines() == SAMPLE


def test_an_edit_that_is_being_written_can_be_cancelled(vim: Session) -> None:
    vim.rules(edit={"hold": True})
    vim.keys(":Underkeel edit add types<CR>:Underkeel cancel<CR>")
    vim.settle()
    executed = vim.log("workspace/executeCommand")
    [edit] = [message for message in executed if message["params"]["command"] == "underkeel.edit"]
    assert [c["params"]["id"] for c in vim.log("$/cancelRequest")] == [edit["id"]]


@pytest.mark.parametrize(("key", "applied", "lines"), [("y", True, FIXED), ("q", False, SAMPLE)])
def test_an_edit_by_instruction_waits_for_the_user(
    vim: Session, key: str, applied: bool, lines: list[str]
) -> None:
    vim.rules(edit={"apply": changes(), "result": {"message": ""}})
    vim.keys(":Underkeel edit use a plus<CR>")
    wait_preview(vim)
    assert vim.lua("return vim.api.nvim_buf_get_lines(1, 0, -1, false)") == SAMPLE
    vim.keys(key)
    vim.wait("#vim.api.nvim_list_wins() == 1")
    vim.settle()
    assert vim.lines() == lines
    [answer] = [m for m in vim.log() if str(m.get("id", "")).startswith("apply-")]
    assert answer["result"]["applied"] is applied


def test_without_a_preview_where_configured(tmp_path: Path) -> None:
    with session(tmp_path, config="{ edit = { preview = false } }") as vim:
        vim.open(tmp_path / "sample.py", "\n".join(SAMPLE) + "\n")
        vim.rules(actions=[FIX])
        vim.keys("j:Underkeel fix<CR>")
        vim.wait("vim.fn.getline(2) == '    return a + b'")
        assert vim.lua("return #vim.api.nvim_list_wins()") == 1
