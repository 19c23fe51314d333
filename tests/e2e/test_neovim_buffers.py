"""Which buffers the Neovim plugin serves, and what it sends; the language server is scripted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from neovim import neovim
from nvim_session import Session, session

pytestmark = pytest.mark.editor

REPEAT_SOON = "require('underkeel.ghost').REPEAT_MS = 20"


def opened(vim: Session) -> list[dict[str, Any]]:
    """Every document that was opened, in order."""
    return [message["params"]["textDocument"] for message in vim.log("textDocument/didOpen")]


def wait_client(vim: Session, count: int = 1) -> None:
    """Wait until this many clients serve the current buffer."""
    clients = "vim.lsp.get_clients({ bufnr = 0, name = 'underkeel' })"
    vim.wait(f"(#{clients} == {count} and ({count} == 0 or {clients}[1].initialized))")


def requests(vim: Session) -> list[dict[str, Any]]:
    return [message["params"] for message in vim.log("textDocument/inlineCompletion")]


# Names


def test_buffers_without_a_name_are_not_served(tmp_path: Path) -> None:
    """C12: all of them have the URI `file://`, so that two would be one document."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "named.py", "x = 1\n")
        for text in ("first", "second"):
            vim.command("enew")
            vim.command("set filetype=python")
            vim.keys(f"i{text} <Esc>")
        vim.settle()
        assert [document["uri"] for document in opened(vim)] == [(tmp_path / "named.py").as_uri()]
        changed = vim.log("textDocument/didChange")
        assert all(message["params"]["textDocument"]["uri"] != "file://" for message in changed)
        vim.keys(":Underkeel explain<CR>")
        vim.wait("vim.fn.execute('messages'):find('it has no name yet; save it first') ~= nil")
        vim.command("checkhealth underkeel")
        assert any("is not served: it has no name yet" in line for line in vim.lines())


@pytest.mark.parametrize("name_it", ["write", "file", "saveas", "keepalt file"])
def test_a_buffer_is_served_once_it_has_a_name(tmp_path: Path, name_it: str) -> None:
    """C12: with the name of the moment, and everything that was typed before."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "other.py", "")
        vim.command("enew")
        vim.command("set filetype=python")
        vim.keys("iprint(1)<Esc>")
        vim.command(f"{name_it} {tmp_path / 'new.py'}")
        wait_client(vim)
        vim.settle()
        document = opened(vim)[-1]
        assert document["uri"] == (tmp_path / "new.py").as_uri()
        assert document["text"] == "print(1)\n"


def test_a_renamed_buffer_is_closed_and_opened_again(tmp_path: Path) -> None:
    """C12: Neovim alone sends changes under a name that the server has never opened."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "old.py", "x = 1\n")
        vim.command(f"file {tmp_path / 'new.py'}")
        wait_client(vim)
        vim.keys("Ay = 2<Esc>")
        vim.settle()
        old, new = ((tmp_path / name).as_uri() for name in ("old.py", "new.py"))
        closed = vim.log("textDocument/didClose")
        assert [message["params"]["textDocument"]["uri"] for message in closed] == [old]
        assert [document["uri"] for document in opened(vim)] == [old, new]
        changed = vim.log("textDocument/didChange")
        assert {message["params"]["textDocument"]["uri"] for message in changed} == {new}


def test_buffers_that_are_not_files_are_not_served(tmp_path: Path) -> None:
    with session(tmp_path) as vim:
        vim.open(tmp_path / "named.py", "")
        vim.command("new | set buftype=nofile filetype=python")
        vim.lua("vim.api.nvim_buf_set_name(0, 'scratch.py')")
        vim.settle()
        assert len(opened(vim)) == 1


