"""VS Code, extension, language server, daemon, worker and model, all of them real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vscode_session
from vscode_scenes import BAR, GHOST
from vscode_session import Step, VSCode

from assistant import paths

pytestmark = [
    pytest.mark.editor,
    pytest.mark.model,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

CODE = "def add(a: int, b: int) -> int:\n    \n\n\nprint(add(2, 3))\n"
STEPS: list[Step] = [
    ("open", "open", {"file": "sample.py"}),
    ("in the function", "keys", {"keys": ["Control+Home", "ArrowDown", "End"]}),
    ("type", "type", {"text": "return "}),
    ("insist", "insist", {"key": "Space", "selector": GHOST}),
    ("ghost", "all", {"selector": GHOST, "text": "a"}),
    ("served", "see", {"selector": BAR, "text": "Underkeel"}),
    ("tab", "keys", {"keys": ["Tab"]}),
    ("accepted", "gone", {"selector": GHOST}),
    ("lines", "lines", {}),
    ("tooltip", "hover", {"selector": BAR, "shows": ".workbench-hover"}),
    ("explain", "command", {"title": "Underkeel: Explain Selection or Symbol"}),
    ("explained", "webview", {"selector": "footer form", "text": ""}),
    ("text", "webview", {"selector": "main"}),
]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory, moe_model: Path) -> Iterator[VSCode]:
    folder = tmp_path_factory.mktemp("vscode")
    home = folder / "home"
    home.mkdir(mode=0o700)
    environment = {"UNDERKEEL_HOME": str(home), "UNDERKEEL_MODELS": str(paths.models_dir())}
    program = f"{sys.executable} -m assistant"
    made = vscode_session.prepared(
        folder, {"sample.py": CODE}, server=f"{program} lsp", environment=environment
    )
    made.settings(underkeel__completion__timeLimitMs=60000)  # the machine may be busy
    try:
        yield made
    finally:
        subprocess.run([*program.split(), "stop"], env={**os.environ, **environment}, timeout=60)


@pytest.fixture(scope="module")
def seen(editor: VSCode) -> dict[str, Any]:
    return editor.run(STEPS)


def test_the_session_went_to_its_end(seen: dict[str, Any]) -> None:
    assert seen.get("failed") is None


def test_a_real_model_completes_in_a_real_editor(seen: dict[str, Any]) -> None:
    assert "a" in seen["ghost"] and "b" in seen["ghost"]
    text = "\n".join(seen["lines"])
    assert text.startswith(f"def add(a: int, b: int) -> int:\n    return {seen['ghost']}".rstrip())
    compile(text, "sample.py", "exec")


def test_a_real_status_names_the_model(seen: dict[str, Any]) -> None:
    assert any("upcycled" in line for line in seen["tooltip"])


def test_a_real_model_explains(seen: dict[str, Any]) -> None:
    assert len(seen["text"].split()) > 5
