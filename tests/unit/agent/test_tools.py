"""The agent's tools on real files: bounds, errors that a model can act on, versions, undo."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import linear, linear_steps

from assistant.agent import commands
from assistant.agent.conversation import ToolCall
from assistant.agent.editing import Editor, Hunk, apply_hunks, parse_patch
from assistant.agent.reading import Reader, clip
from assistant.agent.toolbox import Toolbox
from assistant.agent.tools import Outcome, Planned, arguments_of, named, offered, tools
from assistant.agent.workspace import Journal, ToolError, Workspace
from assistant.models.token_estimate import Estimate
from context.syntax.text import Encoder

ENCODER = Encoder(Estimate())
CODE = '''"""Depths of a harbour."""


class Berth:
    """A place for one ship."""

    def __init__(self, depth: float) -> None:
        self.depth = depth

    def clearance(self, draught: float) -> float:
        return self.depth - draught


def deepest(berths):
    best = None
    for berth in berths:
        if best is None or berth.depth > best.depth:
            best = berth
    return best
'''


@pytest.fixture
def box(tmp_path: Path) -> Toolbox:
    folder = tmp_path / "harbour"
    folder.mkdir()
    (folder / "berth.py").write_text(CODE)
    (folder / "use.py").write_text("from berth import deepest\n\nprint(deepest([]))\n")
    (folder / ".env").write_text("API_KEY=sk-live-51Hq8sJ2kd93jfkd83jDkd93\n")
    (folder / "ignored.py").write_text("x = 1\n")
    (folder / ".gitignore").write_text("ignored.py\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (tmp_path / "outside.txt").write_text("outside\n")
    workspace = Workspace([folder])
    return Toolbox(workspace, Reader(workspace, ENCODER, 400), Editor(workspace, Journal()))


def call(tool: str, /, **given: Any) -> ToolCall:
    return ToolCall(id="c", name=tool, arguments=json.dumps(given))


def plan(box: Toolbox, tool: str, /, **given: Any) -> Planned:
    return asyncio.run(box.plan(call(tool, **given)))


def use(box: Toolbox, tool: str, /, **given: Any) -> Outcome:
    async def both() -> Outcome:
        return await (await box.plan(call(tool, **given))).run()

    return asyncio.run(both())


async def awaited(planned: Planned) -> Outcome:
    return await planned.run()


def error(box: Toolbox, tool: str, /, **given: Any) -> str:
    with pytest.raises(ToolError) as found:
        use(box, tool, **given)
    return str(found.value)


# Reading


def test_a_short_file_is_read_whole_and_its_outline_is_shorter(box: Toolbox) -> None:
    found = use(box, "read_file", path="berth.py")
    assert found.text == f"berth.py, lines 1-19 of 19:\n{CODE}"
    assert "best = None" not in found.outline and "def deepest" in found.outline
    assert found.line == "Read berth.py, lines 1-19 of 19."


def test_a_long_file_gives_its_outline_first(box: Toolbox) -> None:
    """One file read overflows the window (opencode#11286)."""
    body = "\n".join(f"    value_{i} = compute({i}, {i})" for i in range(300))
    (box.workspace.root / "long.py").write_text(
        f"class A:\n    def run(self):\n        pass\n\ndef big():\n{body}\n"
    )
    found = use(box, "read_file", path="long.py")
    assert "1-3 class A:" in found.text and "2-3   def run(self):" in found.text
    assert "5-305 def big():" in found.text
    assert ENCODER.text_count(found.text) <= 400 + 40
    part = use(box, "read_file", path="long.py", first=5, last=7)
    assert part.text.startswith("long.py, lines 5-7 of 305:\ndef big():\n")
    one = use(box, "read_file", path="long.py", definition="A.run")
    assert "def run(self)" in one.text and "big" not in one.text


def test_a_definition_with_its_comments(box: Toolbox) -> None:
    found = use(box, "read_file", path="berth.py", definition="Berth.clearance")
    assert found.text == (
        "berth.py, lines 10-11:\n    def clearance(self, draught: float) -> float:\n"
        "        return self.depth - draught"
    )
    assert "It defines: Berth" in error(box, "read_file", path="berth.py", definition="Quay")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../outside.txt", "outside of the workspace"),
        ("/etc/passwd", "outside of the workspace"),
        (".env", "may hold secrets"),
        ("ignored.py", "ignored by git"),
        (".git/config", "not source"),
        ("nothing.py", "There is no file"),
        ("sub/berth.py", "There is berth.py"),
        ("link.txt", "outside of the workspace"),
        ("", "empty"),
        ("a\0b", "not valid"),
    ],
)
def test_what_may_not_be_read_is_refused(box: Toolbox, path: str, says: str) -> None:
    (box.workspace.root / "link.txt").symlink_to(box.workspace.root.parent / "outside.txt")
    assert says in error(box, "read_file", path=path)