# Line ends


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"x = 1\ry = 2\nz = 3\n", ""),
        (b"x = 1\r\r\nz = 3\n", ""),
        (b"x = 1\ry = 2\r\nz = 3\r\n", ""),
        (b"x = 1\r\r\nz = 3\r\n", ""),
        (b"x = 1\ny = 2\rz = 3\r", "++ff=mac"),
    ],
    ids=["unix", "unix, two at the end", "dos", "dos, one more", "mac with a line feed"],
)
def test_a_buffer_whose_lines_lsp_would_split_is_not_served(
    tmp_path: Path, content: bytes, options: str
) -> None:
    """C13: a lone carriage return is a line end in LSP only."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "first.py", "")
        (tmp_path / "odd.py").write_bytes(content)
        vim.command(f"edit {options} {tmp_path / 'odd.py'}")
        vim.keys("Goprint(1)")
        vim.settle()
        assert len(opened(vim)) == 1
        assert len(requests(vim)) == 0
        vim.keys("<Esc>:Underkeel fix<CR>")
        vim.wait("vim.fn.execute('messages'):find('carriage returns or line feeds') ~= nil")


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_served(tmp_path: Path, line_end: str) -> None:
    """C13: the text arrives with the line ends of the file."""
    with session(tmp_path) as vim:
        path = tmp_path / "sample.py"
        path.write_bytes(line_end.join(["x = 1", "y = 2", ""]).encode())
        vim.command(f"edit{' ++ff=mac' if line_end == chr(13) else ''} {path}")
        wait_client(vim)
        vim.settle()
        assert opened(vim)[-1]["text"] == line_end.join(["x = 1", "y = 2", ""])


def test_a_carriage_return_before_a_line_feed_is_part_of_the_line_end(tmp_path: Path) -> None:
    """C13: such files are served; behind the carriage return nothing is requested."""
    with session(tmp_path) as vim:
        path = tmp_path / "mixed.py"
        path.write_bytes(b"x = 1\r\ny = 2\n")
        vim.edit(path)
        wait_client(vim)
        vim.keys("A")
        vim.settle()
        assert requests(vim) == []
        vim.keys("<Left>")
        vim.settle()
        assert requests(vim)[-1]["position"] == {"line": 0, "character": 5}


def test_a_typed_carriage_return_ends_the_service_until_it_is_removed(tmp_path: Path) -> None:
    """C13: the buffer is closed on the server, and opened with its whole text afterwards."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "sample.py", "x = 1\ny = 2\n")
        vim.keys("Aa<C-v><CR>b")
        wait_client(vim, 0)
        vim.keys("c<Esc>ja!<Esc>")
        vim.command("1s/\\r//")
        wait_client(vim)
        vim.settle()
        assert len(vim.log("textDocument/didClose")) == 1
        assert opened(vim)[-1]["text"] == "\n".join([*vim.lines(), ""])
        assert "abc" in vim.lines()[0]


def test_a_change_of_the_file_format_is_noticed(tmp_path: Path) -> None:
    """C13: with `dos` the same carriage return would be a line end of its own."""
    with session(tmp_path) as vim:
        path = tmp_path / "mixed.py"
        path.write_bytes(b"x = 1\r\ny = 2\n")
        vim.edit(path)
        wait_client(vim)
        vim.command("set fileformat=dos")
        wait_client(vim, 0)
        vim.command("set fileformat=unix")
        wait_client(vim)


# Language ids

VSCODE = json.loads(Path(__file__).with_name("vscode_language_ids.json").read_text())
"""VS Code 1.100's own languages: file name extensions and file names by language id."""
DIFFERENT = {
    ".bbx", ".cbx", ".sty",  # the file type `tex` covers LaTeX, and these
    ".cshtml", ".erb", ".rhtml",  # templates, which Neovim names by what they are templates of
    ".fish",  # another syntax than the shells
    ".ii", ".pac", ".shader", ".tpp", ".vsh",  # other languages to Neovim
    ".instructions.md", ".prompt.md", "copilot-instructions.md",  # Markdown to Neovim
}  # fmt: skip


def test_file_types_are_sent_as_vs_code_s_language_ids(tmp_path: Path) -> None:
    """C16: for every file name that both editors know, the two agree on the id."""
    names = [[id_, name] for id_, names in VSCODE.items() for name in names]
    with neovim(tmp_path) as vim:
        sent = vim.lua(
            """
            local id = require('underkeel.languages').id
            return vim.tbl_map(function(pair)
              local name = pair[2]:sub(1, 1) == '.' and 'x' .. pair[2] or pair[2]
              local filetype = vim.filetype.match({ filename = name, contents = { '' } })
              return filetype and id(filetype) or ''
            end, ...)
            """,
            names,
        )
    compared = [(id_, name, got) for (id_, name), got in zip(names, sent, strict=True) if got]
    assert len(compared) > 150
    wrong = [
        row
        for row in compared
        if row[0] != row[2] and row[1] not in DIFFERENT and (row[0], row[2]) != ("jsonc", "json")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("filetype", "id_"),
    [
        ("sh", "shellscript"), ("cs", "csharp"), ("cuda", "cuda-cpp"), ("make", "makefile"),
        ("ps1", "powershell"), ("python", "python"), ("javascript.jsx", "javascriptreact"),
        ("c.doxygen", "c"), ("sh.chezmoitmpl", "shellscript"), ("made-up", "made-up"),
    ],
)  # fmt: skip
def test_the_language_id_arrives_at_the_server(tmp_path: Path, filetype: str, id_: str) -> None:
    """C16: also for file types in parts, and for those that the table does not have."""
    with session(tmp_path) as vim:
        (tmp_path / "x").write_text("")
        vim.edit(tmp_path / "x")
        vim.command(f"set filetype={filetype}")
        wait_client(vim)
        vim.settle()
        assert opened(vim)[-1]["languageId"] == id_


