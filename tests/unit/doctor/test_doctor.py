"""What the doctor reports on sound machines and on others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from msgspec.structs import replace
from tiny_gguf import tiny_gguf
from typer.testing import CliRunner

from assistant import __version__, doctor, paths
from assistant.cli import build_app
from assistant.doctor import Level, checks, examine
from assistant.doctor.checks import Finding
from assistant.install.machine import Backend, Gpu, Machine, Vendor
from assistant.llama import BackendDevice, DeviceKind, Processors
from assistant.memory.devices import GpuMemory, HostMemory
from assistant.memory.sampler import Probes
from assistant.service import Manager, ServiceNow
from assistant.settings import ExplainSettings, ModelSettings, Settings
from assistant.wire import ServiceState, Status

GIB = 1 << 30
CPU = BackendDevice(
    name="CPU", description="a processor", kind=DeviceKind.CPU, total_bytes=1, free_bytes=1
)
CUDA = BackendDevice(
    name="CUDA0",
    description="a GPU",
    kind=DeviceKind.GPU,
    total_bytes=24 * GIB,
    free_bytes=20 * GIB,
    bus_id="0000:01:00.0",
)


def gpu(driver: str = "nvml", bus_id: str = "0000:01:00.0") -> GpuMemory:
    return GpuMemory("a GPU", bus_id, driver, 24 * GIB, 20 * GIB)


def levels(found: list[Finding]) -> list[Level]:
    return [finding.level for finding in found]


def test_old_or_narrow_pythons() -> None:
    assert checks.python().level is Level.OK
    assert checks.python((3, 10, 9)).level is Level.FAIL
    assert checks.python(bits=32).level is Level.FAIL


def test_packages_that_are_missing_are_named() -> None:
    assert checks.packages(["httpx>=0.28", "vllm; extra == 'team'"]).level is Level.OK
    found = checks.packages(["httpx>=0.28", "no-such-package-at-all>=1"])
    assert found.level is Level.FAIL and "no-such-package-at-all" in found.message


def test_more_threads_than_can_run_are_found_out() -> None:
    machine = Processors(cores=8, logical=16, allowed=16, quota=2.0)
    fitting = checks.computing(0, machine)
    assert fitting.level is Level.OK and "2 threads" in fitting.message
    assert checks.computing(2, machine).level is Level.OK
    found = checks.computing(8, machine)
    assert found.level is Level.FAIL and "model.n_threads" in found.advice


LINUX = Machine(system="linux", compiler="gcc", installed=(Backend.CPU,))


def with_gpus(*gpus: Gpu, **more: Any) -> Machine:
    return replace(LINUX, gpus=gpus, **more)


def test_a_gpu_that_the_build_can_use_and_one_that_it_cannot() -> None:
    assert levels(checks.build([CPU, CUDA], [gpu()], "", LINUX)) == [Level.OK, Level.OK]
    _, unusable = checks.build([CPU], [gpu()], "", LINUX)
    assert unusable.level is Level.FAIL and unusable.advice == "Run: underkeel setup"
    _, amd = checks.build([CPU], [gpu("amdgpu")], "", LINUX)
    assert amd.level is Level.FAIL and amd.advice == "Run: underkeel setup"
    other = checks.build([CPU, CUDA], [gpu(), gpu(bus_id="0000:02:00.0")], "", LINUX)
    assert levels(other) == [Level.OK, Level.OK, Level.FAIL]


def test_a_build_for_the_cpu_beside_any_kind_of_gpu_fails() -> None:
    for vendor in (Vendor.NVIDIA, Vendor.AMD, Vendor.INTEL):
        _, found = checks.build([CPU], [], "", with_gpus(Gpu(vendor=vendor)))
        assert found.level is Level.FAIL and found.advice == "Run: underkeel setup"
    integrated = with_gpus(Gpu(vendor=Vendor.INTEL, integrated=True))
    assert levels(checks.build([CPU], [], "", integrated)) == [Level.OK]
    # The same fault is reported once.
    nvidia = with_gpus(Gpu(vendor=Vendor.NVIDIA))
    assert levels(checks.build([CPU], [gpu()], "", nvidia)) == [Level.OK, Level.FAIL]


def test_a_driver_that_is_missing_matters_only_where_there_is_a_gpu() -> None:
    assert levels(checks.build([CPU], [], "no library", LINUX)) == [Level.OK, Level.OK]
    nvidia = with_gpus(Gpu(vendor=Vendor.NVIDIA, driver=False))
    _, found = checks.build([CPU], [], "no library", nvidia)
    assert found.level is Level.FAIL and "no library" in found.message
    _, passed = checks.build([CPU], [], "no library", replace(nvidia, container=True))
    assert passed.level is Level.WARN and "--gpus all" in passed.message


def test_memory() -> None:
    assert levels(checks.memory(HostMemory(16 * GIB, 8 * GIB), 0)) == [Level.OK]
    assert levels(checks.memory(HostMemory(16 * GIB, GIB // 2), 0)) == [Level.FAIL]
    tight = checks.memory(HostMemory(16 * GIB, 2 * GIB, "/a/group"), 3 * GIB)
    assert levels(tight) == [Level.OK, Level.WARN, Level.WARN]
    assert "mlock" in tight[-1].advice
    full = checks.memory(HostMemory(2 * GIB, GIB // 2, "/a/group"), 0)
    assert levels(full) == [Level.FAIL, Level.WARN] and "/a/group" in full[1].message
    assert "memory limit of the container" in full[0].advice, "S23: closing programs does not help"


def test_a_model_that_is_not_here_wrong_or_whole(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERKEEL_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    missing = Settings(model=ModelSettings(name="starter-moe"))
    (found,) = doctor.model(missing, deep=False)
    assert found.level is Level.FAIL and "underkeel pull starter-moe" in found.advice
    path = tmp_path / "models" / "mine.gguf"
    path.write_bytes(tiny_gguf(2))
    mine = Settings(model=ModelSettings(name="mine"))
    assert levels(doctor.model(mine, deep=True)) == [Level.OK]
    path.write_bytes(b"GGUF nonsense")
    assert levels(doctor.model(mine, deep=True)) == [Level.FAIL]


def test_the_caveats_of_a_plan_are_warnings(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S10: a context reduced to what the model was trained for; before a load and after it."""
    path = tiny_models.sliding_window(tmp_path / "m.gguf")
    chosen = Settings(model=ModelSettings(name=str(path)))
    probes = Probes()
    try:
        fits, caveat = doctor.plan(chosen, probes, None)
        smaller = replace(chosen, model=replace(chosen.model, n_ctx=512))
        assert levels(doctor.plan(smaller, probes, None)) == [Level.OK]
    finally:
        probes.close()
    assert (fits.level, caveat.level, caveat.check) == (Level.OK, Level.WARN, "plan")
    assert "1024" in caveat.message.replace(",", "")

    second = ExplainSettings(name=str(path), n_ctx=4096)
    probes = Probes()
    try:
        assert doctor.second_plan(chosen, probes, None) == []
        (reduced,) = doctor.second_plan(replace(smaller, explain=second), probes, None)
    finally:
        probes.close()
    assert reduced.level is Level.WARN and "explanations: the context is 1,024" in reduced.message

    async def status() -> Status:
        caveats = ("the context was reduced",)
        return Status(
            version=__version__, pid=1, uptime_s=1.0, state=ServiceState.READY, caveats=caveats
        )

    monkeypatch.setattr(doctor, "running_pid", lambda: 1)
    monkeypatch.setattr(doctor, "_status", status)
    found, now = doctor.daemon()
    assert [one.message for one in found if one.level is Level.WARN] == ["the context was reduced"]
    assert levels(doctor.plan(chosen, Probes(), now)) == [Level.OK], "reported once"


