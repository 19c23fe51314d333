"""A project that an editor opens cannot put its own modules in place of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXIT = '{"jsonrpc": "2.0", "method": "exit"}'


@pytest.mark.parametrize(
    "module", ["lsp/__main__.py", "lsp.py", "assistant/__init__.py", "json.py"]
)
def test_modules_in_the_working_directory_are_not_run(tmp_path: Path, module: str) -> None:
    planted = tmp_path / module
    planted.parent.mkdir(exist_ok=True)
    planted.write_text("open('was_here', 'w').close()\nraise SystemExit(9)\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "assistant", "lsp"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "UNDERKEEL_HOME": str(tmp_path / "home")},
        input=f"Content-Length: {len(EXIT)}\r\n\r\n{EXIT}".encode(),
        capture_output=True,
        timeout=120,
    )
    assert not (tmp_path / "was_here").exists()
    assert done.returncode == 1, "an exit without a shutdown, so our server has read it"
