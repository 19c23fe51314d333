"""Settings that change under a running daemon: what takes effect, what waits, and what is said."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from daemons import serving, until
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from assistant import settings
from assistant.cli.daemon import report
from assistant.daemon.loading import Loadable
from assistant.daemon.process import settings_changes
from assistant.daemon.process.settings_changes import (
    Effect,
    Follower,
    advice,
    compare,
    effect_of,
    pending,
)
from assistant.engine.types import LoadSpec, Priority
from assistant.errors import SettingsError
from assistant.memory.ladder import Rung
from assistant.settings import CompletionSettings, DaemonSettings, ModelSettings, Settings

KEYS = [
    (table, name)
    for table in Settings.__struct_fields__
    for name in getattr(Settings(), table).__struct_fields__
]


@given(st.sampled_from(KEYS))
def test_a_changed_setting_is_the_only_change(key: tuple[str, str]) -> None:
    table, name = key
    old = Settings()
    section = getattr(old, table)
    value = getattr(section, name)
    other: dict[type, Callable[[], Any]] = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value + 1.0,
    }
    new_value: Any = f"{value}x"
    if value == ():
        new_value = ("x",)
    elif type(value) in other:
        new_value = other[type(value)]()
    new = replace(old, **{table: replace(section, **{name: new_value})})
    (change,) = compare(old, new)
    assert change.key == f"{table}.{name}" and change.effect == effect_of(change.key)
    assert msgspec.json.decode(change.new.encode()) in (
        new_value,
        [*value, "x"] if value == () else 0,
    )
    assert compare(new, new) == ()
    assert (change in pending(old, new)) == (change.effect in {"next load", "restart"})


def test_when_each_takes_effect() -> None:
    assert effect_of("daemon.max_waiting") is Effect.NOW
    assert effect_of("daemon.tcp_port") is Effect.RESTART
    assert effect_of("model.n_ctx") is Effect.NEXT_LOAD
    assert effect_of("completion.budget_tokens") is Effect.NOW
    assert effect_of("completion.debounce_ms") is Effect.EDITORS
    assert effect_of("a.table_of_tomorrow") is Effect.RESTART


def test_what_waits_is_reported_with_what_brings_it_about() -> None:
    new = Settings(model=ModelSettings(n_ctx=4096), daemon=DaemonSettings(max_waiting=8))
    said = advice(compare(Settings(), new))
    assert any("max_waiting: 64 -> 8, took effect" in line for line in said)
    assert any("n_ctx: 8192 -> 4096" in line and "underkeel restart" in line for line in said)


def test_secrets_are_not_told() -> None:
    assert settings_changes._shown("api_key", "hunter2") == "***"
    assert (
        settings_changes._shown("key_file", "/k") == '"/k"'
        and settings_changes._shown("max_tokens", 3) == "3"
    )


def write(home: Path, text: str) -> None:
    """As editors write: a new file that takes the old one's place."""
    new = home / "config.toml~"
    new.write_text(text)
    new.replace(home / "config.toml")


