"""Which llama.cpp fits which machine. machines.json holds what `underkeel setup --json` reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.install.builder import processes
from assistant.install.choice import choose, cpu_only_beside_gpu
from assistant.install.machine import Backend, Gpu, Machine, Vendor, version_of

MACHINES = json.loads((Path(__file__).parent / "machines.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", MACHINES, ids=[case["name"] for case in MACHINES])
def test_recorded_machines(case: dict[str, Any]) -> None:
    machine = msgspec.convert(case["machine"], Machine, strict=True)
    choice = choose(machine)
    assert choice.backend.value == case["backend"]
    assert list(choice.arguments) == case["arguments"]
    assert choice.installed == case.get("installed", False)
    assert cpu_only_beside_gpu(machine) == case.get("cpu_only_beside_gpu", False)
    messages = " | ".join(obstacle.message for obstacle in choice.obstacles)
    advice = " | ".join(obstacle.advice for obstacle in choice.obstacles)
    assert bool(messages) == bool(case.get("obstacles"))
    assert all(expected in messages for expected in case.get("obstacles", []))
    assert all(expected in advice for expected in case.get("advice", []))
    notes = " | ".join(choice.notes)
    assert bool(notes) == bool(case.get("notes"))
    assert all(expected in notes for expected in case.get("notes", []))
    if "wheel_index" in case:
        assert choice.wheel_index.endswith(case["wheel_index"])
        assert bool(choice.wheel_index) == bool(case["wheel_index"])


def test_there_are_many_kinds_of_machines() -> None:
    assert len(MACHINES) >= 12
    assert {case["backend"] for case in MACHINES} == {backend.value for backend in Backend}


def test_a_request_beats_the_preference() -> None:
    machine = msgspec.convert(MACHINES[1]["machine"], Machine)
    assert choose(machine, Backend.CPU).backend is Backend.CPU
    metal = choose(machine, Backend.METAL)
    assert "macOS only" in metal.obstacles[0].message


gpus = st.builds(
    Gpu,
    vendor=st.sampled_from(Vendor),
    name=st.text(max_size=5),
    architecture=st.sampled_from(["", "3.5", "7.5", "8.6", "12.0", "99.9", "gfx1100", "junk", "9"]),
    driver=st.booleans(),
    integrated=st.booleans(),
)
versions = st.sampled_from(["", "5.7", "11.0", "12.4", "13", "99.1", "junk", "1.2.3.4"])
machines = st.builds(
    Machine,
    system=st.sampled_from(["linux", "darwin", "windows"]),
    processor=st.sampled_from(["x86_64", "arm64", "riscv64"]),
    wsl=st.booleans(),
    container=st.booleans(),
    gpus=st.lists(gpus, max_size=3).map(tuple),
    cuda_driver=versions,
    cuda=versions,
    nvcc=st.sampled_from(["", "/nvcc"]),
    rocm=versions,
    rocm_path=st.sampled_from(["", "/opt/rocm"]),
    glslc=st.booleans(),
    vulkan_headers=st.booleans(),
    spirv_headers=st.booleans(),
    compiler=st.sampled_from(["", "gcc", "clang", "msvc"]),
    compiler_version=versions,
    other_compilers=st.dictionaries(st.sampled_from(["g++-12", "g++-13"]), versions),
    installed=st.lists(st.sampled_from(Backend), max_size=2).map(tuple),
)


@given(machines, st.none() | st.sampled_from(Backend))
def test_every_machine_gets_an_answer(machine: Machine, requested: Backend | None) -> None:
    choice = choose(machine, requested)
    assert choice.reason and all(one.message and one.advice for one in choice.obstacles)
    assert requested is None or choice.backend is requested
    if not machine.compiler:
        assert choice.obstacles
    if cpu_only_beside_gpu(machine):
        assert choose(machine).backend is not Backend.CPU
    # CMake gets one argument for each of ours.
    assert all(argument.startswith("-D") and " " not in argument for argument in choice.arguments)


@given(st.text(max_size=20))
def test_versions_are_read_from_any_text(text: str) -> None:
    assert all(number >= 0 for number in version_of(text))


@pytest.mark.parametrize(
    ("backend", "gib", "cores", "expected"),
    [
        (Backend.CPU, 64, 16, 16),
        (Backend.CPU, 2, 16, 4),
        (Backend.CUDA, 24, 16, 16),
        (Backend.CUDA, 7, 16, 4),
        (Backend.HIP, 7, 8, 3),
        (Backend.CUDA, 0, 4, 1),
    ],
)
def test_no_more_compilers_than_memory_holds(
    backend: Backend, gib: int, cores: int, expected: int
) -> None:
    assert processes(backend, gib << 30, cores) == expected
