"""The vocabulary decides which FIM layout a model gets."""

# ruff: noqa: RUF001  # DeepSeek spells its tokens with look-alike characters

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from llama_tokeniser import gguf_bytes

from assistant.memory.gguf.header import Header, read_bytes, read_header
from assistant.models.families import (
    HOLE,
    PLAIN,
    _table,
    hole_layout,
    layout_for,
    layout_named,
)
from assistant.models.gguf_file import string
from assistant.models.token_estimate import EngineEncoded
from assistant.models.vocabulary import load
from context import window
from context.prompt import FimLayout, Part
from context.syntax.text import CursorKind

QWEN = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"]
STARCODER = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]

# family: (a model's name, its architecture, tokens of its vocabulary)
MODELS = {
    "qwen2.5-coder": ("Qwen2.5 Coder 7B Instruct", "qwen2", QWEN),
    "qwen": ("Qwen3-Coder-30B-A3B-Instruct", "qwen3moe", QWEN),
    "codegemma": ("codegemma-2b", "gemma", [*QWEN[:3], "<|file_separator|>"]),
    "deepseek-coder": (
        "DeepSeek-Coder-V2-Lite-Instruct",
        "deepseek2",
        ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ),
    "codestral": ("Codestral-22B-v0.1", "llama", ["[PREFIX]", "[SUFFIX]", "[MIDDLE]"]),
    "seed-coder": (
        "Seed-Coder-8B-Base",
        "llama",
        ["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"],
    ),
    "mellum": ("Mellum-4b-base", "llama", [*STARCODER, "<filename>", "<reponame>"]),
    "starcoder2": ("starcoder2-7b", "starcoder2", [*STARCODER, "<file_sep>", "<repo_name>"]),
    "granite-code": ("Granite 8b Code Base", "llama", [*STARCODER, "<filename>"]),
    "granite-4": ("Granite 4.0 H Tiny", "granitehybrid", QWEN[:3]),
    "glm-4.5": (
        "GLM-4.5-Air",
        "glm4moe",
        ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    ),
    "codellama": ("CodeLlama-7b", "llama", ["▁<PRE>", "▁<SUF>", "▁<MID>"]),
    PLAIN: ("gpt-oss-20b", "gpt-oss", ["<|start|>", "<|return|>"]),
}


def header(name: str, architecture: str, tokens: list[str], *, chats: bool = False) -> Header:
    texts = [text.encode() for text in ["a", "b", *tokens]]
    array = struct.pack("<IIQ", 9, 8, len(texts))
    array += b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    values = {
        "general.architecture": string(architecture),
        "general.name": string(name),
        "tokenizer.ggml.tokens": array,
    }
    if chats:
        values["tokenizer.chat_template"] = string("{{ messages }}")
    return read_bytes(gguf_bytes(values))


def found(name: str, architecture: str, tokens: list[str]) -> FimLayout:
    layout = layout_for(header(name, architecture, tokens))
    assert layout is not None
    return layout


def test_every_family_has_a_model_here() -> None:
    assert sorted(MODELS) == sorted([*(one.name for one in _table().family), PLAIN])


@pytest.mark.parametrize("family", MODELS)
def test_a_model_is_known_by_its_vocabulary(family: str) -> None:
    assert found(*MODELS[family]).family == family


@pytest.mark.parametrize("family", [name for name in MODELS if name != PLAIN])
def test_the_tokens_decide_where_the_name_says_nothing(family: str) -> None:
    _, _, tokens = MODELS[family]
    layout = found("model", "llama", tokens)
    assert set(layout.tokens.values()) <= set(tokens)
    assert layout.family != PLAIN


def test_a_name_without_the_tokens_decides_nothing() -> None:
    assert found("Qwen2.5-Coder", "qwen2", []).family == PLAIN


@pytest.mark.parametrize("family", MODELS)
def test_layouts_are_whole(family: str) -> None:
    layout = found(*MODELS[family])
    for kind in CursorKind:
        order = layout.order[kind]
        assert len(set(order)) == len(order)
        assert Part.PREFIX in order
        assert order.index(Part.FAR_PREFIX) < order.index(Part.PREFIX)
        assert (Part.SUFFIX in order) == (family != PLAIN)
        used = {part for part in order if part.value in {token.value for token in layout.tokens}}
        assert used == set(layout.tokens)


def test_only_stops_of_the_vocabulary_remain() -> None:
    assert found(*MODELS["qwen"]).stop == tuple(
        text for text in layout_named("qwen").stop if text in QWEN
    )


@pytest.mark.parametrize("architecture", ["bert", "nomic-bert-moe"])
def test_encoders_complete_nothing(architecture: str) -> None:
    assert layout_for(header("embedder", architecture, QWEN)) is None


def test_a_file_without_vocabulary_completes_nothing() -> None:
    empty = read_bytes(gguf_bytes({"general.architecture": string("llama")}))
    assert layout_for(empty) is None


def test_the_starter_models_are_of_one_family(dense_model: Path, moe_model: Path) -> None:
    for path in (dense_model, moe_model):
        by_header = layout_for(read_header(path))
        assert by_header is not None
        assert by_header.family == "qwen2.5-coder"
        vocabulary = load(path)
        assert layout_for(vocabulary) == by_header
        assert set(by_header.tokens.values()) <= set(vocabulary.control)
        assert set(by_header.stop) <= set(vocabulary.control)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("granite-4", "granite-4"),
        ("Qwen3-Coder-480B-A35B", "qwen"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2.5-coder"),
        ("deepseek_coder_v2_lite", "deepseek-coder"),
        ("something else", PLAIN),
    ],
)
def test_a_remote_model_is_known_by_its_name(name: str, family: str) -> None:
    assert layout_named(name).family == family


CHATS = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "gpt-oss": ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"],
    "kimi-k2": ["<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>"],
    "glm": ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
    "deepseek-v3": ["<｜User｜>", "<｜Assistant｜>"],
}


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("chats", [True, False])
def test_a_model_without_fim_tokens_is_shown_a_marked_hole(name: str, chats: bool) -> None:
    """In a turn of a conversation; a model that is not made for them continues the prefix."""
    words = EngineEncoded(header(name, "llama", CHATS[name], chats=chats))
    chosen, layout = layout_for(words), hole_layout(words)
    assert chosen is not None
    assert chosen == layout if chats else chosen.family == PLAIN
    assert layout.family == HOLE
    opening, closing = (
        words.parts(layout.ids[part]) for part in (Part.PREFIX_TOKEN, Part.MIDDLE_TOKEN)
    )
    assert any(isinstance(part, int) for part in opening) is chats
    assert any(isinstance(part, int) for part in closing) is chats
    assert str(closing[-1]).endswith("```\n")
    assert {"\n```", "<hole>"} <= set(layout.stop)


def test_the_marked_hole_stands_before_the_suffix_and_the_prefix_stays_open(
    dense_model: Path,
) -> None:
    """Typing appends to the prompt; what is counted for the layout is what it takes."""
    words = load(dense_model)
    layout = hole_layout(words)
    before, after = "def area(r):\n    return ", "\n\nprint(area(2))\n"
    made = window(before + after, len(before), layout, words, words.special, 300, 0)
    text = words.decode(made.ids)
    assert text.startswith("<|im_start|>user\n")
    assert f"<hole>{after}" in text
    assert text.endswith(f"<|im_end|>\n<|im_start|>assistant\n```\n{before}")
    for budget in range(80, 140, 7):
        made = window(before + after, len(before), layout, words, words.special, budget, 0)
        assert len(made.ids) <= budget
