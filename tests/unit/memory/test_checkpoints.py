"""Safetensors checkpoints: sizes by scheme, device maps without split experts, vLLM's line."""

from __future__ import annotations

import random
from math import ceil
from pathlib import Path

import checkpoint_files
import pytest

from assistant.errors import ModelError
from assistant.llama import DeviceKind
from assistant.memory.devices import Device
from assistant.memory.gguf import BytesSource
from assistant.memory.planning import HOST_MEMORY, Machine
from assistant.memory.planning.checkpoint import (
    Checkpoint,
    CheckpointTensor,
    is_checkpoint,
    parse_safetensors,
    read_checkpoint,
)
from assistant.memory.planning.checkpoint_plan import (
    Scheme,
    active_parameters,
    checkpoint_bytes,
    map_devices,
    schemes_for,
    tensor_bytes,
    token_bytes,
    vllm_command,
)

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = checkpoint_files.write_checkpoint(tmp_path / "toy")
    assert is_checkpoint(folder)
    return read_checkpoint(folder)


def machine(host: int, *gpus: int) -> Machine:
    return Machine(
        Device(HOST_MEMORY, DeviceKind.CPU, host, host),
        tuple(Device(f"CUDA{i}", DeviceKind.GPU, size, size) for i, size in enumerate(gpus)),
    )


def test_parameters(checkpoint: Checkpoint) -> None:
    hidden, inner, experts = 256, 128, 8
    layer = hidden + 2 * hidden * hidden + experts * hidden + inner * hidden
    routed = experts * 2 * inner * hidden
    outside = 2 * 1000 * hidden + hidden
    assert checkpoint.parameters == 4 * (layer + routed) + outside
    assert active_parameters(checkpoint) == 4 * (layer + routed // 4) + outside
    assert token_bytes(checkpoint) == 2 * 2 * 4 * 2 * 64


def matrix(rows: int, columns: int) -> CheckpointTensor:
    return CheckpointTensor("model.layers.0.mlp.up_proj.weight", "BF16", (rows, columns))


def test_bytes_of_a_matrix_by_scheme() -> None:
    rows, columns = 512, 1024
    count = rows * columns
    sizes = {scheme: tensor_bytes(matrix(rows, columns), scheme) for scheme in Scheme}
    assert sizes[Scheme.BITS_16] == 2 * count
    assert sizes[Scheme.INT8] == count + 4 * rows
    # bitsandbytes: a float32 scale for 64 weights
    assert sizes[Scheme.NF4] == count // 2 + 4 * count // 64
    # double quantisation: 8-bit scales, and a float32 for 256 of them
    assert sizes[Scheme.NF4_DOUBLE] == count // 2 + count // 64 + 4 * ceil(count / 64 / 256)
    groups = rows * columns // 128
    assert sizes[Scheme.AWQ] == count // 2 + 2 * groups + groups // 2
    assert sizes[Scheme.GPTQ] == sizes[Scheme.AWQ] + 4 * columns
    bits = {scheme: 8 * size / count for scheme, size in sizes.items()}
    assert bits[Scheme.NF4] == 4.5
    assert bits[Scheme.NF4_DOUBLE] == pytest.approx(4.127, abs=0.001)
    assert bits[Scheme.AWQ] == pytest.approx(4.156, abs=0.001)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.gate.weight",
    ],
)
def test_what_stays_at_16_bits(name: str) -> None:
    tensor = CheckpointTensor(name, "BF16", (256, 256))
    assert tensor_bytes(tensor, Scheme.NF4) == 2 * 256 * 256


