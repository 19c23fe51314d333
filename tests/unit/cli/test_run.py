"""The command line's frame: what a person sees when something goes wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import typer
from real_daemon import configure, ended_afterwards, underkeel

from assistant import cli, paths
from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.errors import UnknownModelError


def outcome(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException
) -> tuple[object, str]:
    """Exit code and stderr of a command that raises `error`."""

    def build(name: str | None) -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def fail() -> NoReturn:
            raise error

        return app

    monkeypatch.setattr(cli, "build_app", build)
    with pytest.raises(SystemExit) as ended:
        cli.run([])
    return ended.value.code, capfd.readouterr().err


def test_own_errors_are_one_message(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    error = UnknownModelError("there is no such model", subject="x", advice="Pull it")
    code, said = outcome(monkeypatch, capfd, error)
    assert (code, said) == (1, "underkeel: x: there is no such model. Pull it\n")


def test_an_interrupt_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcome(monkeypatch, capfd, KeyboardInterrupt()) == (130, "")


def test_the_unexpected_is_one_line_that_names_the_log(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = outcome(monkeypatch, capfd, ZeroDivisionError("two\nlines"))
    assert code == 1
    assert said.count("\n") == 1 and "ZeroDivisionError: two lines" in said
    assert str(home / "state" / "daemon.log") in said
    assert "Traceback" not in said


def test_debug_lets_the_unexpected_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str | None) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "build_app", build)
    monkeypatch.setenv("UNDERKEEL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.run([])


def test_help_lists_the_commands(home: Path) -> None:
    found = underkeel("--help")
    assert found.returncode == 0
    for name in ("serve", "status", "stop", "logs"):
        assert name in found.stdout


def test_unknown_commands_and_options_are_wrong_usage(home: Path) -> None:
    assert underkeel("sreve").returncode == 2
    assert underkeel("status", "--jsno").returncode == 2


def test_without_a_daemon(home: Path) -> None:
    status = underkeel("status")
    assert status.returncode == 3 and "underkeel serve" in status.stdout
    assert underkeel("status", "--json").stdout == '{"state":"not running"}\n'
    stop = underkeel("stop")
    assert (stop.returncode, stop.stdout) == (0, "No daemon is running.\n")
    logs = underkeel("logs")
    assert logs.returncode == 1 and "there is no log yet" in logs.stderr


def test_a_reader_that_leaves_is_no_error(home: Path) -> None:
    log = home / "state" / "daemon.log"
    log.parent.mkdir()
    log.write_text("line\n" * 100_000)
    command = f"{sys.executable} -m assistant logs -n 100000 | head -1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.stderr) == ("line\n", "")


@pytest.mark.parametrize("module", ["assistant.daemon.process.server", "assistant.cli.daemon"])
def test_the_daemon_never_loads_llama_cpp(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "import assistant.daemon.http.app, assistant.engine.local\n"
        "print([name for name in sys.modules if name.startswith('llama_cpp')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


def test_the_client_loads_neither_web_server_nor_engine() -> None:
    code = (
        "import sys, assistant.client.client, assistant.client.starter\n"
        "print([name for name in ('llama_cpp', 'uvicorn', 'starlette', 'jinja2', 'numpy')"
        " if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen2.5-coder-0.5", "Did you mean qwen2.5-coder-0.5b"),
        ("Qwen2.5-Coder-1.5B", "Did you mean qwen2.5-coder-1.5b"),
        ("qwen2.5-coder-3b", "not on this machine. Run: underkeel pull qwen2.5-coder-3b"),
        ("nothing-like-it", "there is no model of this name"),
        ("nothing.gguf", "there is no such file"),
        ("{home}", "this is a folder, not a GGUF"),
        ("{home}/text.gguf", "this is not a GGUF file"),
        ("{home}/empty.gguf", "empty.gguf"),
        ("~nobody-of-this-name/m.gguf", "this cannot be the name of a file"),
        ("", "--model"),
    ],
)
def test_a_model_that_is_asked_for_and_cannot_be_served_ends_the_command(
    home: Path, name: str, said: str
) -> None:
    """With an error for a person; nothing stays behind, neither a daemon nor its files."""
    (home / "text.gguf").write_text("a text")
    (home / "empty.gguf").touch()
    found = underkeel("serve", "--model", name.format(home=home))
    assert found.returncode == 1 and found.stdout == ""
    assert said in found.stderr and "Traceback" not in found.stderr
    assert found.stderr.count("\n") == 1
    assert running_pid() is None and not paths.socket_path().exists()


def test_a_daemon_that_clients_start_stays_to_say_what_is_wrong(home: Path) -> None:
    """The settings name an unknown model: an editor reads the reason from the status."""
    configure(home, model={"name": "qwen2.5-coder-0.5"})

    async def main() -> str:
        async with DaemonClient() as client:
            with pytest.raises(UnknownModelError) as caught:
                await client.wait_ready()
            return caught.value.advice

    with ended_afterwards():
        assert "Did you mean qwen2.5-coder-0.5b" in asyncio.run(main())
        assert running_pid() is not None
