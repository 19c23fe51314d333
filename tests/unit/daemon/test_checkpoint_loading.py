"""Checkpoints are planned: which bits, which module where, a layer's experts never apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import CONFIG, EXPERTS, EXPERTS_BYTES, LAYERS, write_checkpoint

from assistant.daemon.loading import LocalPlanning, choose, load_spec, local_engine
from assistant.engine.local import LlamaEngine
from assistant.engine.transformers import TransformersEngine
from assistant.errors import LoadError, ModelError, PlanError
from assistant.memory.devices import Device, DeviceKind
from assistant.memory.planning import Machine
from assistant.memory.planning.checkpoint import read_checkpoint
from assistant.memory.planning.checkpoint_plan import Scheme, checkpoint_bytes
from assistant.memory.sampler import Probes
from assistant.settings import ModelSettings, Settings

GIB = 1 << 30
SETTINGS = ModelSettings(n_ctx=256)


def machine(host: int = 8 * GIB, *gpus: int) -> Machine:
    devices = [Device(f"CUDA{i}", DeviceKind.GPU, size, size) for i, size in enumerate(gpus)]
    return Machine(Device("CPU", DeviceKind.CPU, host, host), tuple(devices))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "toy")
    return tmp_path / "toy"


def test_without_a_gpu_it_is_taken_as_it_is_and_maps_nothing(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    scheme, mapped = choose(checkpoint, machine(), SETTINGS)
    spec = load_spec(checkpoint, scheme, mapped, SETTINGS)
    assert (scheme, spec.scheme, spec.overrides) == (Scheme.BITS_16, "", ())
    assert mapped.bytes_by_device["cpu"] >= checkpoint_bytes(checkpoint, scheme)


def test_four_bits_where_sixteen_leave_experts_on_the_host(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    sixteen = checkpoint_bytes(checkpoint, Scheme.BITS_16)
    gpu = GIB + sixteen - (sixteen >> 3)  # the plan keeps a GiB for torch itself
    scheme, mapped = choose(checkpoint, machine(8 * GIB, gpu), SETTINGS)
    spec = load_spec(checkpoint, scheme, mapped, SETTINGS)
    assert (scheme, spec.scheme) == (Scheme.NF4_DOUBLE, "nf4")
    assert {entry.device for entry in spec.overrides} == {"0"}


def test_experts_of_a_layer_are_one_entry_of_the_map(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    four = checkpoint_bytes(checkpoint, Scheme.NF4_DOUBLE)
    wanted = ModelSettings(n_ctx=256, weights="nf4")
    scheme, mapped = choose(
        checkpoint, machine(8 * GIB, GIB + EXPERTS_BYTES + four * 3 // 4), wanted
    )
    spec = load_spec(checkpoint, scheme, mapped, wanted)
    apart = [entry for entry in spec.overrides if "experts" in entry.pattern]
    assert 0 < len(apart) < LAYERS * EXPERTS
    assert all(entry.pattern.endswith("experts") and entry.device == "cpu" for entry in apart)
    assert len({entry.pattern for entry in apart}) == len(apart)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_what_is_quantised_already_is_left_as_it_is(tmp_path: Path, method: str) -> None:
    write_checkpoint(tmp_path / "toy", {**CONFIG, "quantization_config": {"quant_method": method}})
    checkpoint = read_checkpoint(tmp_path / "toy")
    wanted = ModelSettings(n_ctx=256, weights="nf4")
    chosen, mapped = choose(checkpoint, machine(8 * GIB, 4 * GIB), wanted)
    assert chosen is Scheme.STORED
    assert load_spec(checkpoint, chosen, mapped, wanted).scheme == ""


def test_what_does_not_fit_says_what_is_missing(folder: Path) -> None:
    with pytest.raises(PlanError) as caught:
        choose(read_checkpoint(folder), machine(1 << 20), SETTINGS)
    assert caught.value.shortfall_bytes > 0


def test_the_limit_of_a_control_group_is_named(folder: Path) -> None:
    """S23: of a checkpoint too."""
    limited = Device("CPU", DeviceKind.CPU, 1 << 20, 1 << 20, limited_by="/user.slice/box")
    with pytest.raises(PlanError) as caught:
        choose(read_checkpoint(folder), Machine(limited), SETTINGS)
    assert "by the control group /user.slice/box" in caught.value.message
    assert "memory limit of the container" in caught.value.advice


@pytest.mark.parametrize(
    ("config", "n_ctx", "caveats"),
    [
        ({"max_position_embeddings": 128}, 128, 1),
        ({"text_config": {"max_position_embeddings": 128}}, 128, 1),
        ({"n_positions": 128}, 128, 1),
        ({"max_position_embeddings": 256}, 256, 0),
        ({}, 256, 0),
    ],
)
def test_a_checkpoints_context_is_what_it_was_trained_for(
    tmp_path: Path, config: dict[str, object], n_ctx: int, caveats: int
) -> None:
    """S10: reduced and said, as of a GGUF."""
    rest = {key: value for key, value in CONFIG.items() if "position" not in key}
    folder = write_checkpoint(tmp_path / "toy", rest | config)
    probes = Probes()
    try:
        found = LocalPlanning(ModelSettings(name=str(folder), n_ctx=256), probes)()
    finally:
        probes.close()
    assert [spec.n_ctx for spec in found.specs] == [n_ctx]
    assert len(found.caveats) == caveats
    assert all("128 tokens, not the 256" in caveat for caveat in found.caveats)


def test_a_folder_gets_the_engine_for_checkpoints(folder: Path) -> None:
    settings = Settings()
    assert isinstance(local_engine(settings, str(folder)), TransformersEngine)
    assert not isinstance(local_engine(settings, "starter-moe"), TransformersEngine)
    assert isinstance(local_engine(settings, "starter-moe"), LlamaEngine)


def test_a_running_daemon_does_not_change_between_the_two_kinds(folder: Path) -> None:
    look: Any = lambda: None  # noqa: E731
    planning = LocalPlanning(ModelSettings(name="starter-moe"), look)
    with pytest.raises(ModelError, match="different engines"):
        planning.like(ModelSettings(name=str(folder)), dict)


def test_what_is_not_installed_is_reported_before_a_process_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    engine = TransformersEngine()
    checkpoint = read_checkpoint(folder)
    spec = load_spec(checkpoint, *choose(checkpoint, machine(), SETTINGS), SETTINGS)
    with pytest.raises(LoadError, match="torch") as caught:
        asyncio.run(engine.load(spec))
    assert "underkeel[transformers]" in caught.value.advice
    assert engine.pid is None