def test_a_key_in_a_file_is_masked(box: Toolbox) -> None:
    key = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
    (box.workspace.root / "keys.py").write_text(f'TOKEN = "{key}"\nPORT = 1\n')
    for tool, arguments in (
        ("read_file", {"path": "keys.py"}),
        ("search_text", {"pattern": "TOKEN"}),
        ("find_symbol", {"name": "TOKEN"}),
        ("run_command", {"command": "cat keys.py"}),
    ):
        found = use(box, tool, **arguments)
        assert key not in found.text + found.outline + found.line, tool


def test_folders_files_and_searches_show_only_what_may_be_read(box: Toolbox) -> None:
    (box.workspace.root / "sub").mkdir()
    (box.workspace.root / "sub" / "deep.py").write_text("deepest = 1\n")
    assert use(box, "list_folder").text == ".:\nsub/ (1 files)\n.gitignore\nberth.py\nuse.py"
    assert use(box, "find_files", pattern="**/*.py").text.split("\n")[1:] == [
        "berth.py", "use.py", "sub/deep.py",
    ]  # fmt: skip
    found = use(box, "search_text", pattern="deepest")
    assert "use.py:3: print(deepest([]))" in found.text and "4 lines" in found.text
    only = use(box, "search_text", pattern=r"def \w+t\(", regex=True, glob="*.py")
    assert "berth.py:14: def deepest(berths):" in only.text


def test_a_hostile_regular_expression_ends(box: Toolbox) -> None:
    (box.workspace.root / "a.txt").write_text("x " * 1500 + "\n")
    assert "takes too long" in error(box, "search_text", pattern=r"((x ?)+)+y", regex=True)
    assert "not valid" in error(box, "search_text", pattern="(", regex=True)


def test_a_symbol_is_found_with_its_uses(box: Toolbox) -> None:
    found = use(box, "find_symbol", name="deepest").text
    assert "1 definitions, 2 uses" in found
    assert "Defined:\nberth.py:14: def deepest(berths):" in found
    assert "use.py:3: print(deepest([]))" in found


def test_syntax_errors_where_the_client_has_no_diagnostics(box: Toolbox) -> None:
    (box.workspace.root / "bad.py").write_text("def f(:\n    pass\n")
    found = use(box, "diagnostics", path="bad.py")
    assert found.text.startswith("1 syntax errors in 1 files.\nbad.py:1:")

    async def client(path: Path | None) -> str | None:
        return f"{path and path.name}:1: undefined name\x1b[31m"

    box.diagnose = client
    assert use(box, "diagnostics", path="bad.py").text == "bad.py:1: undefined name"


@given(st.lists(st.text("ab \t", max_size=60), max_size=60), st.integers(16, 300))
def test_a_clipped_text_fits_and_says_what_is_left_out(lines: list[str], limit: int) -> None:
    text = "\n".join(lines)
    found = clip(text, limit, ENCODER, "read less")
    assert ENCODER.text_count(found) <= limit
    if found != text:
        assert "lines left out; read less]" in found


# Changing


def test_a_replacement_is_unique_or_says_how_many(box: Toolbox) -> None:
    use(box, "replace_text", path="berth.py", old="best = None", new="best = berths[0]")
    assert "best = berths[0]" in (box.workspace.root / "berth.py").read_text()
    many = error(box, "replace_text", path="berth.py", old="self.depth", new="b")
    assert "occurs 2 times in berth.py (lines 8, 11)" in many and "more lines" in many
    none = error(box, "replace_text", path="berth.py", old="return self.depth-draught", new="x")
    assert "old is not in berth.py" in none and "copy the text exactly" in none
    blanks = error(
        box,
        "replace_text",
        path="berth.py",
        old="for berth in berths:\nif best is None or berth.depth > best.depth:",
        new="x",
    )
    assert "differs in white space only is at line 16" in blanks
    assert "    for berth in berths:\n        if best" in blanks


@pytest.mark.parametrize(
    ("text", "old", "new", "again"),
    [
        ("a\nb\n", "b\n", "b\nc\n", True),
        ("a\nb\n", "b\n", "x\nb\n", True),
        ("a\nb\n", "b", "(b)", True),
        ("a\nb\n", "b", "c", False),
        ("ab b\n", "a", "cab", False),
        ("b1 = 1\nc = b1\n", "c", "c + b", False),
    ],
)
def test_the_same_edit_twice_adds_nothing_twice(
    box: Toolbox, text: str, old: str, new: str, again: bool
) -> None:
    """A model that repeats its last call."""
    path = box.workspace.root / "form.txt"
    path.write_text(text)
    use(box, "replace_text", path="form.txt", old=old, new=new)
    once = path.read_text()
    assert once == text.replace(old, new, 1)
    if again:
        assert "has this new text already" in error(
            box, "replace_text", path="form.txt", old=old, new=new
        )
        assert path.read_text() == once


