"""`underkeel next`: a diff becomes a history, and the edit that follows is printed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from chatting import large_context, played
from daemons import serving
from typer.testing import CliRunner, Result

from assistant.cli import build_app
from assistant.cli.complete import history_of
from assistant.errors import RequestError, UnknownModelError
from assistant.models import vocabulary

DIFF = """--- a/a.py
+++ b/a.py
@@ -1,4 +1,4 @@
-def load():
+def read():
     pass
\x20
 load()
"""


def test_the_edit_that_follows(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def read():\n    pass\n\nload()\n", "utf-8")
    (tmp_path / "a.diff").write_text(DIFF, "utf-8")
    arguments = ["next", str(tmp_path / "a.py"), "--history", str(tmp_path / "a.diff")]
    done = CliRunner().invoke(build_app("next"), [*arguments, "--json"], prog_name="underkeel")
    assert done.exit_code == 0, done.output
    (edit,) = json.loads(done.output)["edits"]
    assert (edit["kind"], edit["line"], edit["old"], edit["new"]) == ("rename", 4, "load", "read")


def test_a_diff_of_another_text_is_refused() -> None:
    with pytest.raises(RequestError, match="does not fit"):
        history_of(DIFF, ["def other():", "    pass"])


CODE = "def read():\n    pass\n\nload()\n"
OTHER = DIFF.replace("a.py", "src/b.py").replace("load", "find")


def follow(
    folder: Path, diff: str | bytes, *, text: str = CODE, name: str = "a.py", history: str = "-"
) -> Result:
    """`underkeel next --json` with a diff from the standard input, or from a file."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode())
    data = diff.encode() if isinstance(diff, str) else diff
    if history != "-":
        history = str(folder / history)
        Path(history).write_bytes(data)
    arguments = ["next", str(folder / name), "--history", history, "--json"]
    return CliRunner().invoke(build_app("next"), arguments, input=data, prog_name="underkeel")


@pytest.mark.parametrize("history", ["-", "a.diff"])
@pytest.mark.parametrize(
    ("diff", "name"),
    [
        (DIFF, "a.py"),
        (DIFF.replace("\n", "\r\n"), "a.py"),
        (DIFF.replace("a/", "").replace("b/", ""), "a.py"),
        (DIFF.replace("a.py\n", "a.py\t2026-11-28 10:00:00 +0000\n"), "a.py"),
        (DIFF.removeprefix("--- a/a.py\n+++ b/a.py\n"), "a.py"),
        (DIFF + "\\ No newline at end of file\n", "a.py"),
        ("@@ -1 +1 @@\n-def load():\n+def read():\n", "a.py"),
        (OTHER + DIFF, "a.py"),
        (DIFF + OTHER, "a.py"),
        (f"diff --git a/b.png b/b.png\nBinary files a/b.png and b/b.png differ\n{DIFF}", "a.py"),
        (
            "diff --git a/old.py b/new.py\nsimilarity index 90%\nrename from old.py\n"
            "rename to new.py\n" + DIFF.replace("a/a.py", "a/old.py").replace("b/a", "b/new"),
            "new.py",
        ),
        (
            DIFF.replace("a/a.py", '"a/\\303\\251.py"').replace("b/a.py", '"b/\\303\\251.py"'),
            "é.py",
        ),
        (DIFF.replace("a.py", "src/a.py") + DIFF.replace("a.py", "lib/a.py"), "src/a.py"),
    ],
    ids=["plain", "crlf", "no prefix", "time", "no header", "no line end", "no context",
         "after another file", "before another file", "after a picture", "renamed", "quoted",
         "one of two of that name"],
)  # fmt: skip
def test_a_diff_as_programs_write_it(tmp_path: Path, diff: str, name: str, history: str) -> None:
    done = follow(tmp_path, diff, name=name, history=history)
    assert done.exit_code == 0, (done.output, done.exception)
    (edit,) = json.loads(done.output)["edits"]
    assert (edit["line"], edit["old"], edit["new"]) == (4, "load", "read")


def test_a_file_with_line_ends_of_windows(tmp_path: Path) -> None:
    done = follow(tmp_path, DIFF, text=CODE.replace("\n", "\r\n"))
    assert [edit["line"] for edit in json.loads(done.output)["edits"]] == [4]


@pytest.mark.parametrize("diff", ["", "\n", "diff --git a/a.py b/a.py\nold mode 100644\n"])
def test_nothing_follows_from_nothing(tmp_path: Path, diff: str) -> None:
    assert json.loads(follow(tmp_path, diff).output) == {"edits": []}


