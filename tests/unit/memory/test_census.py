"""The census: total against active, class by class, and whatever a header says."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes

from assistant.memory.gguf.header import Header, read_header
from assistant.memory.model.architecture import is_known, is_supported
from assistant.memory.model.known_models import header_of, known_header, known_models
from assistant.memory.model.profile import TensorClass, classify, model_of, take_inventory
from assistant.memory.planning.plan_report import caveats_of

# What the makers say of active parameters, in billions. They count differently (with or without
# embeddings), so a tenth is allowed, and the embedding's rows on top.
ACTIVE = {
    "qwen3-coder-30b-a3b": 3.3,
    "qwen3-coder-next": 3.9,
    "deepseek-v3": 37.0,
    "kimi-k2": 32.0,
    "glm-4.5-air": 13.0,
    "minimax-m2": 10.5,
    "mixtral-8x7b": 12.9,
    "deepseek-coder-v2-lite": 2.6,
    "olmoe-1b-7b": 1.3,
    "hunyuan-a13b": 13.0,
    "dots.llm1": 14.0,
}


@pytest.mark.parametrize(
    "name", [name for name, model in known_models().items() if model.parameters]
)
def test_a_shape_has_as_many_parameters_as_its_makers_say(name: str) -> None:
    inventory = take_inventory(known_header(name))
    wanted = known_models()[name].parameters
    assert inventory.total.parameters / 1e9 == pytest.approx(wanted, rel=0.006, abs=0.06)


# A rounded number is all that their makers say of these.
ROUNDED = {"deepseek-v4-pro": 1600.0, "kimi-k2-thinking": 1000.0}


def test_only_a_rounded_number_is_known_of_the_others() -> None:
    others = {name for name, model in known_models().items() if not model.parameters}
    assert others == set(ROUNDED)
    for name, wanted in ROUNDED.items():
        total = take_inventory(known_header(name)).total.parameters / 1e9
        assert total == pytest.approx(wanted, rel=0.03), name


@pytest.mark.parametrize("quantisation", ["", "Q2_K"])
@pytest.mark.parametrize("name", ["devstral-2-123b", "granite-4.1-30b", "granite-4.1-8b"])
def test_a_plan_says_whose_sizes_are_not_checked(name: str, quantisation: str) -> None:
    """A caveat of exactly the entries whose source begins with "not checked"."""
    unchecked = known_models()[name].source.startswith("not checked")
    caveats = caveats_of(model_of(known_header(name, quantisation)))
    assert any("not from its file or its makers" in line for line in caveats) == unchecked


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name: str) -> None:
    inventory = take_inventory(known_header(name))
    assert inventory.active.parameters / 1e9 == pytest.approx(ACTIVE[name], rel=0.1)


@pytest.mark.parametrize("family", shapes.SHAPES)
def test_classes_add_up(family: str) -> None:
    inventory = take_inventory(shapes.family_header(family))
    loaded = inventory.total.parameters - inventory.skipped.parameters
    assert sum(amount.parameters for amount in inventory.by_class.values()) == loaded
    assert sum(amount.size_bytes for amount in inventory.by_type.values()) == (
        inventory.total.size_bytes - inventory.skipped.size_bytes
    )
    assert TensorClass.OTHER not in inventory.by_class
    shape = shapes.SHAPES[family]
    with_experts = [x.index for x in inventory.layers if x.experts]
    wanted = range(shape.dense_lead, shape.layers + shape.nextn) if shape.experts else range(0)
    assert with_experts == list(wanted)
    for layer in inventory.layers:
        names = {tensor.name.split(".")[2] for tensor in layer.experts}
        assert names - {"ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps"} <= {"ffn_down_exps"}
        assert len(names) in {0, 2, 3}
        assert (layer.count, layer.used) == (
            (shape.experts, shape.experts_used) if layer.experts else (0, 0)
        )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("token_embd.weight", TensorClass.EMBEDDING),
        ("output.weight", TensorClass.OUTPUT),
        ("output_norm.weight", TensorClass.NORM),
        ("blk.0.ffn_gate_exps.weight", TensorClass.ROUTED_EXPERT),
        ("blk.0.ffn_gate_up_exps.weight", TensorClass.ROUTED_EXPERT),
        ("blk.0.ffn_down_exps.bias", TensorClass.ROUTED_EXPERT),
        ("blk.0.ffn_up_exps.scale", TensorClass.ROUTED_EXPERT),
        ("blk.0.ffn_down_chexps.weight", TensorClass.ROUTED_EXPERT),
        ("blk.0.ffn_gate_inp.weight", TensorClass.ROUTER),
        ("blk.0.exp_probs_b.bias", TensorClass.ROUTER),
        ("blk.0.ffn_gate_inp_shexp.weight", TensorClass.SHARED_EXPERT),
        ("blk.0.ffn_down_shexp.weight", TensorClass.SHARED_EXPERT),
        ("blk.0.ffn_down.weight", TensorClass.DENSE_FFN),
        ("blk.0.attn_kv_a_mqa.weight", TensorClass.ATTENTION),
        ("blk.0.attn_q_a_norm.weight", TensorClass.NORM),
        ("blk.0.ssm_out.weight", TensorClass.RECURRENT),
        ("blk.61.nextn.eh_proj.weight", TensorClass.NEXTN),
        ("mystery", TensorClass.OTHER),
    ],
)
def test_classes_by_name(name: str, kind: TensorClass) -> None:
    assert classify(name) is kind


def test_the_starter_model(moe_model: Path, dense_model: Path) -> None:
    moe, dense = (take_inventory(read_header(path)) for path in (moe_model, dense_model))
    assert moe.moe and not dense.moe
    assert dense.active == dense.total
    # one of four experts is used: all four are in memory
    ffn = dense.by_class[TensorClass.DENSE_FFN].parameters
    assert moe.experts.parameters == 4 * ffn
    routers = moe.by_class[TensorClass.ROUTER].parameters
    assert moe.active.parameters == dense.total.parameters + routers
    # of the embedding only a row is read
    table = dense.by_class[TensorClass.EMBEDDING].size_bytes
    assert dense.decode_bytes == dense.total.size_bytes - table + table // 151_936


def with_architecture(header: Header, architecture: str) -> Header:
    from dataclasses import replace

    keys = {
        key.replace(f"{header.architecture}.", f"{architecture}."): value
        for key, value in header.metadata.items()
    }
    keys["general.architecture"] = architecture
    return replace(header, architecture=architecture, metadata=keys)


def test_an_unknown_architecture_is_counted_all_the_same() -> None:
    known = shapes.family_header("qwen3moe")
    model = model_of(with_architecture(known, "qwen9moe"))
    assert model.inventory.total == take_inventory(known).total
    assert model.inventory.active == take_inventory(known).active
    assert not model.known
    assert not model.supported


def test_experts_count_in_full_where_the_keys_are_missing() -> None:
    from dataclasses import replace

    known = header_of(shapes.SHAPES["qwen3moe"])
    keys = {k: v for k, v in known.metadata.items() if "expert" not in k}
    inventory = take_inventory(replace(known, metadata=keys))
    assert inventory.active == inventory.total
    assert {layer.count for layer in inventory.layers} == {128}, "by the tensors that are there"


def test_which_architectures_are_known() -> None:
    assert is_known("qwen3moe") and is_known("gpt-oss") and is_known("mamba2")
    assert is_supported("kimi-k3") and not is_known("kimi-k3")
    assert not is_supported("")