def test_a_running_daemon_follows_its_file(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        chosen, _ = settings.load()
        async with asyncio.timeout(60), serving(settings=chosen) as daemon:
            service = daemon.service
            follower = Follower(service, settings.load)
            watching = asyncio.create_task(settings_changes.watch(follower.path, follower.reload))
            await asyncio.sleep(0.3)  # the watcher is there
            write(home, "[daemon]\nmax_waiting = 7\n[model]\nn_ctx = 2048\n")
            await until(lambda: service.admission.most == 7)
            told_now = (await daemon.client.status()).settings
            assert told_now is not None
            assert {change.key for change in told_now.changes} == {
                "daemon.max_waiting",
                "model.n_ctx",
            }
            assert [change.key for change in told_now.pending] == ["model.n_ctx"]
            # A wrong value leaves its setting as it is, and is reported; the others are taken.
            write(home, '[daemon]\nmax_waiting = "many"\n[completion]\nbudget_tokens = 300\n')
            await until(lambda: bool(follower.now.problems))
            assert service.admission.most == 7 and not follower.now.pending
            assert "7, the last valid value, is used" in follower.now.problems[0]
            warned = [
                record.message for record in caplog.records if "max_waiting" in record.message
            ]
            follower.reload()  # what is wrong still is reported, and not logged once more
            assert follower.now.problems
            again = [record.message for record in caplog.records if "max_waiting" in record.message]
            assert len(warned) == len(again) > 0
            await until(lambda: _budget(service) == 300)
            # A file that is broken, and one that is gone.
            write(home, "[daemon\n")
            await until(lambda: "cannot be read" in str(follower.now.problems))
            assert "the settings read before are kept" in str(follower.now.problems)
            assert _budget(service) == 300 and service.settings.completion.budget_tokens == 300
            assert not follower.now.changes
            (home / "config.toml").unlink()
            await until(lambda: not follower.now.problems)
            assert service.settings == Settings()
            watching.cancel()

    asyncio.run(main())


def test_a_file_is_followed_without_the_systems_watches(home: Path) -> None:
    """T22: neither the limit of inotify watches nor a network file system matters."""
    path = home / "config.toml"
    path.write_text("[daemon]\nmax_waiting = 5\n")
    seen: list[str] = []

    def changed() -> None:
        seen.append(path.read_text() if path.exists() else "")

    async def main() -> None:
        async with asyncio.timeout(60):
            task = asyncio.create_task(settings_changes.watch(path, changed, poll_s=0.02))
            await asyncio.sleep(0.1)
            assert not seen
            write(home, "[daemon]\nmax_waiting = 7\n")
            await until(lambda: len(seen) == 1)
            path.unlink()
            await until(lambda: len(seen) == 2)
            path.write_text("")
            await until(lambda: len(seen) == 3)
            task.cancel()

    asyncio.run(main())
    assert seen == ["[daemon]\nmax_waiting = 7\n", "", ""]


def test_a_model_that_is_served_already_does_not_wait(home: Path) -> None:
    """`underkeel models use` changes the model first, and the file after that."""

    def plan(name: str) -> Loadable:
        spec = LoadSpec(path=f"/{name}.gguf", n_ctx=1024)
        rungs = (Rung("plan", "", spec, {"CPU": 1}), Rung("unload", "", None, {}))
        return Loadable(rungs, model=ModelSettings(name=name))

    async def main() -> None:
        chosen, _ = settings.load()
        first = plan(chosen.model.name)
        async with asyncio.timeout(60), serving(planner=lambda: first, settings=chosen) as daemon:
            follower = Follower(daemon.service, settings.load)
            write(home, '[model]\nname = "b"\n')
            assert [change.key for change in follower.reload().pending] == ["model.name"]
            await daemon.service.supervisor.exchange(plan("b"))
            told_now = (await daemon.client.status()).settings
            assert told_now is not None and not told_now.pending
            await daemon.service.supervisor.exchange(plan("c"))
            write(home, '[model]\nname = "c"\n')
            found = follower.reload()
            assert advice(found.changes) == ['model.name: "b" -> "c", took effect']
            assert not found.pending
            # A load that has yet to come takes the settings of then.
            write(home, '[model]\nname = "c"\nn_ctx = 2048\n')
            assert [change.key for change in follower.reload().pending] == ["model.n_ctx"]

    asyncio.run(main())


def _budget(service: object) -> int:
    budget = service.budgets.of(Priority.INTERACTIVE)  # type: ignore[attr-defined]
    return budget.tokens if budget else 0


def test_over_the_socket_and_by_a_signal(home: Path) -> None:
    from daemons import Memory, fake_model
    from fake_engine import FakeEngine

    from assistant.client.client import DaemonClient
    from assistant.daemon.process import instance, server
    from assistant.daemon.service import Service

    taken: list[str] = []

    async def main() -> None:
        with instance.claim() as claimed:
            service = Service(FakeEngine(), fake_model, Settings(), Memory())
            follower = Follower(
                service, settings.load, take_model=lambda new: taken.append(new.model.name)
            )
            task = asyncio.create_task(server.serve(service, claimed, follower=follower))
            async with asyncio.timeout(60), DaemonClient(autostart=False) as client:
                await client.wait_ready()
                write(home, '[model]\nname = "other"\n')
                found = await client.reload()
                assert taken[-1] == "other"
                lines = "\n".join(report(found))
                assert "model.name" in lines and 'underkeel models use "other"' in lines
                again = await client.reload()
                assert "changed earlier, and waiting" in "\n".join(report(again))
                write(home, "[daemon]\nmax_waiting = 5\n")
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda: service.admission.most == 5)
                await client.stop()
            await task

    asyncio.run(main())


def test_what_the_command_line_gave_stays(home: Path) -> None:
    """`underkeel serve --ctx` reads the file through its own options."""

    def read(*, last: Settings | None = None) -> tuple[Settings, list[SettingsError]]:
        found, problems = settings.load(last=last)
        return replace(found, model=replace(found.model, n_ctx=512)), problems

    async def main() -> None:
        async with asyncio.timeout(30), serving(settings=read()[0]) as daemon:
            follower = Follower(daemon.service, read)
            write(home, "[model]\nn_ctx = 4096\nmlock = true\n")
            follower.reload()
            assert [change.key for change in follower.now.changes] == ["model.mlock"]

    asyncio.run(main())


@pytest.mark.parametrize("section", [DaemonSettings, CompletionSettings])
def test_the_service_takes_over_what_counts_now(section: type, home: Path) -> None:
    """Whatever is said to count now reaches the part that uses it."""

    async def main() -> None:
        async with asyncio.timeout(30), serving() as daemon:
            new = Settings(
                daemon=DaemonSettings(
                    max_waiting=3,
                    request_limit_s=1.5,
                    max_body_bytes=500,
                    release_after_s=9.0,
                    rung="trim",
                ),
                completion=CompletionSettings(budget_tokens=99, max_tokens=7),
            )
            daemon.service.follow(new)
            assert daemon.service.admission.most == 3
            assert daemon.service.intake.most_bytes == 2000
            assert (await daemon.http.post("/tokenize", content=b"x" * 501)).status_code == 413
            assert daemon.service.governor._release_after_s == 9.0
            assert daemon.service.governor._rules.pinned == "trim"
            await until(lambda: _budget(daemon.service) == 99)

    asyncio.run(main())