def test_a_file_that_changed_under_the_edit_is_not_written(box: Toolbox) -> None:
    """Stale search blocks (avante#1975)."""
    path = box.workspace.root / "berth.py"
    use(box, "read_file", path="berth.py")
    path.write_text(CODE.replace("ship", "boat"))
    assert "changed by someone else" in error(
        box, "replace_text", path="berth.py", old="best = None", new="best = 1"
    )
    use(box, "read_file", path="berth.py")
    planned = plan(box, "replace_text", path="berth.py", old="best = None", new="best = 1")
    path.write_text(CODE)  # while the user decides
    with pytest.raises(ToolError, match="changed while"):
        asyncio.run(awaited(planned))
    assert path.read_text() == CODE


def test_a_broken_syntax_is_refused_once(box: Toolbox) -> None:
    given = {"path": "berth.py", "old": "return best", "new": "return (best"}
    assert "break the syntax of berth.py" in error(box, "replace_text", **given)
    assert use(box, "replace_text", **given).changed


def test_a_change_is_shown_before_it_is_made(box: Toolbox) -> None:
    planned = plan(box, "replace_text", path="berth.py", old="best = None", new="best = 0")
    (diff,) = planned.diffs
    assert diff.old == CODE and diff.new == CODE.replace("best = None", "best = 0")
    assert planned.line == 15 and planned.title == "Edit berth.py"
    assert (box.workspace.root / "berth.py").read_text() == CODE


@pytest.mark.parametrize(
    "data",
    [
        b"a = 1\r\nb = 2\r\n",
        b"\xef\xbb\xbfa = 1\nb = 2\n",
        "a = 1\nb = 2\n".encode("utf-16"),
        b"\xfe\xff" + "a = 1\nb = 2\n".encode("utf-16-be"),
        b"a = 1\r\nb = 2\n",
        b"a = 1\nb = 2",
    ],
)
def test_encodings_line_ends_and_modes_survive_an_edit(box: Toolbox, data: bytes) -> None:
    path = box.workspace.root / "form.py"
    path.write_bytes(data)
    path.chmod(0o755)
    use(box, "replace_text", path="form.py", old="a = 1", new="a = 7")
    codec = (
        "utf-16-be"
        if data[:2] == b"\xfe\xff"
        else "utf-16-le"
        if data[:2] == b"\xff\xfe"
        else "utf-8"
    )
    assert path.read_bytes() == data.replace("1".encode(codec), "7".encode(codec))
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "path", ["../new.py", "/tmp/new.py", ".git/hooks/pre-commit", ".GIT/config", ".env", "id_rsa"]
)
def test_nothing_is_written_where_it_must_not_be(box: Toolbox, path: str) -> None:
    assert error(box, "create_file", path=path, text="x")
    assert error(box, "move_file", path="berth.py", to=path)
    assert (box.workspace.root / "berth.py").exists()


def test_a_link_out_of_the_workspace_is_no_way_to_write(box: Toolbox) -> None:
    target = box.workspace.root.parent / "outside.txt"
    (box.workspace.root / "link.py").symlink_to(target)
    (box.workspace.root / "folder").symlink_to(target.parent)
    assert "outside" in error(box, "replace_text", path="link.py", old="outside", new="x")
    assert "outside" in error(box, "create_file", path="folder/new.py", text="x")
    assert target.read_text() == "outside\n"


PATCH = """--- a/berth.py
+++ b/berth.py
@@ -99,4 +99,4 @@
 def deepest(berths):
-    best = None
+    best = berths[0]
     for berth in berths:
--- /dev/null
+++ b/quay.py
@@ -0,0 +1,2 @@
+QUAY = 1
+DEPTH = 2
"""


def test_a_patch_over_two_files_whose_line_numbers_are_wrong(box: Toolbox) -> None:
    use(box, "apply_patch", patch=PATCH)
    assert (box.workspace.root / "quay.py").read_text() == "QUAY = 1\nDEPTH = 2\n"
    assert "best = berths[0]" in (box.workspace.root / "berth.py").read_text()


def test_a_patch_is_made_as_a_whole_or_not(box: Toolbox) -> None:
    (box.workspace.root / "quay.py").write_text("old\n")
    assert "quay.py exists already" in error(box, "apply_patch", patch=PATCH)
    assert (box.workspace.root / "berth.py").read_text() == CODE
    wrong = PATCH.replace("-    best = None", "-    best = nothing")
    (box.workspace.root / "quay.py").unlink()
    assert "hunk 1 of berth.py are not in the file" in error(box, "apply_patch", patch=wrong)
    assert "no hunk" in error(box, "apply_patch", patch="change it please")


def test_other_forms_of_patches_are_read() -> None:
    (part,) = parse_patch("*** Begin Patch\n*** Update File: a.py\n@@\n-x\n+y\n*** End Patch")
    assert part.old_path == "a.py" and part.hunks == (Hunk(("x",), ("y",), 0),)
    assert apply_hunks("a", "w\nx\nz", part.hunks) == "w\ny\nz"
    (part,) = parse_patch(
        "```diff\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x\n+y\n\\ No newline\n```"
    )
    assert part.hunks == (Hunk(("x",), ("y",), 1),)


