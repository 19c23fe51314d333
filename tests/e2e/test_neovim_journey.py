"""One sitting in a real Neovim, its screens kept as text in screens/neovim_journey.txt.

Type, see, take a word, a line, all of it, dismiss, explain, cancel, fix. The screens are compared
whole, so that a change of what the user sees is a change of that file. After a wanted change, the
environment variable UNDERKEEL_KEEP_SCREENS=1 writes it again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nvim_session import Session, session

pytestmark = pytest.mark.editor

KEPT = Path(__file__).parent / "screens" / "neovim_journey.txt"
SAMPLE = '''"""Stock keeping."""


def total(items):
    """Value of the whole stock."""


def fewest(items):
    return max(items)
'''
REST = (
    "sum(item.price for item in items)\n\n\ndef mean(items):\n    return total(items) / len(items)"
)
MAX = {"start": {"line": 13, "character": 11}, "end": {"line": 13, "character": 14}}
FIX = {
    "title": "Fix this error",
    "kind": "quickfix.underkeel.fix",
    "resolve": {
        "edit": {
            "documentChanges": [
                {"textDocument": "here", "edits": [{"range": MAX, "newText": "min"}]}
            ]
        }
    },
}


class Journey:
    """Collects screens under what led to them."""

    def __init__(self, vim: Session) -> None:
        self._vim = vim
        self._parts: list[str] = []

    def see(self, what: str) -> None:
        screen = self._vim.screen()
        rule = "-" * self._vim.lua("return vim.o.columns")
        ghost = self._vim.ghost_text()
        shown = f"(of which ghost text: {ghost!r})" if ghost else "(no ghost text)"
        self._parts.append("\n".join([f"## {what}", rule, *screen, rule, shown, ""]))

    def text(self) -> str:
        return "\n".join(self._parts)


def test_the_screens_of_a_sitting(tmp_path: Path) -> None:
    with session(tmp_path) as vim:
        vim.command("set columns=90 lines=18 laststatus=2 noruler shortmess+=FW")
        vim.command("set statusline=%t\\ %m%=%{v:lua.require'underkeel'.statusline()}")
        vim.open(tmp_path / "stock.py", SAMPLE)
        budget = {"tokens": 640, "level": 1, "reason": "VRAM is short"}
        status = {"state": "ready", "message": "", "model": "starter-moe", "budget": budget}
        vim.tell("scripted/send", {"method": "underkeel/status", "params": status})
        vim.rules(
            {"after": "return ", "items": [{"insertText": REST}, {"insertText": "0"}]},
            explain={
                "deltas": ["`total` adds up the **prices**:\n\n", "- of all items"],
                "hold": True,
            },
            actions=[FIX],
        )
        journey = Journey(vim)

        vim.keys("/Value<CR>oreturn ")
        vim.wait_ghost(REST)
        journey.see("typed `return `: the suggestion stands after the cursor, first of two")
        vim.keys("<M-Right>")
        vim.wait_ghost(REST.removeprefix("sum"))
        journey.see("took a word")
        vim.keys("<M-Down>")
        vim.wait_ghost("\n".join(["", *REST.split("\n")[1:]]))
        journey.see("took the rest of the line")
        vim.keys("<Tab>")
        vim.wait_ghost("")
        journey.see("took all of it")
        vim.keys("<CR>return ")
        vim.wait("require('underkeel').is_visible()")
        vim.keys("<C-]>")
        vim.wait_ghost("")
        journey.see("typed on, and dismissed the suggestion")
        vim.keys("<Esc>dd/total<CR>:Underkeel explain<CR>")
        vim.wait("#vim.api.nvim_list_wins() == 2")
        vim.settle()
        journey.see("asked for an explanation, which streams")
        vim.keys(":Underkeel cancel<CR>")
        vim.settle()
        journey.see("cancelled it")
        vim.keys("<C-w>l")
        vim.wait("vim.bo.filetype == 'markdown'")
        vim.keys("q")
        vim.wait("#vim.api.nvim_list_wins() == 1")
        vim.keys("/max<CR>:Underkeel fix<CR>")
        vim.wait("vim.bo.filetype == 'diff'")
        journey.see("asked for a fix, which is shown first")
        vim.keys("y")
        vim.wait("#vim.api.nvim_list_wins() == 1")
        journey.see("applied it")

    if os.environ.get("UNDERKEEL_KEEP_SCREENS"):
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(journey.text(), encoding="utf-8")
    assert journey.text() == KEPT.read_text(encoding="utf-8")