def covered(checkpoint: Checkpoint, modules: dict[str, int | str]) -> dict[str, int | str]:
    """The device of each tensor: by the longest module that holds it, as accelerate does it."""
    found = {}
    for tensor in checkpoint.tensors:
        holders = [m for m in modules if tensor.name == m or tensor.name.startswith(m + ".")]
        assert holders, f"{tensor.name} has no device"
        found[tensor.name] = modules[max(holders, key=len)]
    return found


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("gpu", [0, 1, 2, 3, 4, 5, 8, 64])
def test_a_device_map_covers_all_and_splits_no_experts(
    checkpoint: Checkpoint, scheme: Scheme, gpu: int
) -> None:
    mapped = map_devices(checkpoint, machine(16 * GIB, GIB + gpu * MIB), scheme, n_ctx=0)
    devices = covered(checkpoint, dict(mapped.device_map))
    assert mapped.fits
    taken: dict[str, int] = {}
    for layer in range(checkpoint.n_layer):
        group = {devices[t.name] for t in checkpoint.tensors if t.layer == layer and t.routed}
        assert len(group) == 1
    for tensor in checkpoint.tensors:
        place = str(devices[tensor.name])
        taken[place] = taken.get(place, 0) + tensor_bytes(tensor, scheme)
    assert taken.get("0", 0) <= gpu * MIB
    on_gpus = sum(devices[f"model.layers.{i}.mlp.experts.0.up_proj.weight"] == 0 for i in range(4))
    assert mapped.expert_layers_on_gpus == on_gpus


def test_more_memory_brings_more_onto_the_gpu(checkpoint: Checkpoint) -> None:
    found = [
        map_devices(checkpoint, machine(GIB, GIB + size * MIB), Scheme.BITS_16, n_ctx=0)
        for size in range(12)
    ]
    counts = [mapped.expert_layers_on_gpus for mapped in found]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 4)
    split = next(mapped for mapped in found if 0 < mapped.expert_layers_on_gpus < 4)
    assert "cpu" in split.device_map.values() and 0 in split.device_map.values()
    assert any(module.endswith("mlp.experts") for module in split.device_map)