def test_a_patch_of_many_hunks_is_applied_in_linear_time() -> None:
    """T1: a hunk that says where it is is found there."""

    def run(text: str) -> None:
        lines = text.split("\n")[:-1]
        hunks = [Hunk((line,), (f"{line}!",), at) for at, line in enumerate(lines, 1)]
        assert apply_hunks("a", text, hunks) == "".join(f"{line}!\n" for line in lines)

    def made(size: int) -> str:
        return "".join(f"{at % 7}\n" for at in range(size))

    assert linear_steps(run, made, 500) and linear(run, made, 500, most=8_000)


def test_a_hunk_goes_to_the_nearest_place() -> None:
    """T1: and not to one that is as near as another."""
    assert apply_hunks("a", "x\ny\nx\nz", [Hunk(("x",), ("w",), 3)]) == "x\ny\nw\nz"
    assert apply_hunks("a", "x\ny\nz\nz\nx", [Hunk(("x",), ("w",), 2)]) == "w\ny\nz\nz\nx"
    with pytest.raises(ToolError, match="occur 2 times"):
        apply_hunks("a", "x\ny\nx", [Hunk(("x",), ("w",), 2)])


def test_one_step_undoes_a_session(box: Toolbox, tmp_path: Path) -> None:
    root, journal = box.workspace.root, Journal(tmp_path / "journal.jsonl")
    box.editor.journal = journal
    use(box, "replace_text", path="berth.py", old="best = None", new="best = 0")
    use(box, "replace_text", path="berth.py", old="best = 0", new="best = 1")
    use(box, "create_file", path="new/quay.py", text="x = 1\n")
    use(box, "move_file", path="use.py", to="uses.py")
    use(box, "run_command", command="sh -c 'echo y = 2 > made.py; rm uses.py'")
    assert (root / "made.py").exists() and not (root / "uses.py").exists()
    # A later process reads the journal from disk.
    restored, kept = Journal(tmp_path / "journal.jsonl").undo(box.workspace)
    assert sorted(restored) == ["berth.py", "made.py", "new/quay.py", "use.py"]
    assert kept == []
    assert (root / "berth.py").read_text() == CODE and (root / "use.py").exists()
    assert not (root / "made.py").exists() and not (root / "new/quay.py").exists()


def test_an_undo_leaves_what_the_user_changed_since(box: Toolbox) -> None:
    use(box, "replace_text", path="berth.py", old="best = None", new="best = 0")
    (box.workspace.root / "berth.py").write_text("mine\n")
    assert box.editor.journal.undo(box.workspace) == ([], ["berth.py"])
    assert (box.workspace.root / "berth.py").read_text() == "mine\n"


# Files in the client's editor


class Buffers:
    """An editor with open files: saves what is written, and can misbehave as editors do."""

    def __init__(self, on_save: Callable[[str], str | None] = lambda text: text) -> None:
        self.texts: dict[Path, str] = {}
        self.written: list[Path] = []
        self.on_save = on_save
        self.answers = True

    def unsaved(self) -> frozenset[Path] | None:
        return frozenset(path.resolve() for path in self.texts)

    def read(self, path: Path) -> str | None:
        if not self.answers:
            raise ToolError("The editor does not answer. Try again later.")
        return self.texts.get(path)

    def write(self, path: Path, text: str) -> bool:
        self.written.append(path)
        saved = self.on_save(text)
        if saved is None:
            self.texts[path] = text
        else:
            self.texts.pop(path, None)
            path.write_bytes(saved.encode())
        return True


def test_unsaved_text_is_read_searched_and_edited_in_the_editor(box: Toolbox) -> None:
    box.workspace.editor = editor = Buffers()
    path = box.workspace.root / "berth.py"
    draft = CODE.replace("best = None", "top = None")
    editor.texts[path] = draft
    assert "top = None" in use(box, "read_file", path="berth.py").text
    assert "berth.py:15: top = None" in use(box, "search_text", pattern="top =").text
    planned = plan(box, "replace_text", path="berth.py", old="top = None", new="top = berths[0]")
    assert planned.diffs[0].old == draft, "the diff is against what the user sees"
    asyncio.run(awaited(planned))
    assert editor.written == [path]
    assert path.read_text() == CODE.replace("best = None", "top = berths[0]")
    restored, kept = box.editor.journal.undo(box.workspace)
    assert (restored, kept) == (["berth.py"], [])
    assert path.read_text() == draft, "the user's unsaved change is not lost"


def test_a_symbol_is_found_in_unsaved_text(box: Toolbox) -> None:
    """Its lines are those of the editor: the index has what is saved."""
    box.workspace.editor = editor = Buffers()
    path = box.workspace.root / "berth.py"
    editor.texts[path] = "import sys\n\n" + CODE + "\n\ndef shallowest(berths):\n    pass\n"
    found = use(box, "find_symbol", name="deepest").text
    assert "berth.py:16: def deepest(berths):" in found and "use.py:3" in found
    assert found.startswith("deepest: 1 definitions, 2 uses.")
    assert "berth.py:24: def shallowest(berths):" in use(box, "find_symbol", name="shallowest").text
    editor.texts[path] = CODE.replace("deepest", "lowest")
    assert use(box, "find_symbol", name="deepest").text.startswith(
        "deepest: 0 definitions, 2 uses."
    )


