"""Plots of text, and what is done to foreign text before it reaches a terminal."""

from __future__ import annotations

import json
import unicodedata
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tiny_gguf import tiny_gguf
from typer.testing import CliRunner

from assistant import cli
from assistant.cli import build_app
from assistant.cli import status as status_command
from assistant.cli.plan_view import plan_text
from assistant.cli.terminal import area, bar, console, print_json, printable
from assistant.engine.types import EngineStats, ModelInfo
from assistant.install.progress import ProgressLine
from assistant.memory.model.known_models import known_header
from assistant.memory.planning import Requirements, imagined, this_machine
from assistant.memory.planning.measured_planner import plan_report
from assistant.wire import (
    BudgetNow,
    ChangeNow,
    DeviceNow,
    ErrorNow,
    RungNow,
    ServiceState,
    SettingsNow,
    Status,
)


@given(
    values=st.lists(st.floats(0, 1e12), max_size=200),
    width=st.integers(1, 120),
    height=st.integers(1, 6),
    top=st.floats(0, 1e12),
)
def test_area_fills_its_frame(values: list[float], width: int, height: int, top: float) -> None:
    lines = area(values, width=width, height=height, top=top)
    assert [len(line) for line in lines] == [width] * height
    for column, value in enumerate(reversed(values[-width:])):
        cells = "".join(line[width - 1 - column] for line in lines)
        assert (cells.strip() != "") == (value > 0)


def test_area_of_a_ramp() -> None:
    assert area([0, 1, 2, 3, 4], width=5, height=2, top=4) == ["   ▄█", " ▄███"]
    assert area([4, 2], width=4, height=1) == ["  █▄"]


def test_bar() -> None:
    assert [bar(share, width=4) for share in (0, 0.5, 1, 7, -1)] == [
        "░░░░",
        "██░░",
        "████",
        "████",
        "░░░░",
    ]


HOSTILE = (
    "a[/INST][bold]b[/]",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "up\rdown",
    "two\nlines",
    "\u202eevil",
    "\u2066x\u2069",
    "zero\u200bwidth\ufeff",
    "\u2028line\u2029",
    "tag\U000e0041",
    "\u3164\u115f\uffa0",
    "surrogate\udc80",
    ":smile: [link=https://x]y[/link]",
    "back\\[slash\\\x1b",
)


def _is_safe(text: str) -> bool:
    """No control, format or surrogate character but line ends, tabs and joiners."""
    bad = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return all(one in "\n\t\u200c\u200d" or unicodedata.category(one) not in bad for one in text)


@given(st.text(max_size=50) | st.sampled_from(HOSTILE))
def test_printable_text_is_safe_and_one_line(text: str) -> None:
    """S12."""
    shown = printable(text)
    assert _is_safe(shown) and "\n" not in shown
    assert _is_safe(printable(text, lines=True))
    if _is_safe(text) and not set(text) & set("\n\t\u3164\u115f\u1160\uffa0\u034f"):
        assert shown == text or any(ord(one) > 0x17FF for one in text)


def test_what_words_need_stays() -> None:
    """S12: Persian with a non-joiner, emoji with joiners, combining marks, private-use icons."""
    for text in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d🚀",
        "e\u0301",
        "\ue0b0",
        "naïve — “quoted”",
    ):
        assert printable(text) == text


@given(st.text(max_size=50) | st.sampled_from(HOSTILE))
def test_a_console_prints_no_markup_and_nothing_unsafe(text: str) -> None:
    """S12: in plain prints, tables, panels and texts, wherever escaping was forgotten."""
    for what in (text, Text(text), _table(text), Panel(Text(text), title=Text("t"))):
        out = console()
        out.file = StringIO()
        out.print(what)
        assert _is_safe(out.file.getvalue())
    assert "smile" not in text or ":smile:" in _printed(text)
    if "[bold]" in text:
        assert "[/INST][bold]" in _printed(text)


def _printed(text: str) -> str:
    out = console()
    out.file = StringIO()
    out.print(text)
    return out.file.getvalue()


def _table(text: str) -> Table:
    table = Table()
    table.add_column("c")
    table.add_row(text)
    return table


@given(st.text(max_size=30) | st.sampled_from(HOSTILE))
def test_json_is_safe_and_keeps_its_values(text: str) -> None:
    """S12: a program reads the same value, a terminal sees no control character."""
    out = StringIO()
    with redirect_stdout(out):
        print_json({"a": [text], text: 1}, indent=1)
    assert _is_safe(out.getvalue())
    assert json.loads(out.getvalue()) == {"a": [text], text: 1}


