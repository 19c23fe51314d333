"""`underkeel uninstall` lists first, then asks, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assistant.install.uninstall import program


def environment(home: Path, **more: str) -> dict[str, str]:
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PATH": os.environ["PATH"], **more}


def underkeel(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "assistant", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=env, stdin=subprocess.DEVNULL
    )


def fill(home: Path) -> None:
    """A home with all that Underkeel writes, and with files of others beside it."""
    for name in (
        ".config/underkeel/config.toml",
        ".cache/underkeel/index/a.db",
        ".local/state/underkeel/daemon.log",
        ".local/share/underkeel/models/mine.gguf",
        ".local/share/underkeel/models/.partial/x",
        ".config/systemd/user/underkeel.service",
        "tmp/underkeel-demo-abc/config.toml",
        ".config/other/config.toml",
        ".cache/other/x",
        "tmp/other",
    ):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def left(home: Path) -> set[str]:
    return {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}


OTHERS = {".config/other/config.toml", ".cache/other/x", "tmp/other"}


def test_nothing_is_left_but_the_files_of_others(tmp_path: Path) -> None:
    fill(tmp_path)
    env = environment(tmp_path)
    done = underkeel(env, "uninstall", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    found = left(tmp_path)
    # Without a service manager, its files are none of ours to find.
    assert found - {".config/systemd/user/underkeel.service"} == OTHERS
    assert not [path for path in tmp_path.rglob("*underkeel") if path.is_dir()]
    assert not list((tmp_path / "tmp").glob("runtime-*"))
    assert "code --uninstall-extension" in done.stdout


def test_it_lists_first_and_asks(tmp_path: Path) -> None:
    fill(tmp_path)
    before = left(tmp_path)
    done = underkeel(environment(tmp_path), "uninstall", "--all")
    assert done.returncode == 1 and "Add --yes" in done.stderr
    for name in (".config/underkeel/config.toml", ".cache/underkeel", "underkeel/models"):
        assert name in done.stdout
    assert left(tmp_path) >= before


def test_models_and_settings_stay_without_all(tmp_path: Path) -> None:
    fill(tmp_path)
    done = underkeel(environment(tmp_path), "uninstall", "--yes")
    assert done.returncode == 0 and "This stays" in done.stdout
    assert {
        ".config/underkeel/config.toml",
        ".local/state/underkeel/daemon.log",
        ".local/share/underkeel/models/mine.gguf",
    } <= left(tmp_path)
    assert not (tmp_path / ".cache/underkeel").exists()
    assert not list(tmp_path.glob("tmp/underkeel-*"))


def test_a_models_folder_of_the_users_own_keeps_what_was_not_pulled(tmp_path: Path) -> None:
    own = tmp_path / "models"
    (own / ".partial").mkdir(parents=True)
    (own / "other.gguf").write_text("")
    env = environment(tmp_path, UNDERKEEL_MODELS=str(own))
    assert underkeel(env, "uninstall", "--all", "--yes").returncode == 0
    assert (own / "other.gguf").exists() and not (own / ".partial").exists()


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles/config.toml").write_text("")
    (tmp_path / ".config/underkeel").mkdir(parents=True)
    (tmp_path / ".config/underkeel/config.toml").symlink_to(tmp_path / "dotfiles/config.toml")
    (tmp_path / "big").mkdir()
    (tmp_path / "big/a.gguf").write_text("")
    (tmp_path / ".local/share/underkeel").mkdir(parents=True)
    (tmp_path / ".local/share/underkeel/models").symlink_to(tmp_path / "big")
    assert underkeel(environment(tmp_path), "uninstall", "--all", "--yes").returncode == 0
    assert (tmp_path / "dotfiles/config.toml").exists() and (tmp_path / "big/a.gguf").exists()
    assert not (tmp_path / ".config/underkeel").exists()


def test_a_home_of_the_users_own_keeps_other_files(tmp_path: Path) -> None:
    env = environment(tmp_path, UNDERKEEL_HOME=str(tmp_path / "all"))
    (tmp_path / "all/cache").mkdir(parents=True)
    (tmp_path / "all/mine.txt").write_text("")
    assert underkeel(env, "uninstall", "--all", "--yes").returncode == 0
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["mine.txt"]
    (tmp_path / "all/mine.txt").unlink()
    assert underkeel(env, "uninstall", "--all", "--yes").returncode == 0
    assert not (tmp_path / "all").exists()


def test_the_running_daemon_is_stopped(tmp_path: Path) -> None:
    env = environment(tmp_path, UNDERKEEL_HOME=str(tmp_path / "all"))
    daemon = subprocess.Popen(
        [sys.executable, "-m", "assistant", "serve"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            if (tmp_path / "all/run/daemon.sock").exists():
                break
            try:
                daemon.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert (tmp_path / "all/run/daemon.sock").exists() and daemon.poll() is None
        assert underkeel(env, "uninstall", "--all", "--yes").returncode == 0
        assert daemon.wait(30) is not None
    finally:
        daemon.kill()
        daemon.wait()
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("prefix", "direct_url", "expected"),
    [
        ("/home/a/.local/share/uv/tools/underkeel", "", "uv tool uninstall underkeel"),
        ("/home/a/.local/share/pipx/venvs/underkeel", "", "pipx uninstall underkeel"),
        ("/src/.venv", '{"url": "file:///src", "dir_info": {"editable": true}}', "runs from /src"),
        ("/a/globalStorage/underkeel.underkeel/environment", "", "VS Code installed"),
        ("/venv", '{"url": "file:///x.whl", "archive_info": {}}', "-m pip uninstall underkeel"),
        ("/venv", "not JSON", "-m pip uninstall underkeel"),
    ],
)
def test_the_program_itself(prefix: str, direct_url: str, expected: str) -> None:
    found = program(prefix, direct_url)
    assert expected in (" ".join(found.command) or found.advice)