def test_typing_between_the_diff_and_the_approval_stops_the_edit(box: Toolbox) -> None:
    box.workspace.editor = editor = Buffers()
    path = box.workspace.root / "berth.py"
    planned = plan(box, "replace_text", path="berth.py", old="best = None", new="best = 1")
    editor.texts[path] = CODE + "# typed\n"
    with pytest.raises(ToolError, match="was changed while"):
        asyncio.run(awaited(planned))
    assert not editor.written and path.read_text() == CODE


@pytest.mark.parametrize(
    "data", [b"a\r\nb = 1\r\n", b"\xef\xbb\xbfa\nb = 1\n", "é\nb = 1".encode()]
)
@pytest.mark.parametrize("unsaved", [False, True])
def test_an_editor_keeps_line_ends_and_marks(box: Toolbox, data: bytes, unsaved: bool) -> None:
    """An editor's text has "\\n" and no mark; saving gives the file's own again."""
    path = box.workspace.root / "form.txt"
    path.write_bytes(data)
    marked = data.startswith(b"\xef\xbb\xbf")
    box.workspace.editor = editor = Buffers(lambda text: "\ufeff" * marked + text)
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    editor.texts[path] = text.replace("b = 1", "c = 1") if unsaved else text
    old = "c = 1" if unsaved else "b = 1"
    use(box, "replace_text", path="form.txt", old=old, new="d = 1")
    assert path.read_bytes() == data.replace(b"b = 1", b"d = 1")


def test_how_an_editor_may_save(box: Toolbox) -> None:
    """Kept unsaved, formatted, cut, or no answer: the result says what is true."""
    path = box.workspace.root / "use.py"
    change = {"path": "use.py", "old": "print(", "new": "assert ("}
    box.workspace.editor = editor = Buffers(lambda _: None)
    assert "1 lines added" in use(box, "replace_text", **change).text
    assert "assert" in editor.texts[path] and "print" in path.read_text()
    editor.texts.clear()
    box.workspace.seen.clear()
    editor.on_save = lambda text: text.replace("(deepest", "( deepest")
    assert "The editor changed use.py as it saved it" in use(box, "replace_text", **change).text
    back = {"path": "use.py", "old": "assert", "new": "print"}
    assert "Read it again" in error(box, "replace_text", **back)
    use(box, "read_file", path="use.py")
    editor.on_save = lambda _: path.read_text()
    assert "was not written completely" in error(box, "replace_text", **back)
    editor.answers = False
    assert "does not answer" in error(box, "read_file", path="use.py")
    assert "does not answer" in error(box, "replace_text", **back)


def test_an_unsaved_new_file_and_a_secret(box: Toolbox) -> None:
    box.workspace.editor = editor = Buffers()
    editor.texts[box.workspace.root / "new.py"] = "x = 1\n"
    editor.texts[box.workspace.root / ".env"] = "API_KEY=hunter2\n"
    assert "exists already" in error(box, "create_file", path="new.py", text="x = 2\n")
    assert "exists already" in error(box, "move_file", path="use.py", to="new.py")
    assert "may hold secrets" in error(box, "read_file", path=".env")
    use(box, "create_file", path="other.py", text="x = 2\n")
    assert not editor.written, "a file that no buffer has is written on disk"


# Commands


def run_python(box: Toolbox, code: str, limit_s: float = 20) -> commands.Ended:
    argv = [sys.executable, "-c", code]
    return asyncio.run(
        commands.run(argv, box.workspace.root, box.workspace.roots, limit_s, confine=False)
    )


def test_a_command_reports_its_code_and_output(box: Toolbox) -> None:
    found = use(box, "run_command", command="sh -c 'echo out; echo err >&2; exit 3'")
    assert found.text == "Exit code 3.\nout\nerr" and not found.changed
    assert "cannot be run" in error(box, "run_command", command="no-such-program-here")


def test_endless_output_is_bounded(box: Toolbox) -> None:
    ended = run_python(box, "import sys\nfor i in range(200000): print('line', i)")
    assert ended.code == 0 and ended.output.startswith("line 0\n")
    assert ended.output.rstrip().endswith("line 199999")
    assert len(ended.output) < 150_000 and "bytes left out" in ended.output
    found = use(box, "run_command", command="seq 1 5000")
    assert ENCODER.text_count(found.text) <= 420 and "lines left out" in found.text


