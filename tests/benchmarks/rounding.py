"""Rounding: how far drafts move the lead of the best token, by the batches that they make.

    python tests/benchmarks/rounding.py [--model NAME] [--prompts 60] [--save]

Several tokens at once go through other kernels than one alone, and every kernel rounds otherwise.
This measures what that does to the choice of the next token, on the answers to the prompts of
`speculation.py`: each answer is decoded token by token; then the same tokens are evaluated in
batches, as if all had been drafted. Of each row the lead is compared: by how much the likeliest
token's logit is above the second likeliest's.

- `in_a_batch`: rows of batches, over cells that such batches have written.
- `alone`: rows evaluated by themselves over such cells, where the lead is small enough to matter.
- `again`: the same once those cells have been written again token by token; 0 says that nothing at
  all is left of the batches.

`SURE_MARGIN` (assistant/engine/worker/speculation.py) has to be above the most of the first two.

Prints JSON; `--save` keeps it, by model, in tests/benchmarks/results/rounding.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from head import head
from speculation import Prompt, edits, fresh

from assistant.engine.types import LoadSpec
from assistant.engine.worker.speculation import MOST_DRAFTED, SURE_MARGIN
from assistant.llama.context import Context, DecodeStatus, Logits
from assistant.llama.model import Model
from assistant.llama.structs import Span
from assistant.models import vocabulary
from assistant.models.catalogue import resolve

RESULT = Path(__file__).with_name("results") / "rounding.json"
BATCHES = (4, 13, 1 + MOST_DRAFTED)
CHUNK = 64
SMALL_LEAD = 1.5
MOST_ALONE = 4
"""Rows a prompt that are evaluated by themselves: those with the smallest leads."""


@dataclass
class Moved:
    """How far leads have moved, in logits, and how often another token came to lead."""

    by: list[float] = field(default_factory=list)
    turned: list[float] = field(default_factory=list)

    def add(self, without: Lead, logits: Logits) -> None:
        now = float(logits[without.best] - logits[without.second])
        self.by.append(abs(now - without.by))
        if int(logits.argmax()) != without.best:
            self.turned.append(without.by)

    def told(self) -> dict[str, Any]:
        by = np.array(self.by or [0.0])
        return {
            "rows": len(self.by),
            "median": round(float(np.median(by)), 4),
            "p99": round(float(np.percentile(by, 99)), 4),
            "most": round(float(by.max()), 4),
            "turned": len(self.turned),
            "largest_lead_turned": round(max(self.turned, default=0.0), 4),
        }


@dataclass(frozen=True)
class Lead:
    """The two likeliest tokens of a row evaluated without drafts, and how far they are apart."""

    best: int
    second: int
    by: float

    @classmethod
    def of(cls, logits: Logits) -> Lead:
        second, best = np.argpartition(logits, -2)[-2:]
        if logits[second] > logits[best]:
            best, second = second, best
        return cls(int(best), int(second), float(logits[best] - logits[second]))


class Cells:
    """One sequence of a context, evaluated in batches of a given size."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def evaluate(self, tokens: Sequence[int], at: int, size: int) -> Iterator[Logits]:
        """The logits after each of `tokens`, the first of which stands at `at`."""
        self.context.forget(0, at)
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            verdict = self.context.decode([Span(0, at + start, part, len(part))])
            assert verdict is DecodeStatus.DONE
            for row in range(len(part)):
                yield self.context.logits(row)


def decoded(sequence: Cells, prompt: Prompt, model: Model) -> tuple[list[int], list[Lead]]:
    """The prompt's last token and the greedy answer but its last, with the lead after each."""
    *start, last = prompt.ids
    for _ in sequence.evaluate(start, 0, CHUNK):
        pass
    tokens, leads = [last], list[Lead]()
    while len(leads) < prompt.tokens:
        (logits,) = sequence.evaluate(tokens[-1:], len(start) + len(leads), 1)
        leads.append(Lead.of(logits))
        if leads[-1].best in model.ends:
            break
        tokens.append(leads[-1].best)
    return tokens[: len(leads)], leads


def measure(path: Path, count: int, threads: int, seed: int) -> dict[str, Any]:
    heading = head("rounding")
    spec = LoadSpec(path=str(path), n_ctx=2048, n_outputs_max=CHUNK, n_threads=threads)
    model = Model(spec)
    context = Context(model, spec)
    sequence = Cells(context)
    words, rng = vocabulary.load(path), random.Random(seed)
    kinds = (edits(words, rng), fresh(words, rng))
    moved = {name: Moved() for name in ("in_a_batch", "alone", "again")}
    rows = below = 0
    for number in range(count):
        prompt = next(kinds[number % 2])
        tokens, leads = decoded(sequence, prompt, model)
        rows += len(leads)
        below += sum(lead.by < SURE_MARGIN for lead in leads)
        at = len(prompt.ids) - 1
        small = sorted((one for one in range(1, len(leads))), key=lambda one: leads[one].by)
        small = [one for one in small[:MOST_ALONE] if leads[one].by < SMALL_LEAD]
        for size in BATCHES:
            for lead, logits in zip(leads, sequence.evaluate(tokens, at, size), strict=True):
                moved["in_a_batch"].add(lead, logits)
        for one in sorted(small, reverse=True):
            # All cells before this row are still those of the largest batches.
            (logits,) = sequence.evaluate(tokens[one : one + 1], at + one, 1)
            moved["alone"].add(leads[one], logits)
        if small:
            upto = max(small) + 1
            *_, logits = sequence.evaluate(tokens[:upto], at, 1)
            moved["again"].add(leads[upto - 1], logits)
        print(number, {name: one.told() for name, one in moved.items()}, file=sys.stderr)
    context.free()
    model.free()
    return {
        **heading,
        "settings": {
            "model": path.name,
            "prompts": count,
            "threads": threads,
            "seed": seed,
            "rows_a_batch": BATCHES,
        },
        "rows_decoded": rows,
        "margin_logits": SURE_MARGIN,
        "rows_below_the_margin": round(below / rows, 4),
        "lead_moved_logits": {name: one.told() for name, one in moved.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    path = resolve(options.model)
    report = measure(path, options.prompts, options.threads, options.seed)
    print(json.dumps(report, indent=1))
    if options.save:
        kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        RESULT.write_text(json.dumps(kept | {path.name: report}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
