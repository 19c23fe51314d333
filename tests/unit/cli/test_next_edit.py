"""`underkeel next`: a diff becomes a history, and the edit that follows is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assistant.cli import build_app
from assistant.cli.complete import history_of
from assistant.errors import RequestError

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
