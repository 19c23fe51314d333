"""Speculation: the same text with and without it, and how much faster it comes.

    python tests/benchmarks/speculation.py [--prompts 200] [--save]

A third of the prompts are edits: the model is asked to write a function of this repository again
with one small change. The others are fresh code: lines of the same files, in prompts as the
language server builds them, of 256 tokens (the first at a place on a slow machine) and of 1,024.
The indexed copy of a file has the line taken out, too.

Each prompt is answered by the real worker, greedily: without drafts, with drafts from prompt and
answer, and for fresh code with those from the code that did not fit as well, as the language server
sends it (`draft_from`). They take turns at going first; all but the first find the prompt in the
cache, so only decoding differs. Time is that of decoding alone, as the worker reports it. How fast
drafts are depends on how busy the machine is; how many come true does not.

Prints JSON; `--save` also writes it to tests/benchmarks/results/speculation.json.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import random
import shutil
import statistics
import sys
import tempfile
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
EDIT_TOKENS, FRESH_TOKENS = 48, 20
PROMPT_TOKENS = {"fresh_256": 256, "fresh_1024": 1024}
KINDS = ("edit", *PROMPT_TOKENS)
PACKAGES = ("assistant", "lsp", "context")
CHANGES = (
    "Rename the first parameter to `given`",
    "Add a one-line comment above the last return",
    "Add type hints where some are missing",
    "Put a call of `log()` first in the body",
)


@dataclass(frozen=True)
class Prompt:
    """Token ids of one of `KINDS`, how many to generate, and what else may be drafted from."""

    kind: str
    ids: tuple[int, ...]
    tokens: int
    aside: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One prompt, answered each way: "plain", "drafted" and for fresh code "aside"."""

    kind: str
    texts: dict[str, str]
    timings: dict[str, Timings]

    @property
    def same(self) -> bool:
        return len(set(self.texts.values())) == 1


def sources(rng: random.Random) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in modules(ROOT, rng)]


def modules(root: Path, rng: random.Random) -> list[Path]:
    """The packages' modules below a folder, in a random order."""
    paths = sorted(path for name in PACKAGES for path in (root / name).rglob("*.py"))
    rng.shuffle(paths)
    return paths


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
    """A prompt of each length for a line of a random module, and so on."""
    layout = families.layout_for(words)
    assert layout is not None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in PACKAGES:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        workspace = context.Workspace([root], words, layout, words.special)
        workspace.index.refresh()
        for path in modules(root, rng):
            source = path.read_text(encoding="utf-8")
            lines = source.split("\n")
            rows = [row for row, line in enumerate(lines) if row > 15 and len(line.strip()) > 12]
            if not rows:
                continue
            row = rng.choice(rows)
            indent = len(lines[row]) - len(lines[row].lstrip())
            before = "\n".join([*lines[:row], lines[row][: indent + 4]])
            text = before + "\n" + "\n".join(lines[row + 1 :])
            path.write_text(text, encoding="utf-8")
            workspace.index.update(path)
            document = workspace.open(path, text)
            for kind, budget in PROMPT_TOKENS.items():
                made = workspace.prompt(document, len(before.encode()), budget, rest=True)
                yield Prompt(kind, made.ids, FRESH_TOKENS, made.aside)
            workspace.close(document)
            path.write_text(source, encoding="utf-8")
            workspace.index.update(path)


async def answer(engine: LlamaEngine, prompt: Prompt, way: str) -> tuple[str, Timings]:
    request = GenerateRequest(
        id="1",
        prompt=prompt.ids,
        max_tokens=prompt.tokens,
        speculate=way != "plain",
        draft_from=prompt.aside if way == "aside" else (),
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
    again, new = edits(words, rng), fresh(words, rng)
    prompts = [next(source) for _ in range(count // 3) for source in (again, new, new)]
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
            ways = ("plain", "drafted", "aside")[: 2 if prompt.kind == "edit" else 3]
            turn = number // 3 % len(ways)
            found = {way: await answer(engine, prompt, way) for way in ways[turn:] + ways[:turn]}
            texts = {way: found[way][0] for way in ways}
            outcomes.append(Outcome(prompt.kind, texts, {way: found[way][1] for way in ways}))
            if not outcomes[-1].same:
                differing.append({"kind": prompt.kind, **texts})
            print(number, prompt.kind, outcomes[-1].same, file=sys.stderr)
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
        "load_average_after": round(os.getloadavg()[0], 1),
        "identical": sum(outcome.same for outcome in outcomes),
        "differing": differing,
        **{
            kind: {
                way: summary([one for one in outcomes if one.kind == kind], way)
                for way in ("drafted", "aside")[: 1 if kind == "edit" else 2]
            }
            for kind in KINDS
        },
    }


def summary(outcomes: list[Outcome], way: str) -> dict[str, Any]:
    """One way to draft, against none."""
    pairs = [(one.timings["plain"], one.timings[way]) for one in outcomes]
    drafted = sum(one.drafted_tokens for _, one in pairs)
    accepted = sum(one.accepted_tokens for _, one in pairs)
    plain_ms = sum(one.decode_ms for one, _ in pairs)
    drafted_ms = sum(one.decode_ms for _, one in pairs)
    ratios = [one.decode_ms / other.decode_ms for one, other in pairs if other.decode_ms]
    return {
        "prompts": len(pairs),
        "generated_tokens": sum(one.generated_tokens for _, one in pairs),
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