def test_what_is_quantised_already_counts_as_it_is_stored(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    """Words hold eight weights each; what stands beside them are no parameters."""
    packed = checkpoint_files.gptq_tensors()
    config = {**checkpoint_files.CONFIG, "quantization_config": checkpoint_files.GPTQ}
    folder = checkpoint_files.write_checkpoint(tmp_path / "packed", config, packed)
    found = read_checkpoint(folder)
    assert found.parameters == checkpoint.parameters
    assert active_parameters(found) == active_parameters(checkpoint)
    assert schemes_for(found) == (Scheme.STORED,) and Scheme.STORED not in schemes_for(checkpoint)
    data = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    headers = sum(
        8 + int.from_bytes(path.read_bytes()[:8], "little") for path in folder.glob("*.safetensors")
    )
    assert checkpoint_bytes(found, Scheme.STORED) == data - headers
    # What a 16-bit checkpoint is promised to take as GPTQ is what one takes.
    assert checkpoint_bytes(checkpoint, Scheme.GPTQ) == data - headers
    none = map_devices(found, machine(GIB), Scheme.STORED, n_ctx=0)
    assert none.bytes_by_device == {"cpu": data - headers}
    assert "--quantization" not in vllm_command(found, machine(GIB, 24 * GIB))


@pytest.mark.parametrize(
    ("dtype", "size"), [("F8_E4M3", 10), ("BF16", 20), ("I32", 40), ("BOOL", 10), ("F4", 5)]
)
def test_stored_bytes_by_type(dtype: str, size: int) -> None:
    assert CheckpointTensor("x", dtype, (10,)).stored_bytes == size


def test_beside_a_gpu_the_host_holds_16_bits(checkpoint: Checkpoint) -> None:
    """bitsandbytes quantises nothing on the host where there is a GPU, and Transformers brings
    a layer's experts to the GPU to compute them."""
    none = map_devices(checkpoint, machine(GIB), Scheme.NF4_DOUBLE, n_ctx=0)
    assert none.bytes_by_device["cpu"] == checkpoint_bytes(checkpoint, Scheme.NF4_DOUBLE)
    # Room for all but two layers' experts at 4 bits, and for one layer's at 16.
    one = checkpoint_bytes(checkpoint, Scheme.NF4_DOUBLE) - 2 * _experts(checkpoint, nf4=True)
    gpu = GIB + one + checkpoint_files.EXPERTS_BYTES
    mapped = map_devices(checkpoint, machine(GIB, gpu), Scheme.NF4_DOUBLE, n_ctx=0)
    assert mapped.expert_layers_on_gpus == 2
    assert mapped.bytes_by_device["cpu"] == 2 * _experts(checkpoint, nf4=False)
    short = map_devices(checkpoint, machine(GIB, GIB + one), Scheme.NF4_DOUBLE, n_ctx=0)
    assert short.expert_layers_on_gpus < 2


def _experts(checkpoint: Checkpoint, *, nf4: bool) -> int:
    scheme = Scheme.NF4_DOUBLE if nf4 else Scheme.BITS_16
    return sum(tensor_bytes(t, scheme) for t in checkpoint.tensors if t.layer == 0 and t.routed)


def large(n_layer: int = 48) -> Checkpoint:
    """As large as a 30 B model, without a file."""
    tensors = [CheckpointTensor("model.embed_tokens.weight", "BF16", (150_000, 2048))]
    for index in range(n_layer):
        stem = f"model.layers.{index}."
        tensors.append(CheckpointTensor(stem + "self_attn.q_proj.weight", "BF16", (8192, 2048)))
        tensors.append(CheckpointTensor(stem + "mlp.experts.down_proj", "BF16", (128, 2048, 2304)))
    config = {
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_hidden_layers": n_layer,
        "max_position_embeddings": 262_144,
        "hidden_size": 2048,
    }
    return Checkpoint("org/large", config, tuple(tensors))


def test_the_line_for_vllm() -> None:
    model = large()
    assert checkpoint_bytes(model, Scheme.BITS_16) == pytest.approx(60e9, rel=0.05)
    assert vllm_command(model, machine(64 * GIB)) == ""
    one = vllm_command(model, machine(64 * GIB, 80 * GIB))
    assert one.startswith("vllm serve org/large --max-model-len ")
    assert "--quantization" not in one and "--tensor-parallel-size" not in one
    four = vllm_command(model, machine(64 * GIB, *[24 * GIB] * 4))
    assert four.endswith("--tensor-parallel-size 4 --enable-expert-parallel"), four
    copies = vllm_command(model, machine(64 * GIB, *[80 * GIB] * 4))
    assert copies.endswith("--data-parallel-size 4 --enable-expert-parallel"), copies
    pairs = vllm_command(model, machine(64 * GIB, *[48 * GIB] * 4))
    both = "--tensor-parallel-size 2 --data-parallel-size 2 --enable-expert-parallel"
    assert pairs.endswith(both), pairs
    assert "--quantization fp8" in vllm_command(model, machine(64 * GIB, 48 * GIB))
    small = vllm_command(model, machine(64 * GIB, 12 * GIB))
    assert "--cpu-offload-gb" in small
    assert vllm_command(model, machine(8 * GIB, 8 * GIB)) == ""


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path)
    folder = checkpoint_files.write_checkpoint(tmp_path / "toy")
    (folder / "config.json").write_text("[")
    with pytest.raises(ModelError, match="no safetensors checkpoint"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        (1 << 60).to_bytes(8, "little"),
        (4).to_bytes(8, "little") + b"[1, ",
        (2).to_bytes(8, "little") + b"[]",
        (40).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [-1]}}  ',
        (60).to_bytes(8, "little")
        + b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4]}}'.ljust(60),
        (30).to_bytes(8, "little") + b'{"a": ' + b"[" * 24,
    ],
)
def test_bad_safetensors(data: bytes) -> None:
    with pytest.raises(ModelError):
        list(parse_safetensors(BytesSource(data + bytes(100))))


def test_fuzzed_safetensors(tmp_path: Path) -> None:
    folder = checkpoint_files.write_checkpoint(tmp_path / "toy")
    path = next(folder.glob("*.safetensors"))
    good = path.read_bytes()[:9000]
    chance = random.Random(7)
    for _ in range(3000):
        raw = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw) if chance.random() < 0.5 else 40)] = chance.randrange(256)
        try:
            found = list(parse_safetensors(BytesSource(bytes(raw))))
        except ModelError:
            continue
        assert all(tensor.parameters >= 0 for tensor in found)
