"""The log: private, bounded, structured if asked, and never quoting what it failed on."""

from __future__ import annotations

import json
import logging
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assistant.daemon.process import logs
from assistant.errors import DaemonError

SECRET = "tell_nobody_of_this"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    ours = logging.getLogger("assistant").level
    yield tmp_path / "state" / "daemon.log"
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    logging.getLogger("assistant").setLevel(ours)


log = logging.getLogger("assistant.daemon.test")


def fail() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError:
        log.exception("it failed n=%d", 3)


@pytest.mark.parametrize("structured", [False, True])
def test_exceptions_are_placed_and_not_quoted(path: Path, structured: bool) -> None:
    logs.configure(path, level="info", terminal=False, structured=structured)
    fail()
    text = path.read_text()
    assert SECRET not in text
    assert "KeyError" in text and "test_logs.py" in text and " fail" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_structured_line_has_the_fields_of_its_message(path: Path) -> None:
    logs.configure(path, level="info", terminal=False, structured=True)
    log.info("loading step=%d spec=%s share=%.2f", 3, "m.gguf", 0.5)
    log.warning("plain words %s and a number %d", "x", 4)
    log.info("the worker crashed (%d so far, cause=%s)", 1, "hang")
    log.debug("not at this level")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "loading",
        "plain words x and a number 4",
        "the worker crashed (1 so far, cause=hang)",
    ]
    assert (lines[0]["step"], lines[0]["spec"], lines[0]["share"]) == (3, "m.gguf", 0.5)
    assert (lines[1]["level"], lines[1]["logger"]) == ("warning", "assistant.daemon.test")
    assert lines[0]["at"].endswith("+00:00")


def test_it_rotates_and_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_FILE_BYTES", 2000)
    logs.configure(path, level="info", terminal=False)
    for number in range(400):
        log.info("line number=%d", number)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["daemon.log", *(f"daemon.log.{n}" for n in (1, 2, 3))]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert path.read_text().endswith("line number=399\n")


def test_two_daemons_share_a_file_that_one_rotates(path: Path) -> None:
    logs.configure(path, level="info", terminal=False)
    log.info("before")
    path.rename(path.with_suffix(".moved"))  # the other, or logrotate
    log.info("after")
    assert path.read_text().endswith("after\n") and "before" not in path.read_text()


def test_the_journal_gets_levels(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(path, level="info", terminal=False, journal=True)
    log.info("only in the file")
    log.warning("in both")
    fail()
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "<4>assistant.daemon.test in both"
    assert len(said) > 2 and all(line.startswith("<3>") for line in said[1:])
    assert SECRET not in "".join(said) and "only in the file" in path.read_text()


def test_a_file_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "daemon.log").mkdir()
    with pytest.raises(DaemonError, match="the log cannot be written"):
        logs.configure(tmp_path / "daemon.log", level="info", terminal=False)


NAMES = ("\x1b[2J\x1b]0;title\x07", "\x9b31m", "up\rdown", "\u202eevil", "[bold]x[/] :smile:")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [False, True])
def test_names_in_a_log_cannot_steer_a_terminal(
    path: Path, capsys: pytest.CaptureFixture[str], name: str, terminal: bool
) -> None:
    """S12: of a model, in the file and for who started the daemon by hand."""
    logs.configure(path, level="info", terminal=terminal)
    log.info("serving name=%s", name)
    shown = path.read_text("utf-8") + capsys.readouterr().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert shown.count("serving name=") == 1 + terminal
    if "bold" in name:
        assert name in path.read_text("utf-8")


_INTO_A_PIPE = """
import logging, sys
from pathlib import Path
from assistant.daemon.process import logs

logs.configure(Path(sys.argv[1]), level="info", terminal=True)
for number in range(2000):
    logging.getLogger("assistant.test").info("line n=%d", number)
print("to nobody", flush=True)
sys.exit(5)
"""


def test_the_log_goes_on_when_the_reader_of_the_output_has_ended(path: Path) -> None:
    """`underkeel serve | head` must not end the daemon in the middle of what it does."""
    command = [sys.executable, "-c", _INTO_A_PIPE, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None and daemon.stderr is not None
        daemon.stdout.readline()
        daemon.stdout.close()
        problems = daemon.stderr.read()
    assert (daemon.returncode, problems) == (5, b"")
    assert path.read_text().splitlines()[-1].endswith("line n=1999")