# Position encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
@pytest.mark.parametrize("first", [True, False], ids=["other first", "other later"])
def test_a_buffer_has_one_position_encoding(tmp_path: Path, encoding: str, first: bool) -> None:
    """C18: with a server of either encoding, started before or after; no warning."""
    with session(tmp_path, encoding="offered", config="{ enabled = false }") as vim:
        (tmp_path / "sample.py").write_text("s = '🚢'\n")
        vim.edit(tmp_path / "sample.py")
        start = """
          local underkeel = require('underkeel').config.cmd
          vim.lsp.start({
            name = 'other', cmd = { underkeel[1], underkeel[2], underkeel[3], ... },
            cmd_env = { SCRIPTED_LOG = '' },
          }, { bufnr = 0 })
        """
        initialized = "(vim.lsp.get_clients({ name = '%s' })[1] or {}).initialized"
        for name in ("other", "underkeel") if first else ("underkeel", "other"):
            if name == "other":
                vim.lua(start, encoding)
            else:
                vim.lua("require('underkeel').enable()")
            vim.wait(initialized % name)
        vim.wait(
            "#vim.tbl_filter(function(client) return client.initialized"
            f" and client.offset_encoding == '{encoding}' end, vim.lsp.get_clients()) == 2",
            what=f"two servers with {encoding}",
        )
        vim.command("checkhealth vim.lsp")
        report = "\n".join(vim.lines())
        assert "No buffers contain mixed position encodings" in report


def test_the_user_s_encoding_for_all_servers_is_used(tmp_path: Path) -> None:
    """C18: as set by `vim.lsp.config('*', …)`."""
    before = (
        "vim.lsp.config('*', { capabilities = { general = { positionEncodings = { 'utf-32' } } } })"
    )
    with session(tmp_path, encoding="offered", before=before) as vim:
        vim.open(tmp_path / "sample.py", "x = 1\n")
        [initialize] = vim.log("initialize")
        offered = initialize["params"]["capabilities"]["general"]["positionEncodings"]
        assert offered == ["utf-32"]


# Dot repeat and lengths


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("<Tab>", "return a + b"),
        ("<M-Right><M-Right>", "return a +"),
        ("<M-Down>", "return a + b"),
        ("<Tab> # x", "return a + b # x"),
    ],
    ids=["all", "words", "line", "typed on"],
)
def test_dot_repeats_what_was_typed_and_accepted(tmp_path: Path, keys: str, line: str) -> None:
    """C19: the suggestion too."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "sample.py", "\n\n")
        vim.rules({"after": "return ", "items": [{"insertText": "a + b"}]})
        vim.keys("ireturn ")
        vim.wait_ghost("a + b")
        vim.keys(keys + "<Esc>")
        vim.wait("vim.api.nvim_get_mode().mode == 'n'")
        assert vim.lines()[0] == line
        vim.keys("j0.")
        vim.wait("vim.fn.getline(2) ~= ''")
        assert vim.lines() == [line, line]


def test_dot_after_a_suggestion_of_several_lines_repeats_what_was_typed(tmp_path: Path) -> None:
    """C19: Neovim would indent the repeated line ends once more."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "sample.py", "\n\n")
        vim.rules({"after": "if x:", "items": [{"insertText": "\n    y"}]})
        vim.keys("iif x:")
        vim.wait_ghost("\n    y")
        vim.keys("<Tab><Esc>G0.")
        vim.wait("vim.fn.getline('$') ~= ''")
        assert vim.lines() == ["if x:", "    y", "if x:"]


