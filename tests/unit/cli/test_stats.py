"""`underkeel stats`: the table, the plot, the JSON, the erasing."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

from typer.testing import CliRunner

from assistant import statistics
from assistant.cli import build_app
from assistant.statistics import Counts

RUNNER = CliRunner()


def run(*arguments: str) -> str:
    done = RUNNER.invoke(build_app("stats"), ["stats", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def fill() -> None:
    today = date.today()  # noqa: DTZ011 - the user's own day
    for back, language in ((0, "python"), (0, "go"), (1, "python"), (400, "python")):
        key = ((today - timedelta(days=back)).isoformat(), language)
        counts = Counts(
            offered=12, shown=10, accepted=3, partly=1,
            taken_chars=80, checked_chars=50, kept_chars=40,
        )  # fmt: skip
        statistics.add({key: counts}, {key: {3: 8, 6: 2}})


def test_nothing_was_counted(home: Path) -> None:
    assert "No suggestion was counted" in run()
    assert json.loads(run("--json"))["all"]["accepted_share"] is None
    assert run("--erase") == "There were no statistics.\n"
    assert not statistics.file().exists()


def test_table_and_plot(home: Path) -> None:
    fill()
    shown = run("--days", "10")
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "20" in rows["python"] and "6 (40%)" in rows["python"]
    assert "10" in rows["go"] and "3 (40%)" in rows["go"]
    assert "80%" in rows["all"] and "< 100 ms" in rows["all"] and "< 1 s" in rows["all"]
    assert shown.index("python") < shown.index("go"), "the busiest language first"
    assert "█" in shown


def test_json(home: Path) -> None:
    fill()
    found = json.loads(run("--days", "1", "--json"))
    assert found["all"]["shown"] == 20
    assert found["all"]["kept_share"] == 0.8
    assert found["languages"]["go"]["latency_p50_ms"] == 100
    assert [one["language"] for one in found["by_day"]] == ["go", "python"]


def test_switched_off_is_said(home: Path) -> None:
    (home / "config.toml").write_text("[statistics]\nenabled = false\n")
    assert "Statistics are switched off" in run()
    fill()
    assert "switched off; these are older" in run()


def test_erased(home: Path) -> None:
    fill()
    assert run("--erase") == "The statistics are erased.\n"
    assert "No suggestion" in run()