def test_a_hanging_command_is_ended_with_its_children(box: Toolbox) -> None:
    pid_file = box.workspace.root.parent / "pid"
    code = (
        "import subprocess, time, pathlib\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "print('started', flush=True)\ntime.sleep(600)"
    )
    ended = run_python(box, code, limit_s=1.5)
    assert ended.code is None and "started" in ended.output
    pid = int(pid_file.read_text())
    for _ in range(500):  # it was killed, and ends when it is next scheduled
        if not _runs(pid):
            break
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_command_has_a_clean_environment(box: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    found = run_python(box, "import os; print(sorted(os.environ))").output
    assert "AWS" not in found and "PATH" in found and "PYTHONPATH" not in found


def test_bubblewrap_gets_no_network_and_writes_only_in_the_workspace(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".netrc").write_text("x")
    root = tmp_path / "work"
    (root / ".git" / "hooks").mkdir(parents=True)
    made = commands.confined(["true"], root, [root], tmp_path)
    text = " ".join(made)
    assert "--unshare-all" in made and "--share-net" not in made
    assert f"--tmpfs {tmp_path}/.ssh" in text and f"--ro-bind /dev/null {tmp_path}/.netrc" in text
    assert [made[at + 1] for at, part in enumerate(made) if part == "--bind"] == [str(root)]
    assert f"--ro-bind {root}/.git/hooks {root}/.git/hooks" in text
    assert made[-2:] == ["--", "true"]


@pytest.mark.skipif(not commands.can_confine(), reason="bubblewrap is not usable here")
def test_a_confined_command_cannot_write_elsewhere(box: Toolbox) -> None:
    target = box.workspace.root.parent / "elsewhere"
    argv = ["sh", "-c", f"echo x > {target}; echo y > here"]
    asyncio.run(commands.run(argv, box.workspace.root, box.workspace.roots, 20, confine=True))
    assert not target.exists() and (box.workspace.root / "here").exists()


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        ("sleep 70 & echo done", 0, "done\n"),
        ("(sleep 70 &); echo done; exit 3", 3, "done\n"),
        ("setsid sleep 70 & echo done", 0, "done\n"),
        ("nohup sleep 70 >/dev/null 2>&1 & echo done", 0, "done\n"),
        ("exec >&- 2>&-; exit 4", 4, ""),
        ("echo done; kill -9 $$", -9, "done\n"),
        ("sleep 70 | cat & exec 1>&-; exit 0", 0, ""),
    ],
)
def test_a_command_ends_with_its_process(
    tmp_path: Path, command: str, code: int, output: str
) -> None:
    """T3: a child that inherited its output does not delay the end, and what is in its group ends
    with it."""
    argv = ["/bin/sh", "-c", f"{command}"]
    started = commands.run(argv, tmp_path, [tmp_path], 60, confine=False)
    ended = asyncio.run(asyncio.wait_for(started, 30))
    assert (ended.code, ended.output) == (code, output)


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 5_000_000])
@pytest.mark.parametrize("to", [1, 2])
def test_any_amount_of_output_of_a_command_is_read(tmp_path: Path, size: int, to: int) -> None:
    """T3: one line of any length, on either output."""
    code = (
        f"import os\nleft = {size}\nwhile left: left -= os.write({to}, b'x' * min(left, 1 << 20))"
    )
    started = commands.run([sys.executable, "-c", code], tmp_path, [tmp_path], 60, confine=False)
    ended = asyncio.run(asyncio.wait_for(started, 50))
    assert ended.code == 0 and ended.output.count("x") + ended.left_out_bytes == size


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1bP+q544e\x1b\\x", "x"),
        ("\x9b31mred", "red"),
        ("10 %\r50 %\rdone\n", "done\n"),
        ("a\x00b\x08c\x7f", "abc"),
        ("safe\u202egnol", "safegnol"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("one\r\ntwo", "one\ntwo"),
    ],
)
def test_control_sequences_are_removed(raw: str, shown: str) -> None:
    assert commands.plain(raw) == shown


@given(st.text())
def test_plain_text_has_no_control_characters(raw: str) -> None:
    found = commands.plain(raw)
    assert not any(ord(char) < 32 and char not in "\n\t" for char in found)
    assert commands.plain(found) == found


LINKS = ["flink.py", "dlink/mod.py", "abs/hostname", "up/out/mod.py", "chain/mod.py", "sub/rel.py", "self/etc/hostname",
         "dlink/../out/mod.py", "up/harbour/../out/mod.py"]  # fmt: skip
