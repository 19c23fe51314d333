"""The starter mixture: its shape, its bytes, and that it computes what the dense model computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import compare_models
import pytest

from assistant.errors import GGUFError, ModelError
from assistant.memory.gguf.header import read_header
from assistant.memory.model.profile import take_inventory
from assistant.models.catalogue import Upcycle, find
from assistant.models.fetch import sha256_of
from assistant.models.gguf_file import NewTensor, Upcycler, raw_values, string, uint32, write

# Fixed: the share of equal tokens depends on the text.
SAMPLE = Path(__file__).with_name("upcycle_sample.txt")
RECIPE = find("starter-moe").upcycle
assert RECIPE


def tiny(path: Path, layers: int = 2, architecture: str = "qwen2") -> Path:
    """A dense model of 2 heads of 4 dimensions, embedding 8, feed-forward 16, all F32."""
    from assistant.memory.gguf.header import BY_NUMBER

    f32 = BY_NUMBER[0]
    values = {
        "general.architecture": string(architecture),
        f"{architecture}.embedding_length": uint32(8),
        f"{architecture}.attention.head_count": uint32(2),
        f"{architecture}.attention.head_count_kv": uint32(1),
        f"{architecture}.block_count": uint32(layers),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (8, 10)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_q.weight": (8, 8),
            f"blk.{layer}.attn_q.bias": (8,),
            f"blk.{layer}.attn_k.weight": (8, 4),
            f"blk.{layer}.attn_v.weight": (8, 4),
            f"blk.{layer}.ffn_norm.weight": (8,),
            f"blk.{layer}.ffn_gate.weight": (8, 16),
            f"blk.{layer}.ffn_up.weight": (8, 16),
            f"blk.{layer}.ffn_down.weight": (16, 8),
        }
    tensors = []
    for name, shape in shapes.items():
        size = f32.size_bytes(shape)
        row = 32 if len(shape) > 1 else 4
        content = b"".join(bytes([at % 256]) * row for at in range(size // row))
        tensors.append(NewTensor(name, shape, f32, [content]))
    with path.open("wb") as file:
        for _ in write(file, values, tensors, 32):
            pass
    return path


def made(source: Path, target: Path, experts: int = 3, used: int = 2, seed: int = 7) -> str:
    recipe = Upcycle(source="tiny", name="Tiny", experts=experts, used=used, seed=seed)
    seen: list[int] = []
    upcycler = Upcycler(source, recipe)
    sha256 = upcycler.write(target, seen.append)
    assert sum(seen) == upcycler.size_bytes == target.stat().st_size
    return sha256


def data(path: Path, name: str) -> bytes:
    header = read_header(path)
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    start = header.data_offset + tensor.offset
    return path.read_bytes()[start : start + tensor.size_bytes]


def test_experts_are_copies_and_the_router_has_a_row_for_each(tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.gguf")
    target = tmp_path / "moe.gguf"
    sha256 = made(source, target)
    assert sha256 == sha256_of(target)
    header = read_header(target)
    assert header.architecture == "llama"
    assert header.name == "Tiny"
    assert header.integer("expert_count") == 3
    assert header.integer("expert_used_count") == 2
    assert header.integer("block_count") == 2
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert shapes["blk.1.ffn_gate_inp.weight"] == (8, 3)
    for part, shape in (("gate", (8, 16, 3)), ("up", (8, 16, 3)), ("down", (16, 8, 3))):
        assert shapes[f"blk.0.ffn_{part}_exps.weight"] == shape
        copied = data(target, f"blk.0.ffn_{part}_exps.weight")
        assert copied == data(source, f"blk.0.ffn_{part}.weight") * 3
    assert data(target, "token_embd.weight") == data(source, "token_embd.weight")
    assert data(target, "blk.1.attn_v.weight") == data(source, "blk.1.attn_v.weight")


def test_rows_of_query_and_key_are_paired_for_the_other_rotary_embedding(tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.gguf")
    target = tmp_path / "moe.gguf"
    made(source, target)
    assert data(source, "blk.0.attn_q.weight")[::32] == bytes(range(8))
    assert data(target, "blk.0.attn_q.weight")[::32] == bytes([0, 2, 1, 3, 4, 6, 5, 7])
    assert data(target, "blk.0.attn_q.bias")[::4] == bytes([0, 2, 1, 3, 4, 6, 5, 7])
    assert data(target, "blk.0.attn_k.weight")[::32] == bytes([0, 2, 1, 3])


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.gguf")
    first = made(source, tmp_path / "a.gguf")
    assert made(source, tmp_path / "b.gguf") == first
    assert made(source, tmp_path / "c.gguf", seed=8) != first
    # Pinned: another platform or Python must not change it, or the catalogue's hash is wrong.
    assert first == "75551acecaa83ed281865673173e19779c56cc5678d9136663d236ed33c9f8c7"


@pytest.mark.parametrize(
    ("architecture", "experts", "used", "says"),
    [("llama", 4, 1, "architecture"), ("qwen2", 2, 3, "3 of 2"), ("qwen2", 2, 0, "0 of 2")],
)
def test_what_cannot_be_upcycled_is_reported(
    tmp_path: Path, architecture: str, experts: int, used: int, says: str
) -> None:
    source = tiny(tmp_path / "tiny.gguf", architecture=architecture)
    with pytest.raises(ModelError, match=says):
        made(source, tmp_path / "moe.gguf", experts, used)


def test_a_model_without_feed_forward_blocks_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no feed-forward"):
        made(tiny(tmp_path / "tiny.gguf", layers=0), tmp_path / "moe.gguf")


def test_a_truncated_source_is_reported(tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.gguf")
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(GGUFError, match="cut short"):
        made(source, tmp_path / "moe.gguf")


def test_a_source_that_shrinks_meanwhile_is_reported(tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.gguf")
    upcycler = Upcycler(source, Upcycle(source="tiny", name="T", experts=2, used=1, seed=0))
    source.write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="changed while it was read"):
        upcycler.write(tmp_path / "moe.gguf", lambda _: None)


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ModelError, match="full"):
        made(tiny(tmp_path / "tiny.gguf"), full)


def test_the_starter_mixture_is_the_catalogues(moe_model: Path) -> None:
    model = find("starter-moe")
    assert moe_model.stat().st_size == model.size_bytes
    inventory = take_inventory(read_header(moe_model))
    assert inventory.moe
    # The file holds the embedding twice, once as the output: Qwen2.5-Coder 0.5B ties the two.
    twice = inventory.input[0].n_elements
    assert inventory.total.parameters - twice == pytest.approx(1.435e9, rel=0.002)
    assert inventory.active.parameters - twice == pytest.approx(0.494e9, rel=0.002)


def test_the_starter_mixture_keeps_the_source_keys(dense_model: Path, moe_model: Path) -> None:
    ours, source = raw_values(moe_model), raw_values(dense_model)
    for key in source:
        if key.startswith("tokenizer."):
            assert ours[key] == source[key]
    assert ours["llama.rope.freq_base"] == source["qwen2.rope.freq_base"]


@pytest.mark.model
def test_the_mixture_computes_what_the_dense_model_computes(
    dense_model: Path, moe_model: Path
) -> None:
    command = [sys.executable, compare_models.__file__, dense_model, moe_model, SAMPLE, "200"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same_arg_max"] >= 0.97
    assert found["mean_kl"] < 0.005
