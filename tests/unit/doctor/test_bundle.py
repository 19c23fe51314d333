"""The bundle: plain, private, and without anything that the user would not want to give away."""

from __future__ import annotations

import getpass
import stat
import zipfile
from pathlib import Path

import pytest
from steps import linear
from typer.testing import CliRunner

from assistant import paths
from assistant.cli import build_app
from assistant.doctor import bundle
from assistant.doctor.checks import ok
from assistant.engine.types import EngineStats, SlotState
from assistant.errors import DaemonError
from assistant.service import Manager, ServiceNow
from assistant.wire import ServiceState, Status

SERVICE = ServiceNow(Manager.NONE, installed=False)


def status() -> Status:
    slot = SlotState(id=0, tokens=3, busy=False, document="file:///secret/plans.py")
    return Status(
        version="1",
        pid=1,
        uptime_s=1.0,
        state=ServiceState.READY,
        stats=EngineStats(slots=(slot,)),
        log="/home/jane/.local/state/underkeel/daemon.log",
    )


@pytest.fixture
def jane(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a name, a home and a settings file with keys in it."""
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    monkeypatch.setattr("socket.gethostname", lambda: "janes-laptop")
    (home / "config.toml").write_text(
        '[remote]\nurl = "https://user:pw@team.example/v1"\nkey_file = "/home/jane/key"\n'
        'api_key = "sk-12345"\n  token = "t0ps3cret"\n[completion]\nmax_tokens = 64\n'
    )
    paths.state_dir().mkdir()
    paths.log_file().write_text(
        "2026 INFO a serving name=x path=/home/jane/m.gguf on janes-laptop\n"
    )
    return home


def gathered() -> dict[str, str]:
    return bundle.gather([ok("python", "/home/jane/venv")], status(), "metric 1\n", SERVICE)


def test_nothing_private_is_in_it(jane: Path) -> None:
    files = gathered()
    everything = "\n".join(files.values())
    for private in ("jane", "sk-12345", "t0ps3cret", "pw@", "team.example", "plans", str(jane)):
        assert private not in everything, private
    assert "~/m.gguf on HOST" in files["daemon.log.txt"]
    assert "max_tokens = 64" in files["settings.toml"]
    assert 'key_file = "~/key"' in files["settings.toml"]
    assert "metric 1" in files["metrics.txt"] and '"tokens": 3' in files["status.json"]


def test_the_readme_lists_every_file(jane: Path) -> None:
    files = gathered()
    assert all(name in files["README.txt"] for name in files if name != "README.txt")


@pytest.mark.parametrize("name", ["b", "b.zip"])
def test_it_is_plain_files_only_the_user_can_read(jane: Path, tmp_path: Path, name: str) -> None:
    files, target = gathered(), tmp_path / name
    bundle.write(files, target)
    assert stat.S_IMODE(target.stat().st_mode) & 0o077 == 0
    if name.endswith(".zip"):
        with zipfile.ZipFile(target) as archive:
            found = {Path(one).name: archive.read(one).decode() for one in archive.namelist()}
    else:
        found = {path.name: path.read_text() for path in target.iterdir()}
    assert found == files
    with pytest.raises(DaemonError, match="cannot be written"):
        bundle.write(files, target)


def test_short_names_are_not_cut_out_of_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "al")
    monkeypatch.setattr("socket.gethostname", lambda: "load")
    assert bundle.without_names("all loads are loaded, load 1") == "all loads are loaded, HOST 1"


def test_the_command_shows_what_it_wrote(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERKEEL_MODELS", str(home / "no models"))
    ran = CliRunner().invoke(build_app("bundle"), ["bundle", "-o", str(tmp_path / "b")])
    assert ran.exit_code == 0, ran.output
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert all(name in ran.stdout for name in names) and "Look through it" in ran.stdout
    assert "no daemon is running" in (tmp_path / "b" / "status.json").read_text()


TOKEN = "ghp_" + "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('api_key = "x_file = 1"', "api_key = ***"),
        ("'api-key' = 'abc'\r", "'api-key' = ***\r"),
        ("remote.Password= 1", "remote.Password= ***"),
        ('key_file = "a"', 'key_file = "a"'),
        ("max_tokens = 64", "max_tokens = 64"),
        ("secret =", "secret ="),
        (f'run = ["--token", "{TOKEN}"]', 'run = ["--token", "..."]'),
    ],
)  # fmt: skip
def test_values_of_settings_are_hidden(line: str, shown: str) -> None:
    """T1, T10: by the name alone, or by what the value is."""
    assert bundle._hide_values(f"[remote]\n{line}\n") == f"[remote]\n{shown}\n"


@pytest.mark.parametrize("part", ["key", "a.", " ", "\t", "\n", "key = ", "= key", "token_file"])
def test_hiding_takes_linear_time(part: str) -> None:
    """T1: a settings file of one long line, or of many."""

    def made(size: int) -> str:
        return part * (size // len(part))

    assert linear(bundle._hide_values, made, 4_000)
