"""The extension without an editor: types, lint, unit tests, and what its package holds."""

from __future__ import annotations

import re
import subprocess
import zipfile

import pytest
import vscode_session
from vscode_session import EXTENSION

pytestmark = [
    pytest.mark.editor,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(vscode_session.missing("node", "npm")),
        reason=vscode_session.missing("node", "npm"),
    ),
]


def npm(*words: str) -> str:
    vscode_session.prepare()
    done = subprocess.run(["npm", *words], cwd=EXTENSION, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_strict_types_and_lint() -> None:
    npm("run", "check")


def test_the_parts_that_need_no_editor() -> None:
    said = npm("test")
    assert re.search(r"^# pass [1-9]", said, re.MULTILINE), "it ran some"


def test_the_extension_packs_its_own_files_only() -> None:
    with zipfile.ZipFile(vscode_session.build()) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    media = {f"extension/media/{path.name}" for path in (EXTENSION / "media").iterdir()}
    assert names == media | {
        "extension.vsixmanifest",
        "[Content_Types].xml",
        "extension/LICENSE",
        "extension/README.md",
        "extension/package.json",
        "extension/out/extension.js",
    }
