"""Speculation: the same text with and without it, and how much faster it comes.

    python tests/benchmarks/speculation.py [--prompts 200] [--save]

Half of the prompts are edits: the model is asked to write a function of this repository again with
one small change. The other half is fresh code: fill-in-the-middle at lines of the same files, in
the layout of the model's family. Each prompt is answered twice by the real worker, greedily, once
with drafts and once without, in turns; the second of two finds the prompt in the cache, so only
decoding differs. Time is that of decoding alone, as the worker reports it.

Prints JSON; `--save` also writes it to tests/benchmarks/results/speculation.json.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from head import head, publish
from msgspec.structs import replace

import context
from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, GenerateRequest, LoadSpec, Timings
from assistant.models import families, vocabulary
from assistant.models.catalogue import resolve

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("results") / "speculation.json"
EDIT_TOKENS, FRESH_TOKENS, PROMPT_TOKENS = 48, 20, 160
CHANGES = (
    "Rename the first parameter to `given`",
    "Add a one-line comment above the last return",
    "Add type hints where some are missing",
    "Put a call of `log()` first in the body",
)


@dataclass(frozen=True)
class Prompt:
    """Token ids, of one kind: "edit" or "fresh"."""

    kind: str
    ids: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """One prompt, answered both ways."""

    kind: str
    same: bool
    plain: Timings
    drafted: Timings


def sources(rng: random.Random) -> list[str]:
    paths = [
        path for room in ("assistant", "lsp", "context") for path in (ROOT / room).rglob("*.py")
    ]
    paths.sort()
    rng.shuffle(paths)
    return [path.read_text(encoding="utf-8") for path in paths]


def edits(words: Any, rng: random.Random) -> Iterator[Prompt]:
    for text in sources(rng):
        functions = [
            source
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef)
            and (source := ast.get_source_segment(text, node))
            and 5 <= source.count("\n") <= 12
        ]
        for source in functions[:2]:
            asked = (
                f"{rng.choice(CHANGES)}. Answer with the whole function.\n```python\n{source}\n```"
            )
            start, end = words.control["<|im_start|>"], words.control["<|im_end|>"]
            ids = [start, *words.encode(f"user\n{asked}"), end, *words.encode("\n"), start]
            ids += words.encode("assistant\n```python\n")
            yield Prompt("edit", tuple(ids), EDIT_TOKENS)


def fresh(words: Any, rng: random.Random) -> Iterator[Prompt]:
    layout = families.layout_for(words)
    assert layout is not None
    while True:
        for text in sources(rng):
            lines = text.split("\n")
            rows = [row for row, line in enumerate(lines) if row > 15 and len(line.strip()) > 12]
            if not rows:
                continue
            row = rng.choice(rows)
            indent = len(lines[row]) - len(lines[row].lstrip())
            before = "\n".join([*lines[:row], lines[row][: indent + 4]])
            after = "\n" + "\n".join(lines[row + 1 :])
            at = len(before.encode())
            made = context.window(
                before + after, at, layout, words, words.control, PROMPT_TOKENS, 0
            )
            yield Prompt("fresh", made.ids, FRESH_TOKENS)


async def answer(engine: LlamaEngine, prompt: Prompt, *, speculate: bool) -> tuple[str, Timings]:
    request = GenerateRequest(
        id="1", prompt=prompt.ids, max_tokens=prompt.tokens, speculate=speculate
    )
    text = ""
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            text += event.text
        else:
            return text, event.timings
    raise AssertionError("no end")


async def measure(model: Path, count: int, threads: int, seed: int) -> dict[str, Any]:
    heading = head("speculation")
    words = vocabulary.load(model)
    rng = random.Random(seed)
    kinds = (edits(words, rng), fresh(words, rng))
    prompts = [
        prompt for _, *pair in zip(range(count // 2), *kinds, strict=False) for prompt in pair
    ]
    engine = LlamaEngine()
    outcomes: list[Outcome] = []
    differing: list[dict[str, Any]] = []
    try:
        spec = LoadSpec(path=str(model), n_ctx=4096, n_outputs_max=32)
        await engine.load(replace(spec, n_threads=threads, n_threads_batch=threads))
        for number, prompt in enumerate(prompts):
            warm = GenerateRequest(id="0", prompt=prompt.ids, max_tokens=0)
            async for _ in engine.generate(warm):
                pass
            found = {}
            for speculate in (number % 2 == 0, number % 2 == 1):
                found[speculate] = await answer(engine, prompt, speculate=speculate)
            same = found[True][0] == found[False][0]
            outcomes.append(Outcome(prompt.kind, same, found[False][1], found[True][1]))
            if not same:
                differing.append(
                    {"kind": prompt.kind, "plain": found[False][0], "drafted": found[True][0]}
                )
            print(number, outcomes[-1], file=sys.stderr)
    finally:
        await engine.close()
    return {
        **heading,
        "settings": {
            "model": model.name,
            "prompts": len(prompts),
            "threads": threads,
            "seed": seed,
            "tokens": {"edit": EDIT_TOKENS, "fresh": FRESH_TOKENS},
        },
        "identical": sum(outcome.same for outcome in outcomes),
        "differing": differing,
        **{
            kind: summary([one for one in outcomes if one.kind == kind])
            for kind in ("edit", "fresh")
        },
    }


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    drafted = sum(one.drafted.drafted_tokens for one in outcomes)
    accepted = sum(one.drafted.accepted_tokens for one in outcomes)
    plain_ms = sum(one.plain.decode_ms for one in outcomes)
    drafted_ms = sum(one.drafted.decode_ms for one in outcomes)
    ratios = [
        one.plain.decode_ms / one.drafted.decode_ms for one in outcomes if one.drafted.decode_ms
    ]
    return {
        "prompts": len(outcomes),
        "generated_tokens": sum(one.drafted.generated_tokens for one in outcomes),
        "drafted_tokens": drafted,
        "accepted_tokens": accepted,
        "accepted_share": round(accepted / max(drafted, 1), 3),
        "plain_decode_s": round(plain_ms / 1000, 2),
        "drafted_decode_s": round(drafted_ms / 1000, 2),
        "speed_up": round(plain_ms / drafted_ms, 3),
        "speed_up_median": round(statistics.median(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    model = resolve(options.model)
    report = asyncio.run(measure(model, options.prompts, options.threads, options.seed))
    publish(report, RESULT, save=options.save)


if __name__ == "__main__":
    main()
