"""A model with a SentencePiece vocabulary and without FIM tokens, through all parts.

Needs the Gemma test model (`underkeel pull gemma-3-270m`, 241 MiB): it is not among the models that
the tests download.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from real_daemon import configure, ended_afterwards

from assistant import paths
from assistant.cli.language_client import language_server

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
URI = "file:///colours.py"
TEXT = """RED = "red"
GREEN = "green"
BLUE = "blue"


def is_red(colour):
    return colour == RED


def is_green(colour):
    return colour == GREEN


def is_blue(colour):
    return colour


print(is_red("red"), is_green("green"))
"""


def test_ghost_text_without_fim_tokens(home: Path) -> None:
    model = paths.models_dir() / "gemma-3-270m-q4_k_m.gguf"
    if not model.is_file():
        pytest.skip("needs the Gemma test model: underkeel pull gemma-3-270m")
    configure(home, model={"name": model, "n_ctx": 2048})

    async def main() -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        async with language_server(env=environment) as client, asyncio.timeout(500):
            options = {"underkeel": {"completion": {"time_limit_ms": 10_000}}}
            await client.initialise(encodings=("utf-8",), options=options)
            client.open(URI, TEXT, "python")
            line = TEXT.split("\n").index("    return colour")
            items: list[dict[str, Any]] = []
            while not items:  # a busy machine may not answer within the limit
                items = await client.complete(URI, line, len("    return colour"))
            text = items[0]["insertText"]
            assert text.startswith(" == BLUE")
            assert "```" not in text and "hole" not in text and "print(" not in text

    with ended_afterwards():
        asyncio.run(main())