def test_status_shows_the_caveats_of_the_plan() -> None:
    """S10: such as a context that was reduced to what the model was trained for."""
    caveat = "the context was reduced from 8192 to 2048 tokens"
    status = Status(
        version="1", pid=1, uptime_s=1.0, state=ServiceState.READY, caveats=(caveat, "another")
    )
    out = console()
    out.file = StringIO()
    out.print(status_command.picture(status))
    assert caveat in out.file.getvalue() and "another" in out.file.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_status_and_top_survive_any_name(name: str) -> None:
    """S12: names of models, devices and servers, reasons, errors and settings."""
    change = ChangeNow(key=name, old=name, new=name, effect="restart")
    error = ErrorNow(code="model", message=name, subject=name, advice=name)
    status = Status(
        version=name,
        pid=1,
        uptime_s=1.0,
        state=ServiceState.FAILED,
        stage=name,
        error=error,
        model=ModelInfo(name=name, path=name, architecture=name, server=name),
        stats=EngineStats(cells_total=1),
        budget=BudgetNow(tokens=1, level=1, reason=name),
        devices=(DeviceNow(name=name, total_bytes=2, free_bytes=1),),
        rung=RungNow(index=1, of=3, name=name, says=name, reason=name),
        load=(name,),
        supervisor=name,
        socket=name,
        log=name,
        settings=SettingsNow(path=name, pending=(change,)),
    )
    out = console()
    out.file = StringIO()
    out.print(status_command.picture(status))
    out.print(status_command.plots([status, status], 100))
    assert _is_safe(out.file.getvalue())


@pytest.mark.parametrize("name", HOSTILE)
def test_the_log_is_shown_without_control_characters(home: Path, name: str) -> None:
    """S12: whatever a file name put into the log."""
    log = home / "state" / "daemon.log"
    log.parent.mkdir()
    log.write_text(f"INFO {name}\n", encoding="utf-8", errors="surrogatepass")
    result = CliRunner().invoke(build_app("logs"), ["logs"])
    assert result.exit_code == 0 and _is_safe(result.output)


@pytest.mark.parametrize("name", HOSTILE)
def test_plan_shows_the_name_of_a_hostile_model(name: str) -> None:
    """S12: `general.name` and `general.architecture` are foreign, and so are remarks."""
    known = known_header("gpt-oss-20b")
    header = replace(known, metadata={**known.metadata, "general.name": name})
    here, _ = this_machine()
    out = console()
    out.file = StringIO()
    for ram_bytes in (64 << 30, 1 << 30):  # it fits, and it does not
        machine = imagined(here, [24 << 30 if ram_bytes > 1 << 30 else 1 << 30], ram_bytes, 1)
        report = plan_report(header, machine, Requirements(), here, (name,))
        out.print(plan_text(report))
    assert _is_safe(out.file.getvalue())


def test_models_with_hostile_file_names_are_listed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S12: names of files in the models folder."""
    monkeypatch.setenv("UNDERKEEL_MODELS", str(tmp_path))
    for name in ("\x1b[31mred", "[bold]x", "\u202edlrow"):
        (tmp_path / f"{name}.gguf").write_bytes(tiny_gguf())
    result = CliRunner().invoke(build_app("models"), ["models", "list"], terminal_width=200)
    assert result.exit_code == 0 and _is_safe(result.output)
    assert "[bold]x" in result.output and "\\x1b[31mred" in result.output


@pytest.mark.parametrize("name", ["\x1b[31mred", "[/INST]", "a\nb", "\u202ex"])
def test_errors_and_wrong_usage_are_safe(
    home: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """S12: what the user typed, or pasted, comes back escaped, on one line."""
    for arguments in (
        ["plan", name],
        ["plan", "gpt-oss-20b", "--quant", name],
        ["complete", name],
        ["context", name],
        ["help", name],
        ["models", "remove", name],
        ["plan", "--ctx", name],
        [name],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.run(arguments)
        out, err = capfd.readouterr()
        assert ended.value.code in {1, 2}
        assert _is_safe(err + out) and "Traceback" not in err
        assert ended.value.code == 2 or err.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\udc80" not in name])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_of_an_installation_is_safe(name: str, terminal: bool) -> None:
    """S12: the output of pip and compilers."""
    out = StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    line = ProgressLine("llama.cpp", out)
    line.show(name)
    line.end(name)
    text = out.getvalue().replace("\r\033[K", "\n")
    assert _is_safe(text) and text.count("\n") == (3 if terminal else 2)
