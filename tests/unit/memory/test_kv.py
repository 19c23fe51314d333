"""Cache and weight sizes against llama.cpp's own figures, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import shapes

from assistant.errors import LoadError
from assistant.llama.spec import LoadSpec
from assistant.memory.model.architecture import model_memory
from assistant.memory.model.kv_cache import (
    CacheWish,
    cache_bytes,
    cells,
    layer_bytes,
    token_bytes,
    unusable_types,
    window_cells,
)
from assistant.memory.planning.dry_run import Oracle

WISHES = {
    "f16": CacheWish(n_ctx=32768, n_seq_max=4, swa_full=False),
    "q8_0": CacheWish(n_ctx=4096, type_k="q8_0", type_v="q8_0", n_seq_max=2),
    "q4_0, an odd length": CacheWish(n_ctx=1000, type_k="q4_0", type_v="q4_0", n_ubatch=64),
    "q5_1, each its own": CacheWish(
        n_ctx=8192, type_k="q5_1", type_v="q5_1", n_seq_max=3, unified=False, swa_full=False
    ),
    "f32, window in full": CacheWish(n_ctx=2048, type_k="f32", type_v="f32", n_seq_max=4),
    "without flash attention": CacheWish(n_ctx=2048, n_seq_max=2, flash_attn=False),
}


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Oracle() as asked:
        yield asked


def spec_of(wish: CacheWish) -> LoadSpec:
    return LoadSpec(
        path="shape",
        n_ctx=wish.n_ctx,
        n_ubatch=wish.n_ubatch,
        n_seq_max=wish.n_seq_max,
        cache_type_k=wish.type_k,
        cache_type_v=wish.type_v,
        kv_unified=wish.unified,
        swa_full=wish.swa_full,
        flash_attn=wish.flash_attn,
        use_extra_bufts=False,
    )


@pytest.mark.parametrize(("family", "wish"), [*product(shapes.SHAPES, WISHES)])
def test_the_cache_is_llama_cpps_to_the_byte(family: str, wish: str, oracle: Oracle) -> None:
    header = shapes.family_header(family)
    asked = WISHES[wish]
    memory = oracle.ask(spec_of(asked), header)
    assert cache_bytes(model_memory(header), asked) == sum(part.kv_bytes for part in memory)


@pytest.mark.parametrize("kinds", [("bf16", "bf16"), ("q8_0", "f16"), ("q4_1", "iq4_nl")])
def test_other_cache_types(kinds: tuple[str, str], oracle: Oracle) -> None:
    header = shapes.family_header("qwen3moe")
    wish = CacheWish(n_ctx=4096, type_k=kinds[0], type_v=kinds[1], n_seq_max=4)
    memory = oracle.ask(spec_of(wish), header)
    assert cache_bytes(model_memory(header), wish) == sum(part.kv_bytes for part in memory)


def test_figures_of_the_literature() -> None:
    """DeepSeek-V3 at 32 k: 2,196 MiB compressed, 152.5 GiB in a legacy file."""
    wish = CacheWish(n_ctx=32768)
    latent = model_memory(shapes.family_header("deepseek2"))
    legacy = model_memory(shapes.family_header("deepseek2-legacy"))
    assert cache_bytes(latent, wish) == 2196 << 20
    assert cache_bytes(legacy, wish) == int(152.5 * (1 << 30))


def test_a_window_spares_what_lies_outside_of_it() -> None:
    memory = model_memory(shapes.family_header("gpt-oss-20b"))
    full, short = (CacheWish(n_ctx=32768, swa_full=flag) for flag in (True, False))
    assert cache_bytes(memory, full) == 1536 << 20
    assert cache_bytes(memory, short) < cache_bytes(memory, full) * 0.52
    assert (cells(short), window_cells(memory, short)) == (32768, 768)
    widths = layer_bytes(memory, short)
    assert [widths[0] < widths[1], widths[2] < widths[3]] == [True, True]


def test_multi_token_prediction_has_no_cache() -> None:
    memory = model_memory(shapes.family_header("glm4moe"))
    assert len(memory.layers) == 47
    assert layer_bytes(memory, CacheWish(n_ctx=4096))[46] == 0


def test_states_grow_with_sequences_and_not_with_context() -> None:
    memory = model_memory(shapes.family_header("mamba"))
    one = cache_bytes(memory, CacheWish(n_ctx=4096))
    assert cache_bytes(memory, CacheWish(n_ctx=32768)) == one
    assert cache_bytes(memory, CacheWish(n_ctx=4096, n_seq_max=3)) == 3 * one
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
    family: str, kinds: tuple[str, str], flash: bool, words: str, oracle: Oracle
) -> None:
    header = shapes.family_header(family)
    wish = CacheWish(n_ctx=256, type_k=kinds[0], type_v=kinds[1], flash_attn=flash)
    assert words in unusable_types(model_memory(header), wish)
    if kinds[0] != "q3_K":  # llama.cpp says no as well
        with pytest.raises(LoadError):
            oracle.ask(spec_of(wish), header)


def test_a_head_that_blocks_do_not_divide() -> None:
    memory = model_memory(shapes.family_header("qwen3moe"))
    odd = replace(memory, layers=tuple(replace(x, key_head=80) for x in memory.layers))
    assert "80" in unusable_types(odd, CacheWish(256, "q8_0", "q8_0"))
    assert not unusable_types(memory, CacheWish(256, "q8_0", "q8_0"))


def test_weights_are_llama_cpps_to_the_byte(oracle: Oracle) -> None:
    """On the host and not repacked, so that a tied output is no second copy."""
    from assistant.memory.model.profile import sized
    from assistant.memory.model.tensor_inventory import take_census

    for family in shapes.SHAPES:
        header = shapes.family_header(family)
        census = take_census(header)
        kept = [t for x in census.layers if not x.skipped for t in (*x.dense, *x.experts)]
        ours = sized([*kept, *census.input, *census.output, *census.copied], 32)
        memory = oracle.ask(spec_of(CacheWish(n_ctx=256)), header)
        assert ours == sum(part.weights_bytes for part in memory), family
