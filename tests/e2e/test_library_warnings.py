"""No library's warning reaches a user, from any entry point (case S24)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assistant import oom_score

WARNER = """
import logging, warnings
import platformdirs.unix
warnings.warn("a library is deprecated", DeprecationWarning)
warnings.warn("a library says", RuntimeWarning)
logging.getLogger("library").warning("a library logs")
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """A user without XDG_RUNTIME_DIR, as over ssh, in cron jobs and in containers."""
    return {"HOME": str(home), "TMPDIR": str(home), "PATH": os.environ["PATH"], **more}


def run(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    env = environment(home, **more)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def score(pid: int) -> str:
    """How soon Linux ends a process when memory runs out; empty elsewhere."""
    path = Path(f"/proc/{pid}/oom_score_adj")
    return path.read_text().strip() if path.exists() else ""


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["status"], ["stop"], ["logs"], ["doctor", "--json"], ["models", "list"]],
    ids=" ".join,
)
def test_commands_are_quiet_without_a_runtime_folder(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, "assistant", *arguments)
    assert "Warning" not in done.stderr and "site-packages" not in done.stderr, done.stderr


@pytest.mark.parametrize("kind", ["missing", "relative", "empty", "a file", "of everybody"])
def test_commands_are_quiet_with_an_unusable_runtime_folder(tmp_path: Path, kind: str) -> None:
    """S24: XDG_RUNTIME_DIR is set, and to nothing that could be used."""
    file, public = tmp_path / "file", tmp_path / "public"
    file.write_text("")
    public.mkdir()
    public.chmod(0o777)
    folder = {
        "missing": str(tmp_path / "none"),
        "relative": "run",
        "empty": "",
        "a file": str(file),
        "of everybody": str(public),
    }[kind]
    done = run(tmp_path, "assistant", "status", XDG_RUNTIME_DIR=folder)
    assert "Warning" not in done.stderr and "site-packages" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1


def test_the_daemon_is_quiet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "assistant", "serve"]  # without a model on the machine
    daemon = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(tmp_path)
    )
    try:
        for _ in range(600):
            if list(tmp_path.glob("**/daemon.sock")) or daemon.poll() is not None:
                break
            time.sleep(0.1)
        listening = list(tmp_path.glob("**/daemon.sock"))
        scores = {score(daemon.pid)}
    finally:
        daemon.terminate()
        _, errors = daemon.communicate(timeout=60)
    assert listening
    assert scores <= {""} or min(map(int, scores)) >= oom_score.DAEMON, "S2: before the editor"
    assert b"Warning" not in errors and b"site-packages" not in errors, errors


@pytest.mark.parametrize("command", [["lsp"], ["assistant", "lsp"]], ids=" ".join)
def test_the_language_server_is_quiet(tmp_path: Path, command: list[str]) -> None:
    messages: list[dict[str, object]] = [
        {"id": 1, "method": "initialize", "params": {"capabilities": {}, "processId": None}},
        {"method": "initialized", "params": {}},
        {"id": 2, "method": "shutdown"},
        {"method": "exit"},
    ]
    sent = b""
    for message in messages:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        sent += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        input=sent,
        capture_output=True,
        timeout=120,
        env=environment(tmp_path),
    )
    run(tmp_path, "assistant", "stop", "--force")
    assert b'"capabilities"' in done.stdout
    assert b"Warning" not in done.stderr and b"site-packages" not in done.stderr, done.stderr


def entry_point(child: str) -> str:
    hide = "from assistant.errors import hide_library_warnings; hide_library_warnings()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    return f"{hide}\n{child}\n{start}"


def test_warnings_of_any_library_are_hidden_in_the_process_and_its_children(tmp_path: Path) -> None:
    command = [sys.executable, "-c", entry_point(WARNER.replace("logging.getLogger", "#"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path))
    assert done.stderr == ""


def test_records_without_a_handler_are_hidden(tmp_path: Path) -> None:
    hide = "from assistant.errors import hide_library_warnings; hide_library_warnings()"
    command = [sys.executable, "-c", f"{hide}\n{WARNER}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path))
    assert done.stderr == ""


def test_they_can_be_seen_when_debugging(tmp_path: Path) -> None:
    command = [sys.executable, "-c", entry_point(WARNER)]
    env = environment(tmp_path, UNDERKEEL_DEBUG="1")
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "a library says" in done.stderr and "a library logs" in done.stderr
