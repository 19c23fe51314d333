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
