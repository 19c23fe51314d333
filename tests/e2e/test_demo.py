"""The demo is the first thing anyone sees: it answers at its cursors and leaves nothing behind."""

from __future__ import annotations

import ast
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.model


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "assistant", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def _demo_processes() -> list[list[str]]:
    """Command lines of what still runs in a demo's private home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "underkeel-demo-" in process.environ().get("UNDERKEEL_HOME", ""):
                found.append(process.cmdline())
    return found


def test_every_cursor_is_answered_and_nothing_stays(moe_model: Path) -> None:
    done = _run("--json")
    assert done.returncode == 0, done.stderr
    files = {file["name"]: file for file in json.loads(done.stdout)}
    assert set(files) == {"stock.py", "queue.ts", "words.go"}
    ghosts = [ghost for file in files.values() for ghost in file["ghosts"]]
    assert len(ghosts) >= 8
    assert sum(bool(ghost["text"].strip()) for ghost in ghosts) >= len(ghosts) - 1
    for file in files.values():
        for ghost in file["ghosts"]:
            assert file["text"][ghost["start"] :].startswith(ghost["text"])
            assert ghost["evaluated"] + ghost["cached"] > 0
    ast.parse(files["stock.py"]["text"])
    assert _demo_processes() == []


def test_a_pipe_shows_what_the_model_wrote_and_no_warnings(
    tiny_moe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without colours the model's text is between marks (and case S24)."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name in ("FORCE_COLOR", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)
    done = _run("--model", str(tiny_moe))
    assert done.returncode == 0, done.stderr
    assert "Text between « and » was written by the model" in done.stdout
    assert done.stdout.count("«") == done.stdout.count("»") >= 8
    assert "\033" not in done.stdout
    assert done.stderr == ""


def test_unknown_model_is_said_clearly() -> None:
    done = _run("--model", "no-such-model")
    assert done.returncode == 1
    assert "no-such-model" in done.stderr
    assert "Traceback" not in done.stderr
