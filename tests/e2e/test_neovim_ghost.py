"""Ghost text in a real Neovim; the language server is scripted, so that timing is certain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nvim_session import Session, session

pytestmark = pytest.mark.editor

SAMPLE = "def add(a, b):\n    \n\n# end\n"
OVER_LINES = {"start": {"line": 0, "character": 0}, "end": {"line": 3, "character": 0}}


@pytest.fixture
def vim(tmp_path: Path) -> Iterator[Session]:
    with session(tmp_path) as editor:
        editor.open(tmp_path / "sample.py", SAMPLE)
        yield editor


def items(*texts: str) -> list[dict[str, object]]:
    return [{"insertText": text} for text in texts]


def triggers(vim: Session) -> list[int]:
    requests = vim.log("textDocument/inlineCompletion")
    return [request["params"]["context"]["triggerKind"] for request in requests]


# Showing and accepting


def test_ghost_text_appears_while_typing_and_tab_accepts_it(vim: Session) -> None:
    command = {"title": "", "command": "underkeel.accepted", "arguments": [{"id": "7"}]}
    vim.rules({"after": "return ", "items": [{"insertText": "a + b", "command": command}]})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    assert vim.lines()[1] == "    return "
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines() == ["def add(a, b):", "    return a + b", "", "# end"]
    assert vim.cursor() == (2, 16)
    assert vim.lua("return vim.fn.mode()") == "i"
    vim.settle()
    [executed] = vim.log("workspace/executeCommand")
    assert executed["params"] == {"command": "underkeel.accepted", "arguments": [{"id": "7"}]}


def test_several_lines_show_below_and_are_accepted_whole(vim: Session) -> None:
    vim.rules({"after": "    ", "items": items("total = a + b\n    return total")})
    vim.keys("jA")
    vim.wait_ghost("total = a + b\n    return total")
    assert vim.screen()[:4] == ["def add(a, b):", "    total = a + b", "    return total", ""]
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[:3] == ["def add(a, b):", "    total = a + b", "    return total"]
    assert vim.cursor() == (3, 16)


def test_lines_in_the_middle_of_a_line_move_its_rest_down(vim: Session) -> None:
    vim.rules({"after": "add(", "items": items("\n    a: int,\n    b: int,\n")})
    vim.keys("f(a")
    vim.wait_ghost("".ljust(len("a, b):")) + "\n    a: int,\n    b: int,\na, b):")
    assert vim.screen()[:4] == ["def add(", "    a: int,", "    b: int,", "a, b):"]
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[:4] == ["def add(", "    a: int,", "    b: int,", "a, b):"]


def test_text_that_replaces_is_drawn_around_what_stays(vim: Session) -> None:
    rule = {"after": "add(", "items": [{"insertText": "add(a: int, b: int):", "relative": [-4, 6]}]}
    vim.rules(rule)
    vim.keys("f(a")
    vim.wait_ghost(": int: int")
    assert vim.screen()[0] == "def add(a: int, b: int):"
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[0] == "def add(a: int, b: int):"


def test_a_closing_bracket_that_is_there_is_jumped_over(vim: Session) -> None:
    vim.rules({"after": "print(", "items": [{"insertText": "a)", "relative": [0, 1]}]})
    vim.keys("jAprint()<Left>")
    vim.wait_ghost("a")
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert (vim.lines()[1], vim.cursor()) == ("    print(a)", (2, 12))


def test_tabs_in_ghost_text_are_as_wide_as_in_the_buffer(vim: Session) -> None:
    vim.command("set tabstop=4")
    vim.rules({"after": "    ", "items": items("if a:\n\t\treturn\tb")})
    vim.keys("jA")
    vim.wait_ghost("if a:\n        return  b")
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[2] == "\t\treturn\tb"


def test_an_accept_is_one_undo_step(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b\n    # done")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b\n    # done")
    vim.keys("<Tab><Esc>u")
    vim.wait("vim.api.nvim_get_mode().mode == 'n' and vim.fn.line('$') == 4")
    assert vim.lines()[1] == "    return "


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_count_in_the_server_s_encoding(tmp_path: Path, encoding: str) -> None:
    with session(tmp_path, encoding=encoding) as vim:
        vim.open(tmp_path / "sample.py", "s = 'ä🚢'\n")
        typed = {"utf-8": 6, "utf-16": 3, "utf-32": 2}[encoding]
        rule = {
            "after": "ä🚢",
            "items": [{"insertText": "ä🚢 im Hafen 🏗️", "relative": [-typed, 0]}],
        }
        vim.rules(rule)
        vim.keys("$i")
        vim.wait_ghost(" im Hafen 🏗️")
        vim.keys("<Tab>")
        vim.wait_ghost("")
        assert vim.lines() == ["s = 'ä🚢 im Hafen 🏗️'"]


# Parts and candidates


def test_words_and_lines_can_be_accepted_one_by_one(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("größe🚢 + b()\n    # done\n    x")})
    vim.keys("jAreturn ")
    vim.wait_ghost("größe🚢 + b()\n    # done\n    x")
    vim.keys("<M-Right>")
    vim.wait_ghost(" + b()\n    # done\n    x")
    assert vim.lines()[1] == "    return größe🚢"
    vim.keys("<M-Right>")
    vim.wait_ghost(" b()\n    # done\n    x")
    vim.keys("<M-Right>")
    vim.wait_ghost("()\n    # done\n    x")
    vim.keys("<M-Right>")  # a line end is no sign of punctuation
    vim.wait_ghost("\n    # done\n    x")
    vim.keys("<M-Down>")
    vim.wait_ghost("\n    x")
    assert vim.lines()[1:3] == ["    return größe🚢 + b()", "    # done"]
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[3] == "    x"
    vim.settle()
    parts = vim.log("textDocument/didPartiallyAcceptCompletion")
    assert [part["params"]["acceptedLength"] for part in parts] == [7, 9, 11, 13, 24]
    assert len(vim.log("textDocument/didShowCompletion")) == 1


def test_candidates_cycle(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b", "a - b", "a * b")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    for expected in ("a - b", "a * b", "a + b"):
        vim.keys("<M-]>")
        vim.wait_ghost(expected)
    vim.keys("<M-[>")
    vim.wait_ghost("a * b")
    assert "3/3" in vim.screen()[1]
    assert triggers(vim).count(1) == 0


def test_where_one_candidate_is_known_next_requests_more(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    vim.rules({"after": "return ", "items": items("a + b", "a - b", "a - b")})
    vim.keys("<M-]>")
    vim.wait_ghost("a - b")
    vim.keys("<M-]>")
    vim.wait_ghost("a + b")
    assert triggers(vim)[-1] == 1
    assert triggers(vim).count(1) == 1


def test_typing_the_suggestion_keeps_the_rest_and_requests_nothing(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("alpha + b", "alpine", "beta")})
    vim.keys("jAreturn ")
    vim.wait_ghost("alpha + b")
    requests = len(triggers(vim))
    vim.keys("al")
    vim.wait_ghost("pha + b")
    assert "1/2" in vim.screen()[1], "the third candidate does not begin with what was typed"
    assert len(triggers(vim)) == requests
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[1] == "    return alpha + b"


def test_typing_something_else_removes_it_and_sends_a_new_request(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b")}, {"after": "x", "items": items("yz")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    vim.keys("x")
    vim.wait_ghost("yz")
    assert vim.lines()[1] == "    return x"


def test_dismissed_ghost_text_does_not_return_until_the_text_changes(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b")}, {"after": "a", "items": items("bc")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    requests = len(triggers(vim))
    vim.keys("<C-]>")
    vim.wait_ghost("")
    vim.settle()
    assert len(triggers(vim)) == requests
    vim.keys("a")
    vim.wait_ghost("bc")


def test_the_trigger_key_works_where_automatic_requests_are_off(tmp_path: Path) -> None:
    with session(tmp_path, config="{ ghost = { auto = false } }") as vim:
        vim.open(tmp_path / "sample.py", SAMPLE)
        vim.rules({"after": "return ", "items": items("a + b")})
        vim.keys("jAreturn ")
        vim.settle()
        assert triggers(vim) == []
        vim.keys("<M-Bslash>")
        vim.wait_ghost("a + b")
        assert triggers(vim) == [1]


# Never stale


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("x", id="typed"),
        pytest.param("<BS>", id="deleted"),
        pytest.param("<Left>", id="moved"),
        pytest.param("<Esc>", id="left insert mode"),
        pytest.param("<C-o>:new<CR>", id="other buffer"),
    ],
)
def test_a_response_for_an_older_state_is_dropped(vim: Session, then: str) -> None:
    """The server responds although the request was cancelled, as if it had just finished."""
    vim.rules({"after": "return ", "items": items("STALE"), "hold": True, "deaf": True})
    vim.keys("jAreturn ")
    vim.wait("next(vim.lsp.get_clients({ name = 'underkeel' })[1].requests) ~= nil")
    vim.settle()
    assert len(triggers(vim)) > 0
    vim.keys(then)
    vim.settle()
    vim.release()
    vim.settle()
    assert vim.ghost() == []
    assert not any("STALE" in row for row in vim.screen())


def test_the_previous_request_is_cancelled(vim: Session) -> None:
    vim.rules({"after": "", "items": items("late"), "hold": True})
    vim.keys("jA")
    for key in "return a + b - a * b // a % b":
        vim.keys(key)
        vim.settle()
    requests = [message["id"] for message in vim.log("textDocument/inlineCompletion")]
    cancelled = [message["params"]["id"] for message in vim.log("$/cancelRequest")]
    assert len(requests) == 30
    assert cancelled == requests[:-1]
    vim.release()
    vim.wait_ghost("late")


def test_keys_typed_ahead_of_the_screen_cannot_accept_what_is_outdated(vim: Session) -> None:
    vim.command("set noexpandtab")
    vim.rules({"after": "return ", "items": items("a + b")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    vim.keys("xy<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[1] == "    return xy\t"


def test_keys_typed_ahead_along_the_text_accept_its_rest(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    vim.keys("a +<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[1] == "    return a + b"


def test_a_failed_request_is_silent(vim: Session) -> None:
    vim.rules({"after": "return ", "error": "no model"}, {"after": "x", "items": items("yz")})
    vim.keys("jAreturn ")
    vim.settle()
    assert (vim.ghost(), vim.messages()) == ([], "")
    vim.keys("x")
    vim.wait_ghost("yz")


@pytest.mark.parametrize(
    "item",
    [
        pytest.param({"insertText": {"kind": "snippet", "value": "a$0"}}, id="snippet"),
        pytest.param({"insertText": ""}, id="nothing to insert"),
        pytest.param({"insertText": "other", "relative": [-3, 0]}, id="not what was typed"),
        pytest.param({"insertText": "rn", "relative": [-3, -1]}, id="behind the cursor"),
        pytest.param({"insertText": "x", "range": OVER_LINES}, id="over lines"),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_drawn_is_left_out(vim: Session, item: dict[str, object]) -> None:
    vim.rules({"after": "return ", "items": [item, *items("a + b")]})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    assert "1/2" not in vim.screen()[1]


# Keys of the user


def test_tab_keeps_the_user_s_mapping_where_no_ghost_text_shows(tmp_path: Path) -> None:
    before = """
      vim.keymap.set('i', '<Tab>', 'MINE')
      vim.api.nvim_create_autocmd('BufEnter', { pattern = '*.py', callback = function(args)
        local own = function() vim.api.nvim_put({ 'OWN' }, 'c', false, true) end
        vim.keymap.set('i', '<M-Right>', own, { buffer = args.buf })
      end })
    """
    with session(tmp_path, before=before) as vim:
        vim.open(tmp_path / "sample.py", SAMPLE)
        vim.rules({"after": "return ", "items": items("a + b")})
        vim.keys("jA<Tab>")
        vim.wait("vim.fn.getline('.') == '    MINE'")
        vim.keys("<C-u>return ")
        vim.wait_ghost("a + b")
        vim.keys("<M-Right>")
        vim.wait_ghost(" + b")
        vim.keys("<C-]>")
        vim.wait_ghost("")
        vim.keys("<Tab><M-Right>")
        vim.wait("vim.fn.getline('.') == '    return aMINEOWN'")


def test_no_key_is_mapped_that_the_configuration_leaves_empty(tmp_path: Path) -> None:
    with session(tmp_path, config="{ mappings = { accept = '', trigger = '' } }") as vim:
        vim.open(tmp_path / "sample.py", SAMPLE)
        vim.rules({"after": "return ", "items": items("a + b")})
        vim.keys("jAreturn ")
        vim.wait_ghost("a + b")
        assert vim.lua("return vim.fn.maparg('<Tab>', 'i', false, true).buffer ~= 1")
        assert vim.lua("return vim.fn.maparg('<M-Bslash>', 'i')") == ""
        assert vim.lua("return require('underkeel').accept()") is True
        assert vim.lines()[1] == "    return a + b"


def test_ghost_text_disappears_while_the_popup_menu_is_open(vim: Session) -> None:
    vim.command("set completeopt=menuone")
    vim.rules(
        {"after": "return ", "items": items("add(a, b)")}, {"after": "a", "items": items("dd()")}
    )
    vim.keys("jAreturn ")
    vim.wait_ghost("add(a, b)")
    vim.keys("a<C-x><C-n>")
    vim.wait("vim.fn.pumvisible() == 1")
    vim.wait_ghost("")
    assert vim.lua("return vim.fn.maparg('<M-Right>', 'i')") == ""
    vim.keys("<C-e>")
    vim.wait("vim.fn.pumvisible() == 0")
    vim.wait_ghost("dd()")


# Switches


def test_switched_off_for_all_for_a_filetype_and_for_a_buffer(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b")})
    vim.keys("jAreturn ")
    for off, on in (
        ("Underkeel disable", "Underkeel enable"),
        ("Underkeel disable python", "Underkeel enable python"),
        ("Underkeel toggle", "Underkeel toggle"),
        ("let b:underkeel_disable = v:true", "let b:underkeel_disable = v:false"),
    ):
        vim.wait_ghost("a + b")
        vim.keys(f"<Cmd>{off}<CR><BS>n<BS> ")
        vim.wait_ghost("")
        vim.settle()
        assert vim.ghost() == [], off
        vim.keys(f"<Cmd>{on}<CR><BS> ")


def test_ghost_text_disappears_with_the_server_and_returns_after_a_restart(vim: Session) -> None:
    vim.rules({"after": "return ", "items": items("a + b")})
    vim.keys("jAreturn ")
    vim.wait_ghost("a + b")
    vim.lua(
        "vim.uv.kill(tonumber(vim.fn.systemlist('pgrep -P ' .. vim.fn.getpid())[1]), 'sigkill')"
    )
    vim.wait("#vim.lsp.get_clients({ name = 'underkeel' }) == 0")
    vim.wait_ghost("")
    assert "error" in vim.lua("return require('underkeel').statusline()")
    vim.keys("x")
    vim.command("Underkeel restart")
    vim.wait("(vim.lsp.get_clients({ name = 'underkeel' })[1] or {}).initialized")
    vim.rules({"after": "return ", "items": items("a + b")})
    vim.keys("<BS>")
    vim.wait_ghost("a + b")


def test_a_request_from_before_the_model_was_ready_is_repeated(vim: Session) -> None:
    def status(state: str) -> None:
        params = {"state": state, "message": ""}
        vim.tell("scripted/send", {"method": "underkeel/status", "params": params})

    status("loading")
    vim.rules({"after": "return ", "items": []})
    vim.keys("jAreturn ")
    vim.settle()
    vim.rules({"after": "return ", "items": items("a + b")})
    status("ready")
    vim.wait_ghost("a + b")
    requests = len(triggers(vim))
    status("busy")
    status("ready")
    vim.settle()
    assert len(triggers(vim)) == requests


def test_text_typed_before_the_server_started_is_requested_then(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with session(tmp_path, config="{ enabled = false }") as vim:
        (tmp_path / "sample.py").write_text(SAMPLE)
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
        vim.keys("jAreturn ")
        assert vim.lines()[1] == "    return "
        assert vim.ghost() == []
        go.touch()
        vim.wait("(vim.lsp.get_clients({ name = 'underkeel' })[1] or {}).initialized")
        vim.wait("#vim.lsp.get_clients({ bufnr = 0, name = 'underkeel' }) == 1")
        vim.settle()
        assert len(vim.log("textDocument/inlineCompletion")) == 1


# Blocks that grow


def grow(vim: Session, text: str, id_: str = "7", *, complete: bool = False) -> None:
    """The server sends a longer form of an item."""
    here = {"line": 1, "character": 4}
    item = {**item_of(text, id_), "range": {"start": here, "end": here}}
    document = {"uri": "file:///sample.py", "version": 1}
    update = {"textDocument": document, "position": here, "item": item, "complete": complete}
    vim.tell("scripted/send", {"method": "underkeel/completionUpdate", "params": update})


def item_of(text: str, id_: str = "7") -> dict[str, object]:
    command = {"title": "", "command": "underkeel.accepted", "arguments": [{"id": id_}]}
    return {"insertText": text, "command": command}


def test_a_block_grows_in_place_and_is_reported_once(vim: Session) -> None:
    vim.rules({"after": "    ", "items": [item_of("if a:")]})
    vim.keys("jA")
    vim.wait_ghost("if a:")
    grow(vim, "if a:\n        return a")
    vim.wait_ghost("if a:\n        return a")
    grow(vim, "if a:\n        return a\n    return b", complete=True)
    vim.wait_ghost("if a:\n        return a\n    return b")
    assert vim.screen()[1:4] == ["    if a:", "        return a", "    return b"]
    assert len(vim.log("textDocument/didShowCompletion")) == 1
    assert len(triggers(vim)) == 1
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[1:4] == ["    if a:", "        return a", "    return b"]
    vim.settle()
    [executed] = vim.log("workspace/executeCommand")
    assert executed["params"]["arguments"] == [{"id": "7"}]


def test_a_block_grows_while_its_first_line_is_typed(vim: Session) -> None:
    vim.rules({"after": "    ", "items": [item_of("if a:")]})
    vim.keys("jA")
    vim.wait_ghost("if a:")
    vim.keys("if")
    vim.wait_ghost(" a:")
    grow(vim, "if a:\n        return a")
    vim.wait_ghost(" a:\n        return a")
    vim.keys("<Tab>")
    vim.wait_ghost("")
    assert vim.lines()[1:3] == ["    if a:", "        return a"]


def test_updates_of_what_is_gone_are_ignored(vim: Session) -> None:
    vim.rules({"after": "    ", "items": [item_of("if a:")]})
    vim.keys("jA")
    vim.wait_ghost("if a:")
    grow(vim, "while a:\n        pass", "8")
    vim.settle()
    assert vim.ghost_text() == "if a:"
    vim.keys("<C-]>")
    vim.wait_ghost("")
    grow(vim, "if a:\n        return a")
    vim.settle()
    assert vim.ghost_text() == ""
    vim.keys("x")
    grow(vim, "if a:\n        return a\n    b")
    vim.settle()
    assert vim.ghost_text() == ""
