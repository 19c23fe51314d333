"""Cache and weight sizes against llama.cpp's own figures, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import shapes

from assistant.errors import LoadError
from assistant.llama import LoadSpec
from assistant.memory.model.architecture import (
    CacheParams,
    cache_bytes,
    cells,
    layer_bytes,
    model_memory,
    token_bytes,
    unusable_types,
    window_cells,
)
from assistant.memory.planning.dry_run import DryRun

REQUIREMENTS = {
    "f16": CacheParams(n_ctx=32768, n_seq_max=4, swa_full=False),
    "q8_0": CacheParams(n_ctx=4096, type_k="q8_0", type_v="q8_0", n_seq_max=2),
    "q4_0, an odd length": CacheParams(n_ctx=1000, type_k="q4_0", type_v="q4_0", n_ubatch=64),
    "q5_1, each its own": CacheParams(
        n_ctx=8192, type_k="q5_1", type_v="q5_1", n_seq_max=3, unified=False, swa_full=False
    ),
    "f32, window in full": CacheParams(n_ctx=2048, type_k="f32", type_v="f32", n_seq_max=4),
    "earlier states": CacheParams(n_ctx=2048, n_seq_max=3, n_rs_seq=5),
    "without flash attention": CacheParams(n_ctx=2048, n_seq_max=2, flash_attn=False),
}


@pytest.fixture(scope="module")
def dry_run() -> Iterator[DryRun]:
    with DryRun() as asked:
        yield asked


def spec_of(requirement: CacheParams) -> LoadSpec:
    return LoadSpec(
        path="shape",
        n_ctx=requirement.n_ctx,
        n_ubatch=requirement.n_ubatch,
        n_seq_max=requirement.n_seq_max,
        cache_type_k=requirement.type_k,
        cache_type_v=requirement.type_v,
        kv_unified=requirement.unified,
        swa_full=requirement.swa_full,
        n_rs_seq=requirement.n_rs_seq,
        flash_attn=requirement.flash_attn,
        use_extra_bufts=False,
    )


@pytest.mark.parametrize(("family", "requirement"), [*product(shapes.SHAPES, REQUIREMENTS)])
def test_the_cache_is_llama_cpps_to_the_byte(
    family: str, requirement: str, dry_run: DryRun
) -> None:
    header = shapes.family_header(family)
    asked = REQUIREMENTS[requirement]
    memory = dry_run.run(spec_of(asked), header)
    assert cache_bytes(model_memory(header), asked) == sum(part.kv_bytes for part in memory)


@pytest.mark.parametrize("kinds", [("bf16", "bf16"), ("q8_0", "f16"), ("q4_1", "iq4_nl")])
def test_other_cache_types(kinds: tuple[str, str], dry_run: DryRun) -> None:
    header = shapes.family_header("qwen3moe")
    requirement = CacheParams(n_ctx=4096, type_k=kinds[0], type_v=kinds[1], n_seq_max=4)
    memory = dry_run.run(spec_of(requirement), header)
    assert cache_bytes(model_memory(header), requirement) == sum(part.kv_bytes for part in memory)


def test_figures_of_the_literature() -> None:
    """DeepSeek-V3 at 32 k: 2,196 MiB compressed, 152.5 GiB in a legacy file."""
    requirement = CacheParams(n_ctx=32768)
    latent = model_memory(shapes.family_header("deepseek2"))
    legacy = model_memory(shapes.family_header("deepseek2-legacy"))
    assert cache_bytes(latent, requirement) == 2196 << 20
    assert cache_bytes(legacy, requirement) == int(152.5 * (1 << 30))


def test_a_window_spares_what_lies_outside_of_it() -> None:
    memory = model_memory(shapes.family_header("gpt-oss-20b"))
    full, short = (CacheParams(n_ctx=32768, swa_full=flag) for flag in (True, False))
    assert cache_bytes(memory, full) == 1536 << 20
    assert cache_bytes(memory, short) < cache_bytes(memory, full) * 0.52
    assert (cells(short), window_cells(memory, short)) == (32768, 768)
    widths = layer_bytes(memory, short)
    assert [widths[0] < widths[1], widths[2] < widths[3]] == [True, True]


def test_multi_token_prediction_has_no_cache() -> None:
    memory = model_memory(shapes.family_header("glm4moe"))
    assert len(memory.layers) == 47
    assert layer_bytes(memory, CacheParams(n_ctx=4096))[46] == 0


def test_states_grow_with_sequences_and_not_with_context() -> None:
    memory = model_memory(shapes.family_header("mamba"))
    one = cache_bytes(memory, CacheParams(n_ctx=4096))
    assert cache_bytes(memory, CacheParams(n_ctx=32768)) == one
    assert cache_bytes(memory, CacheParams(n_ctx=4096, n_seq_max=3)) == 3 * one
    assert memory.recurrent
    assert token_bytes(memory) == 0


@pytest.mark.parametrize(
    ("family", "kinds", "flash", "words"),
    [
        ("qwen3moe", ("q3_K", "q3_K"), True, "no cache type"),
        ("qwen3moe", ("f16", "q8_0"), False, "flash attention"),
        ("deepseek2", ("q8_0", "f16"), True, "as one"),
    ],
)
def test_types_that_a_model_cannot_have(
    family: str, kinds: tuple[str, str], flash: bool, words: str, dry_run: DryRun
) -> None:
    header = shapes.family_header(family)
    requirement = CacheParams(n_ctx=256, type_k=kinds[0], type_v=kinds[1], flash_attn=flash)
    assert words in unusable_types(model_memory(header), requirement)
    if kinds[0] != "q3_K":  # llama.cpp says no as well
        with pytest.raises(LoadError):
            dry_run.run(spec_of(requirement), header)


def test_a_head_that_blocks_do_not_divide() -> None:
    memory = model_memory(shapes.family_header("qwen3moe"))
    odd = replace(memory, layers=tuple(replace(x, key_head=80) for x in memory.layers))
    assert "80" in unusable_types(odd, CacheParams(256, "q8_0", "q8_0"))
    assert not unusable_types(memory, CacheParams(256, "q8_0", "q8_0"))


def test_weights_are_llama_cpps_to_the_byte(dry_run: DryRun) -> None:
    """In host memory and not repacked, where a few architectures keep a tied output twice."""
    from assistant.memory.model.architecture import copies_tied_output
    from assistant.memory.model.profile import sized, take_inventory

    for family in shapes.SHAPES:
        header = shapes.family_header(family)
        inventory = take_inventory(header)
        kept = [t for x in inventory.layers if not x.skipped for t in (*x.dense, *x.experts)]
        kept += [t for x in inventory.layers if x.skipped for t in x.not_skipped]
        tied = []
        if inventory.tied and copies_tied_output(header.architecture):
            tied = [tensor for tensor in inventory.input if tensor.name == "token_embd.weight"]
        ours = sized([*kept, *inventory.input, *inventory.output, *inventory.copied, *tied], 32)
        memory = dry_run.run(spec_of(CacheParams(n_ctx=256)), header)
        assert ours == sum(part.weights_bytes for part in memory), family