NEW = ["dlink/new.py", "dangling.py", "nowhere/x.py", "chain/deep/new.py", "up/x.py", "flink.py"]


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        *(("read_file", {"path": path}) for path in LINKS),
        *(("replace_text", {"path": path, "old": "1", "new": "2"}) for path in LINKS[:6]),
        *(("delete_file", {"path": path}) for path in LINKS[:6]),
        *(("move_file", {"path": path, "to": "mine.py"}) for path in LINKS[:6]),
        *(("diagnostics", {"path": path}) for path in LINKS[:2]),
        *(("list_folder", {"path": path}) for path in ("dlink", "abs", "up", "chain", "self/etc")),
        *(("create_file", {"path": path, "text": "x = 1\n"}) for path in NEW),
        *(("move_file", {"path": "use.py", "to": path}) for path in [*NEW, "dlink"]),
        *(("apply_patch", {"patch": f"*** Add File: {path}\n+x = 1\n"}) for path in NEW),
        *(("apply_patch", {"patch": f"*** Delete File: {path}\n"}) for path in LINKS[:2]),
        *(("apply_patch", {"patch": f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"}) for path in LINKS[:2]),
    ],
)  # fmt: skip
def test_no_tool_follows_a_link_out(box: Toolbox, tool: str, given: dict[str, Any]) -> None:
    """T7: links to files and folders, relative, absolute, in a row, dangling, and through /proc."""
    root = box.workspace.root
    out = root.parent / "out"
    out.mkdir()
    (out / "mod.py").write_text("x = 1\n")
    (root / "sub").mkdir()
    for name, target in (
        ("flink.py", out / "mod.py"), ("dlink", out), ("abs", "/etc"), ("up", ".."), ("chain", "dlink"),
        ("sub/rel.py", "../../out/mod.py"), ("dangling.py", out / "new.py"), ("nowhere", out / "new"), ("self", "/proc/self/root"),
    ):  # fmt: skip
        (root / name).symlink_to(target)
    with pytest.raises(ToolError):
        use(box, tool, **given)
    assert [one.name for one in out.iterdir()] == ["mod.py"]
    assert (out / "mod.py").read_text() == "x = 1\n" and (root / "use.py").exists()
    assert sorted(one.name for one in root.parent.iterdir()) == ["harbour", "out", "outside.txt"]


def git_in(box: Toolbox, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=box.workspace.root, check=True)


def test_git_is_read_without_running_what_its_configuration_names(box: Toolbox) -> None:
    git_in(box, "add", "berth.py", "use.py")
    git_in(box, "commit", "-qm", "First")
    bait = box.workspace.root.parent / "ran"
    for name in ("core.fsmonitor", "diff.external", "core.pager", "filter.evil.clean"):
        git_in(box, "config", name, f"touch {bait} #")
    (box.workspace.root / ".gitattributes").write_text("*.py filter=evil diff=evil\n")
    git_in(box, "config", "diff.evil.textconv", f"touch {bait} #")
    use(box, "replace_text", path="berth.py", old="best = None", new="best = 0")
    assert " M berth.py" in use(box, "git", what="status").text
    assert "+    best = 0" in use(box, "git", what="diff").text
    assert "First" in use(box, "git", what="log").text
    assert not bait.exists()


def test_git_shows_no_secret_file(box: Toolbox) -> None:
    git_in(box, "add", "-f", ".env", "use.py")
    git_in(box, "commit", "-qm", "First")
    (box.workspace.root / ".env").write_text("PASSWORD=hunter2\n")
    (box.workspace.root / "use.py").write_text("print(1)\n")
    found = use(box, "git", what="diff").text
    assert "hunter2" not in found and "not shown: it may hold secrets" in found
    assert "+print(1)" in found


# Arguments

# ruff: noqa: E501 - one case a line


def test_every_tool_has_a_valid_schema_and_its_code() -> None:
    for name, tool in tools().items():
        assert callable(getattr(Toolbox, f"_{name}"))
        assert tool.schema["additionalProperties"] is False and tool.description
        assert set(tool.schema["required"]) <= set(tool.schema["properties"])
    wire = json.dumps([tool.wire for tool in offered(tools(), small=True)])
    assert ENCODER.text_count(wire) < 1000
    assert len(offered(tools(), small=False)) == 15


ACCEPTED: list[tuple[str, str, str, dict[str, Any]]] = [
    ("another name for a parameter", "read_file", '{"file_path": "a"}', {"path": "a"}),
    ("another name for the tool", "read", '{"path": "a"}', {"path": "a"}),
    ("a prefix of the tool", "functions.read_file", '{"path": "a"}', {"path": "a"}),
    ("a number as a text", "read_file", '{"path": "a", "first": "3"}', {"path": "a", "first": 3}),
    ("a number with a point", "read_file", '{"path": "a", "first": 3.0}', {"path": "a", "first": 3}),
    ("null for an option", "read_file", '{"path": "a", "first": null}', {"path": "a"}),
    ("JSON in JSON", "read_file", json.dumps('{"path": "a"}'), {"path": "a"}),
    ("a truth value as a text", "search_text", '{"pattern": "a", "regex": "true"}', {"pattern": "a", "regex": True}),
    ("Python's truth value", "search_text", '{"pattern": "a", "regex": "True"}', {"pattern": "a", "regex": True}),
    ("lines instead of a text", "create_file", '{"path": "a", "text": ["b", "c"]}', {"path": "a", "text": "b\nc"}),
    ("a list as a text", "update_plan", '{"items": "[{\\"text\\": \\"a\\", \\"status\\": \\"pending\\"}]"}', {"items": [{"text": "a", "status": "pending"}]}),
    ("content for text", "write_file", '{"path": "a", "content": "b"}', {"path": "a", "text": "b"}),
    ("old_string and new_string", "edit_file", '{"path": "a", "old_string": "b", "new_string": "c"}', {"path": "a", "old": "b", "new": "c"}),
    ("no arguments at all", "list_folder", "", {}),
    ("cmd for command", "bash", '{"cmd": "ls"}', {"command": "ls"}),
]  # fmt: skip

REFUSED: list[tuple[str, str, str, str]] = [
    ("an unknown tool", "delegate", "{}", "The tools are: read_file"),
    ("no tool", "", "{}", "There is no tool"),
    ("broken JSON", "read_file", '{"path": "a"', "not valid JSON"),
    ("single quotes", "read_file", "{'path': 'a'}", "not valid JSON"),
    ("a bare word", "read_file", "a.py", "not valid JSON"),
    ("a list", "read_file", '["a"]', "not a JSON object"),
    ("a number", "read_file", "7", "not a JSON object"),
    ("null", "read_file", "null", "not a JSON object"),
    ("a missing parameter", "read_file", "{}", "needs the parameter 'path'"),
    ("null for a required one", "read_file", '{"path": null}', "must be of type string"),
    ("an unknown parameter", "read_file", '{"path": "a", "depth": 3}', "no parameter 'depth'"),
    ("a wrong type", "read_file", '{"path": 7}', "'path' of read_file must be of type string"),
    ("an object for a text", "read_file", '{"path": {"p": 1}}', "must be of type string"),
    ("line 0", "read_file", '{"path": "a", "first": 0}', "at least 1"),
    ("a negative line", "read_file", '{"path": "a", "first": -5}', "at least 1"),
    ("a fraction", "read_file", '{"path": "a", "first": 1.5}', "must be of type integer"),
    ("a word for a number", "read_file", '{"path": "a", "first": "top"}', "type integer"),
    ("true for a number", "read_file", '{"path": "a", "first": true}', "type integer"),
    ("another choice", "git", '{"what": "push"}', "one of: status, diff, log"),
    ("a plan of texts", "update_plan", '{"items": ["a"]}', "must be of type object"),
    ("a plan without states", "update_plan", '{"items": [{"text": "a"}]}', "needs 'status'"),
    ("a wrong state", "update_plan", '{"items": [{"text": "a", "status": "done"}]}', "one of"),
    ("too long a limit", "run_command", '{"command": "a", "time_limit_s": 99999}', "at most 600"),
    ("deep nesting", "read_file", "[" * 100_000, "not valid JSON"),
    ("very long arguments", "create_file", '{"path": "' + "a" * 500_000 + '"}', "too long"),
    ("an empty command", "run_command", '{"command": "  "}', "command is empty"),
    ("a command with an escape", "run_command", '{"command": "ls \\u001b[31m"}', "control char"),
    ("an empty search", "search_text", '{"pattern": ""}', "pattern is empty"),
    ("an empty question", "ask_user", '{"question": " "}', "question is empty"),
    ("a folder read as a file", "read_file", '{"path": "."}', "is a folder"),
    ("a file listed as a folder", "list_folder", '{"path": "berth.py"}', "not a folder"),
    ("lines past the end", "read_file", '{"path": "berth.py", "first": 500}', "has 19 lines"),
    ("lines in reverse", "read_file", '{"path": "berth.py", "first": 9, "last": 3}', "before"),
    ("an empty old text", "replace_text", '{"path": "berth.py", "old": "", "new": "x"}', "empty"),
    ("no change", "replace_text", '{"path": "berth.py", "old": "best", "new": "best"}', "the same"),
    ("a file that exists", "create_file", '{"path": "berth.py", "text": ""}', "exists already"),
    ("a patch in words", "apply_patch", '{"patch": "make it better"}', "no hunk"),
    ("a move onto a file", "move_file", '{"path": "berth.py", "to": "use.py"}', "exists already"),
    ("the workspace itself", "delete_file", '{"path": "."}', "is a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "name", "arguments", "expected"), ACCEPTED)
def test_harmless_slips_are_accepted(
    why: str, name: str, arguments: str, expected: dict[str, Any]
) -> None:
    tool = named(name, tools())
    assert arguments_of(ToolCall(id="c", name=name, arguments=arguments), tool) == expected


@pytest.mark.parametrize(("why", "name", "arguments", "says"), REFUSED)
def test_wrong_calls_are_refused_with_what_to_do(
    box: Toolbox, why: str, name: str, arguments: str, says: str
) -> None:
    """With `ACCEPTED`, the recorded kinds of wrong calls; more are in `test_model.py`."""

    async def both() -> None:
        await (await box.plan(ToolCall(id="c", name=name, arguments=arguments))).run()

    with pytest.raises(ToolError) as found:
        asyncio.run(both())
    assert says in str(found.value)
    assert len(str(found.value)) < 2000
    assert (box.workspace.root / "berth.py").read_text() == CODE


def test_a_patch_of_many_hunks_takes_bounded_time() -> None:
    """T1: a model repeats itself; each hunk has many places, and its number is of none."""
    patch = "--- a/x\n+++ b/x\n" + "@@ -9999999 +1 @@\n-a\n+b\n" * 8000
    (found,) = parse_patch(patch)
    assert len(found.hunks) == 8000
    with pytest.raises(ToolError, match="several smaller patches"):
        apply_hunks("x", "a\n" * 8000, found.hunks)