def test_the_socket_and_what_lies_in_its_place(home: Path) -> None:
    assert levels(doctor.socket()) == [Level.OK]
    paths.socket_path().write_text("x")
    assert levels(doctor.socket()) == [Level.FAIL]
    paths.runtime_dir().chmod(0o755)
    (found,) = doctor.socket()
    assert found.level is Level.FAIL and "chmod 700" in found.advice


def test_a_service_whose_socket_nobody_holds() -> None:
    well = ServiceNow(Manager.SYSTEMD, installed=True, listening=True)
    assert levels(doctor.service(well)) == [Level.OK]
    dead = ServiceNow(Manager.SYSTEMD, installed=True, detail="failed")
    assert levels(doctor.service(dead)) == [Level.FAIL]


def test_errors_in_the_log(home: Path) -> None:
    assert levels(doctor.log()) == [Level.OK]
    paths.state_dir().mkdir()
    paths.log_file().write_text("2026 INFO a serving\n")
    assert levels(doctor.log()) == [Level.OK]
    with paths.log_file().open("a") as file:
        file.write("2026 ERROR a the worker crashed\n" + '{"level":"error"}\n')
    (found,) = doctor.log()
    assert found.level is Level.WARN and "2 recent errors" in found.message


def test_editors_with_and_without_our_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert levels(doctor.editors(tmp_path)) == [Level.WARN]
    for name in ("nvim", "code"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert levels(doctor.editors(tmp_path)) == [Level.WARN, Level.WARN]
    plugin = tmp_path / ".local/share/nvim/lazy/underkeel/lua/underkeel/init.lua"
    plugin.parent.mkdir(parents=True)
    plugin.touch()
    (tmp_path / ".vscode/extensions/underkeel.underkeel-0.1.0").mkdir(parents=True)
    assert levels(doctor.editors(tmp_path)) == [Level.OK, Level.OK]


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERKEEL_MODELS", str(home / "no models"))

    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(checks, "python", broken)
    found = list(examine())
    assert "ZeroDivisionError" in found[0].message and found[0].level is Level.FAIL
    assert {"memory", "disk", "settings", "socket", "model", "log"} <= {one.check for one in found}


def test_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERKEEL_MODELS", str(home / "no models"))
    (home / "config.toml").write_text("[model]\nnonsense = 1\n")
    ran = CliRunner().invoke(build_app("doctor"), ["doctor", "--json"])
    found = json.loads(ran.stdout)
    wrong = [one for one in found if one["level"] == "fail"]
    assert ran.exit_code == 1
    assert any(one["check"] == "settings" and "nonsense" in one["message"] for one in wrong)
    assert all(set(one) == {"check", "level", "message", "advice"} for one in found)
    spoken = CliRunner().invoke(build_app("doctor"), ["doctor"]).stdout
    assert " failed, " in spoken and f"Underkeel {__version__}" in spoken
    assert os.fspath(home) in spoken
