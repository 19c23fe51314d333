"""The first minutes in a real VS Code: an untrusted project, no program, walkthrough, installation.

The installation is real: a new environment, made and filled by Python and pip. Only what is
installed stands in for the whole package, whose llama.cpp takes minutes to build.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import vscode_session
from vscode_scenes import BAR, STATUS
from vscode_session import Step, VSCode, write_program

pytestmark = [
    pytest.mark.editor,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

RULES = {"notify": [{"method": "underkeel/status", "params": STATUS}]}
STEP = ".getting-started-step:has-text('Find or install the program')"
STEPS: list[Step] = [
    ("error", "see", {"selector": BAR, "text": "error"}),
    ("missing", "toast", {"text": "not found on the PATH", "button": "Get Started"}),
    ("walkthrough", "see", {"selector": ".gettingStartedContainer", "text": "Get started with"}),
    ("step", "see", {"selector": STEP}),
    # Trust lets the workspace's own environment serve
    ("manage trust", "command", {"title": "Workspaces: Manage Workspace Trust"}),
    ("trust", "click", {"selector": ".workspace-trust-editor .monaco-button:text-is('Trust')"}),
    ("found", "see", {"selector": BAR, "text": "640 tokens"}),
    ("started", "heard", {"method": "initialize"}),
    # An environment of our own comes before it
    ("get started", "command", {"title": "Underkeel: Get Started"}),
    ("unfold", "click", {"selector": f"{STEP} .step-title"}),
    ("install", "click", {"selector": ".monaco-button:has-text('Install the program')"}),
    ("asked", "dialog", {"text": "pinned hash", "button": "Install"}),
    ("installed", "heard", {"method": "initialize", "times": 2}),
    ("log", "command", {"title": "Underkeel: Show Log"}),
    ("logged", "see", {"selector": ".part.panel .view-lines", "text": "(own environment)"}),
]  # fmt: skip


def stand_in(folder: Path, program: Path) -> Path:
    """A folder like that of `make dist`; its command `underkeel` starts another program."""
    info = "underkeel-0.1.0.dist-info"
    code = f"import os, sys\ndef main():\n    os.execv({str(program)!r}, sys.argv)\n"
    files = {
        "underkeel_stand_in.py": code,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: underkeel\nVersion: 0.1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nunderkeel = underkeel_stand_in:main\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{name},sha256={digest.decode()},{len(text)}\n"
    dist = folder / "dist"
    dist.mkdir()
    path = dist / "underkeel-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            wheel.writestr(name, text)
    pinned = f"underkeel==0.1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
    (dist / "underkeel-0.1.0-requirements.txt").write_text(pinned)
    return dist


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> VSCode:
    folder = tmp_path_factory.mktemp("vscode")
    made = vscode_session.prepared(
        folder,
        {"sample.py": "x = 1\n"},
        on_path=False,
        rules=RULES,
        environment={"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        trusted=False,
    )
    program = folder / "bin" / "underkeel"
    write_program(made.workspace / ".venv" / "bin" / "underkeel", f'exec {program} "$@"')
    made.settings(
        underkeel__installFrom=str(stand_in(folder, program)),
        security__workspace__trust__startupPrompt="never",
    )
    return made


@pytest.fixture(scope="module")
def seen(editor: VSCode) -> dict[str, Any]:
    return editor.run(STEPS)


def test_the_session_went_to_its_end(seen: dict[str, Any]) -> None:
    assert seen.get("failed") is None


def test_a_program_in_an_untrusted_workspace_is_not_started(seen: dict[str, Any]) -> None:
    """It was in .venv from the start, and was started only after the user trusted the workspace."""
    assert seen["error"].strip() == "Underkeel: error"
    assert seen["found"].strip() == "Underkeel: 640 tokens"


def test_the_walkthrough_leads_to_program_and_model(seen: dict[str, Any]) -> None:
    for words in ("Find or install the program", "Pick a model", "Write"):
        assert words in seen["walkthrough"]


def test_the_installation_says_what_it_does_and_does_it(
    editor: VSCode, seen: dict[str, Any]
) -> None:
    assert "environment of its own" in seen["asked"]
    assert str(editor.home / "dist") in seen["asked"]
    installed = editor.home.glob("user-data/**/environment/bin/underkeel")
    assert len(list(installed)) == 1
    assert "(workspace)" in seen["logged"], "what served before"