@pytest.mark.parametrize(
    ("diff", "message"),
    [
        ("hello\n", "no hunks"),
        ("@@@ -1 -1 +1 @@@\n", "header of a hunk"),
        (DIFF[:-8], "inside of a hunk"),
        ("@@ -1,2 +1,2 @@\n-def load():\n*def read():\n", "line 3 is no line"),
        (OTHER, "of other files: b/src/b.py"),
        (OTHER + OTHER.replace("b.py", "c.py"), "of other files: b/src/b.py, b/src/c.py"),
        (b"\0\1", "binary"),
        (b"--- \xff\n", "not text in UTF-8"),
    ],
)
def test_a_bad_diff_is_explained(tmp_path: Path, diff: str | bytes, message: str) -> None:
    done = follow(tmp_path, diff)
    assert isinstance(done.exception, RequestError) and message in str(done.exception)
    assert done.exception.advice


def test_lines_that_look_like_headers_are_lines() -> None:
    """A removed `-- x` is written `--- x`, an added `++ x` is written `+++ x`."""
    diff = "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n--- x\n+++ x\n end\n"
    (hunk,) = history_of(diff, ["++ x", "end"]).hunks
    assert (hunk.old, hunk.new) == (("-- x",), ("++ x",))


TWO_VALUES = """--- a/a.py
+++ b/a.py
@@ -1,3 +1,3 @@
-LOW = 1
+LOW = 2
 HIGH = 3
 print(LOW, HIGH)
"""
ANSWER = "LOW = 2\nHIGH = 2\nprint(LOW, HIGH)\n```"


def asked(folder: Path, model: Path | str, *, text: str = "") -> Result:
    """`underkeel next --json` where the rules find nothing."""
    (folder / "a.py").write_text(text or "LOW = 2\nHIGH = 3\nprint(LOW, HIGH)\n", "utf-8")
    (folder / "a.diff").write_text(TWO_VALUES, "utf-8")
    arguments = ["next", str(folder / "a.py"), "--history", str(folder / "a.diff")]
    arguments += ["--model", str(model), "--json"]
    return CliRunner().invoke(build_app("next"), arguments, prog_name="underkeel")


@pytest.mark.usefixtures("home")
def test_a_model_answers_where_the_rules_find_nothing(tmp_path: Path, dense_model: Path) -> None:
    engine = played(dense_model, [ANSWER])

    async def main() -> Result:
        async with serving(engine, planner=lambda: large_context(dense_model)):
            return await asyncio.to_thread(asked, tmp_path, dense_model)

    done = asyncio.run(main())
    assert done.exit_code == 0, done.output
    (edit,) = json.loads(done.output)["edits"]
    assert (edit["kind"], edit["line"], edit["old"], edit["new"]) == (
        "model",
        2,
        "HIGH = 3",
        "HIGH = 2",
    )
    (request,) = engine.requests
    words = vocabulary.load(dense_model)
    assert "-LOW = 1\n+LOW = 2\n" in words.decode(request.prompt)


@pytest.mark.usefixtures("home")
def test_another_model_is_served(tmp_path: Path, dense_model: Path, moe_model: Path) -> None:
    engine = played(dense_model, [ANSWER])

    async def main() -> Result:
        async with serving(engine, planner=lambda: large_context(dense_model)):
            return await asyncio.to_thread(asked, tmp_path, moe_model)

    done = asyncio.run(main())
    assert isinstance(done.exception, RequestError)
    assert "serves another model" in str(done.exception)
    assert f"underkeel models use {moe_model}" in done.exception.advice
    assert not engine.requests


@pytest.mark.usefixtures("home")
def test_a_region_with_a_secret_goes_to_no_model(tmp_path: Path, dense_model: Path) -> None:
    engine = played(dense_model, [ANSWER])
    secret = "LOW = 2\nHIGH = 3\npassword = 'hunter2-9fK2x8Qz'\nprint(LOW, HIGH)\n"

    async def main() -> Result:
        async with serving(engine, planner=lambda: large_context(dense_model)):
            return await asyncio.to_thread(asked, tmp_path, dense_model, text=secret)

    done = asyncio.run(main())
    assert isinstance(done.exception, RequestError) and "secret" in str(done.exception)
    assert not engine.requests


@pytest.mark.usefixtures("home")
def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    done = asked(tmp_path, "no-such-model")
    assert isinstance(done.exception, UnknownModelError)
