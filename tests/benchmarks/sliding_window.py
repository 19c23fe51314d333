"""Sliding windows: what is evaluated again, and the cache's bytes, with and without `swa_full`.

    python tests/benchmarks/sliding_window.py [--model gemma-3-270m] [--save]

One model with sliding-window layers is loaded twice, planned alike: once with the full length in
all layers (the default before), once with the window alone. Both get the same requests in turn:
characters typed into a file of this repository, deleted again, jumps of the cursor to other lines
and back, and a chat with follow-ups, one of which changes the message before. Counted are the
prompt tokens that were evaluated; texts are compared. Nothing is timed.

Prints JSON; `--save` also writes it to tests/benchmarks/results/sliding_window.json.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from head import head, publish
from msgspec.structs import replace

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, GenerateRequest, LoadSpec, ModelInfo, Timings
from assistant.memory.gguf.header import read_header
from assistant.memory.model.architecture import CacheParams, model_memory, with_window
from assistant.models import vocabulary
from assistant.models.catalogue import resolve

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("results") / "sliding_window.json"
FILES = ("assistant/http_client.py", "assistant/statistics.py")
N_CTX, N_SEQ, SUGGESTION_TOKENS, CHAT_TOKENS, MOST_CHARACTERS = 16384, 4, 4, 12, 3600


@dataclass(frozen=True)
class Ask:
    """A request: what it stands for, and its prompt's text."""

    kind: str
    text: str
    tokens: int = SUGGESTION_TOKENS
    document: str = ""


def typing(seed: int) -> Iterator[Ask]:
    """Places in two files, with characters typed and deleted at each."""
    rng = random.Random(seed)
    texts = {name: (ROOT / name).read_text(encoding="utf-8")[:MOST_CHARACTERS] for name in FILES}
    for visit in range(6):
        name = FILES[visit // 2 % 2]
        text = texts[name]
        ends = [at for at, char in enumerate(text) if char == "\n" and at > len(text) // 3]
        at = rng.choice(ends) + 1
        yield Ask("open" if visit in {0, 2} else "jump", text[:at], document=name)
        typed = text[at : at + 6].strip() or "return"
        for count in range(1, len(typed) + 1):
            yield Ask("keystroke", text[:at] + typed[:count], document=name)
        for count in range(len(typed) - 1, len(typed) - 3, -1):
            yield Ask("backspace", text[:at] + typed[: max(count, 0)], document=name)


def chat(answers: list[str]) -> Iterator[Ask]:
    """A conversation over a file; `answers` grows with what the model says."""
    turns = [(ROOT / FILES[0]).read_text(encoding="utf-8")[:600]]
    questions = ("What does it do?", "Which errors can occur?", "Name the parameters.", "Why?")
    for number, question in enumerate(questions):
        turns.append(f"\n\nQuestion: {question}\nAnswer:")
        yield Ask("question" if not number else "follow-up", "".join(turns), CHAT_TOKENS)
        turns.append(answers[-1])
    turns[-4:] = ["\n\nQuestion: Which lines are tested?\nAnswer:"]
    yield Ask("changed message", "".join(turns), CHAT_TOKENS)


async def answer(engine: LlamaEngine, words: Any, ask: Ask) -> tuple[str, Timings]:
    start = (words.bos,) if words.add_bos else ()
    request = GenerateRequest(
        id="1",
        prompt=(*start, *words.encode(ask.text)),
        max_tokens=ask.tokens,
        document=ask.document,
        speculate=False,
    )
    text = ""
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            text += event.text
        else:
            return text, event.timings
    raise AssertionError("no end")


async def measure(model: Path, seed: int) -> dict[str, Any]:
    heading = head("sliding_window")
    words = vocabulary.load(model)
    memory = model_memory(read_header(model))
    shape = CacheParams(n_ctx=N_CTX, n_seq_max=N_SEQ)
    engines = {name: LlamaEngine() for name in ("full", "window")}
    infos: dict[str, ModelInfo] = {}
    evaluated: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in engines}
    same = asked = 0
    differing: list[dict[str, str]] = []
    checkpoint_bytes = 0
    try:
        for name, engine in engines.items():
            cache = with_window(memory, shape, full=name == "full")
            checkpoint_bytes = cache.checkpoint_bytes or checkpoint_bytes
            spec = LoadSpec(path=str(model), n_ctx=N_CTX, n_seq_max=N_SEQ, n_outputs_max=32)
            infos[name] = await engine.load(
                replace(spec, swa_full=cache.swa_full, checkpoint_bytes=cache.checkpoint_bytes)
            )
        answers: list[str] = []
        for one in chain(typing(seed), chat(answers)):
            found: dict[str, str] = {}
            for name, engine in engines.items():
                found[name], timings = await answer(engine, words, one)
                evaluated[name][one.kind].append(timings.evaluated_tokens)
            asked += 1
            same += found["full"] == found["window"]
            answers.append(found["full"])
            if found["full"] != found["window"]:
                differing.append({"kind": one.kind, **found})
            print(one.kind, {k: v[one.kind][-1] for k, v in evaluated.items()}, file=sys.stderr)
    finally:
        for engine in engines.values():
            await engine.close()
    return {
        **heading,
        "settings": {
            "model": model.name,
            "n_ctx": N_CTX,
            "n_seq_max": N_SEQ,
            "window": memory.window,
            "windowed_layers": sum(layer.windowed for layer in memory.layers),
            "layers": len(memory.layers),
            "seed": seed,
        },
        "kv_bytes": {
            name: sum(part.kv_bytes for part in info.memory) for name, info in infos.items()
        },
        "checkpoint_bytes": {"full": 0, "window": checkpoint_bytes},
        "requests": asked,
        "identical": same,
        "differing": differing,
        "evaluated_tokens": {
            kind: {
                "requests": len(evaluated["full"][kind]),
                **{
                    name: round(sum(counts[kind]) / len(counts[kind]), 1)
                    for name, counts in evaluated.items()
                },
            }
            for kind in evaluated["full"]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    report = asyncio.run(measure(resolve(options.model), options.seed))
    publish(report, RESULT, save=options.save)


if __name__ == "__main__":
    main()