@pytest.mark.parametrize("handler", ["return false", "error('no')"])
def test_a_paste_handler_of_the_user_is_left_alone(tmp_path: Path, handler: str) -> None:
    """C19: recording for `.` runs no handler, and restores it."""
    before = (
        f"pasted = 0; vim.paste = function() pasted = pasted + 1; {handler} end; own = vim.paste"
    )
    with session(tmp_path, before=before) as vim:
        vim.open(tmp_path / "sample.py", "\n")
        vim.rules({"after": "return ", "items": [{"insertText": "a + b"}]})
        vim.keys("ireturn ")
        vim.wait_ghost("a + b")
        vim.keys("<Tab>")
        vim.wait("vim.fn.getline(1) == 'return a + b'")
        assert vim.lua("return { pasted, vim.paste == own }") == [0, True]


@pytest.mark.parametrize(
    "first",
    [
        "\U0001f469\u200d\U0001f680",
        "e\u0301",
        "\U0001f1e9\U0001f1ea",
        "\U0001f44d\U0001f3fd",
        "\u0915\u094d\u0937\u093f",
        "\U0001d499",
    ],
)
def test_accepted_length_counts_utf_16_units(tmp_path: Path, first: str) -> None:
    """C23: combining characters, joiners and modifiers are units too."""
    with session(tmp_path) as vim:
        vim.open(tmp_path / "sample.py", "\n")
        vim.rules({"after": "# ", "items": [{"insertText": f"{first} and more"}]})
        vim.keys("i# ")
        vim.wait_ghost(f"{first} and more")
        for _ in range(4):
            vim.keys("<M-Right>")
            vim.settle()
            if vim.ghost_text().endswith(" more") and " and" not in vim.ghost_text():
                break
        parts = vim.log("textDocument/didPartiallyAcceptCompletion")
        taken = len(f"{first} and".encode("utf-16-le")) // 2
        assert parts[-1]["params"]["acceptedLength"] == taken


# Empty responses


def test_an_empty_response_is_requested_once_more(tmp_path: Path) -> None:
    """C28: the second request for the same text gets the ghost text that the first did not."""
    with session(tmp_path, before=REPEAT_SOON) as vim:
        vim.open(tmp_path / "sample.py", "\n")
        vim.rules({"after": "return ", "items": [], "hold": True})
        vim.keys("ireturn ")
        vim.settle()
        vim.rules({"after": "return ", "items": [{"insertText": "a + b"}]})
        vim.release()
        vim.wait_ghost("a + b")
        before, after = requests(vim)[-2:]
        assert before == after


def test_an_empty_response_is_repeated_once_only(tmp_path: Path) -> None:
    """C28: where there is nothing to suggest, that is the end of it."""
    with session(tmp_path, before=REPEAT_SOON) as vim:
        vim.open(tmp_path / "sample.py", "\n")
        vim.keys("i")
        vim.settle()
        vim.keys("x")
        vim.wait("vim.wait(300) or true")
        positions = [request["position"]["character"] for request in requests(vim)]
        assert positions.count(1) == 2


@pytest.mark.parametrize("then", ["y", "<Left>", "<Esc>", "<C-]>"])
def test_an_empty_response_for_a_text_that_has_changed_is_not_repeated(
    tmp_path: Path, then: str
) -> None:
    """C28: nor after the cursor has moved, insert mode has ended, or the user has dismissed."""
    with session(tmp_path, before="require('underkeel.ghost').REPEAT_MS = 200") as vim:
        vim.open(tmp_path / "sample.py", "\n")
        vim.keys("ix")
        vim.settle()
        vim.lua("require('underkeel').dismiss()") if then == "<C-]>" else vim.keys(then)
        vim.wait("vim.wait(400) or true")
        at = {"line": 0, "character": 1}
        assert [request["position"] for request in requests(vim)].count(at) == 1


# Where the programs run


def test_no_program_runs_in_the_project(tmp_path: Path) -> None:
    """T11: `python -m` would import the project's modules; the program's path is absolute."""
    fake = tmp_path / "bin" / "underkeel"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$PWD $0"\n')
    fake.chmod(0o755)
    with neovim(tmp_path) as vim:
        vim.lua("require('underkeel').setup({ enabled = false, cmd = { 'bin/underkeel', 'lsp' } })")
        vim.command("Underkeel plan")
        vim.wait("vim.fn.getline(1) ~= ''")
        home = vim.lua("return vim.uv.os_homedir()")
        assert vim.lines() == [f"{home} {fake}"]
        config = vim.lua(
            "local c = require('underkeel.server').config(require('underkeel').config)"
            " return { c.cmd_cwd, c.cmd[1] }"
        )
        assert config == [home, str(fake)]
