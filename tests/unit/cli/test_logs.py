"""`underkeel logs`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def test_the_last_lines(home: Path) -> None:
    log = home / "state" / "daemon.log"
    log.parent.mkdir()
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    command = [sys.executable, "-m", "assistant", "logs", "-n", "2"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.stdout == "line 98\nline 99\n"


def test_following_goes_on_through_a_rotation(home: Path) -> None:
    log = home / "state" / "daemon.log"
    log.parent.mkdir()
    log.write_text("old\n" * 10)
    command = [sys.executable, "-u", "-m", "assistant", "logs", "-f", "-n", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "old\n"
            with log.open("a") as file:
                file.write("added\n")
            assert process.stdout.readline() == "added\n"
            log.rename(log.with_suffix(".log.1"))
            time.sleep(0.5)
            log.write_text("rotated\n")
            assert process.stdout.readline() == "rotated\n"
        finally:
            process.kill()
