"""Shifted cells: what they would save after an edit above the cursor, and what they would cost.

    python tests/benchmarks/shifting.py [--places 30] [--save]

llama.cpp can turn the keys of cells to other positions (`llama_memory_seq_add`), so that what
stands behind a deleted piece need not be evaluated again. The values stay those of a text that
still had the piece. At places of this repository's own files, in the layout of the model's family,
some lines are deleted

- in the text before the cursor (`prefix`), or
- right below the cursor's line (`suffix`, which stands first in the layout that is used here),

and the rest of the line is asked for, from shifted cells and from a fresh evaluation of the same
tokens. Compared are the greedy line, and the likelihood of what stands there.

Prints JSON; `--save` also writes it to tests/benchmarks/results/shifting.json, which
`layout_table.py` tells of.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from head import head, publish
from llama_cpp import llama_cpp

import context
from assistant.engine.types import LoadSpec
from assistant.llama.context import Context, DecodeStatus, Logits
from assistant.llama.model import Model
from assistant.llama.structs import Span
from assistant.models import families, vocabulary
from assistant.models.catalogue import resolve

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("results") / "shifting.json"
PROMPT_TOKENS, DELETED_LINES, ANSWER_TOKENS, CHUNK = 448, 3, 16, 64
FEWEST_KEPT_TOKENS = 24


@dataclass(frozen=True)
class Place:
    """A prompt, the rest of its last line, and what is deleted of it by kind of edit."""

    ids: tuple[int, ...]
    rest: tuple[int, ...]
    deleted: dict[str, range]


@dataclass(frozen=True)
class Told:
    """What the model says after a prompt, and how likely it finds what stands there."""

    line: str
    rest_logprob: float
    first: Logits


def places(words: Any, rng: random.Random) -> Iterator[Place]:
    layout = families.layout_for(words)
    assert layout is not None
    paths = sorted(
        path for room in ("assistant", "lsp", "context") for path in (ROOT / room).rglob("*.py")
    )
    while True:
        lines = rng.choice(paths).read_text(encoding="utf-8").split("\n")
        rows = [row for row in range(30, len(lines) - 12) if len(lines[row].strip()) > 16]
        if not rows:
            continue
        row = rng.choice(rows)
        indent = len(lines[row]) - len(lines[row].lstrip())
        cut = indent + 4
        before = "\n".join([*lines[:row], lines[row][:cut]])
        after = "\n" + "\n".join(lines[row + 1 :])
        at = len(before.encode())
        made = context.window(before + after, at, layout, words, words.control, PROMPT_TOKENS, 0)
        deleted = _deleted(made.ids, words)
        if deleted is not None:
            yield Place(made.ids, tuple(words.encode(lines[row][cut:]))[:ANSWER_TOKENS], deleted)


def _deleted(ids: Sequence[int], words: Any) -> dict[str, range] | None:
    """Token ranges of whole lines: in the middle of what is before the cursor, and below it."""
    suffix_from = ids.index(words.control["<|fim_suffix|>"]) + 1
    prefix_from = ids.index(words.control["<|fim_middle|>"]) + 1
    ends = [at + 1 for at, one in enumerate(ids) if words.decode([one]).endswith("\n")]
    below = [at for at in ends if suffix_from < at < prefix_from]
    above = [at for at in ends if prefix_from < at < len(ids) - FEWEST_KEPT_TOKENS]
    if len(below) <= DELETED_LINES or len(above) <= DELETED_LINES + 2:
        return None
    middle = (len(above) - DELETED_LINES) // 2
    return {
        "prefix": range(above[middle], above[middle + DELETED_LINES]),
        "suffix": range(below[0], below[DELETED_LINES]),
    }


class Cells:
    """The cells of one sequence."""

    def __init__(self, model: Model, spec: LoadSpec) -> None:
        self.model, self.context = model, Context(model, spec)
        assert llama_cpp.llama_memory_can_shift(self.context._memory)

    def evaluate(self, tokens: Sequence[int], at: int = 0) -> Logits:
        """The logits after `tokens`, the first of which stands at `at`."""
        self.context.forget(0, at)
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            assert self.context.decode([Span(0, at + start, part, 1)]) is DecodeStatus.DONE
        return self.context.logits(len(part) - 1)

    def delete(self, gone: range) -> None:
        """Take a piece out, and move what stands behind it up."""
        memory = self.context._memory
        assert llama_cpp.llama_memory_seq_rm(memory, 0, gone.start, gone.stop)
        llama_cpp.llama_memory_seq_add(memory, 0, gone.stop, -1, -len(gone))

    def told(self, last: int, at: int, rest: Sequence[int]) -> Told:
        """Asked after a prompt whose token `last` stands at `at`; what is before it is held."""
        first = self.evaluate([last], at).copy()
        logprob, logits = 0.0, first
        for offset, token in enumerate(rest):
            logprob += float(logits[token]) - _log_sum(logits)
            logits = self.evaluate([token], at + 1 + offset)
        said, logits, place = b"", self.evaluate([last], at), at
        for _ in range(ANSWER_TOKENS):
            token = int(logits.argmax())
            said += self.model.piece(token)
            if token in self.model.ends or b"\n" in said.lstrip():
                break
            place += 1
            logits = self.evaluate([token], place)
        return Told(said.decode("utf-8", "replace").strip().split("\n")[0], logprob, first)


def _log_sum(logits: Logits) -> float:
    most = float(logits.max())
    return most + math.log(float(np.exp(logits - most).sum()))


def _divergence(of: Logits, given: Logits) -> float:
    """Kullback-Leibler divergence of the next token's distributions, in nats."""
    ours, other = of - _log_sum(of), given - _log_sum(given)
    return float((np.exp(ours) * (ours - other)).sum())


def measure(path: Path, count: int, threads: int, seed: int) -> dict[str, Any]:
    spec = LoadSpec(path=str(path), n_ctx=2048, n_seq_max=1, n_outputs_max=1, n_threads=threads)
    words, rng = vocabulary.load(path), random.Random(seed)
    cells = Cells(Model(spec), spec)
    found: dict[str, list[dict[str, float]]] = {}
    for number, place in zip(range(count), places(words, rng), strict=False):
        cells.evaluate(place.ids)
        state = cells.context.save(0)
        for kind, gone in place.deleted.items():
            edited = [*place.ids[: gone.start], *place.ids[gone.stop :]]
            at = len(edited) - 1
            cells.context.forget(0)
            assert cells.context.restore(0, state)
            cells.delete(gone)
            shifted = cells.told(edited[-1], at, place.rest)
            cells.evaluate(edited[:-1])
            fresh = cells.told(edited[-1], at, place.rest)
            found.setdefault(kind, []).append(
                {
                    "saved_tokens": at - gone.start,
                    "same_line": shifted.line == fresh.line,
                    "lost_logprob": fresh.rest_logprob - shifted.rest_logprob,
                    "divergence": _divergence(fresh.first, shifted.first),
                    "fresh_right": fresh.line == words.decode(place.rest).strip(),
                    "shifted_right": shifted.line == words.decode(place.rest).strip(),
                }
            )
            print(number, kind, found[kind][-1], file=sys.stderr)
    return {kind: summary(rows) for kind, rows in found.items()}


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    lost = [row["lost_logprob"] for row in rows]
    return {
        "places": len(rows),
        "saved_tokens_mean": round(statistics.mean(row["saved_tokens"] for row in rows), 1),
        "same_greedy_line": sum(bool(row["same_line"]) for row in rows),
        "right_lines_fresh": sum(bool(row["fresh_right"]) for row in rows),
        "right_lines_shifted": sum(bool(row["shifted_right"]) for row in rows),
        "lost_logprob_mean": round(statistics.mean(lost), 3),
        "lost_logprob_most": round(max(lost), 3),
        "worse_by_a_nat": sum(value > 1 for value in lost),
        "better_by_a_nat": sum(value < -1 for value in lost),
        "next_token_divergence_mean": round(statistics.mean(row["divergence"] for row in rows), 4),
        "next_token_divergence_most": round(max(row["divergence"] for row in rows), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--places", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    heading, path = head("shifting"), resolve(options.model)
    kinds = measure(path, options.places, options.threads, options.seed)
    settings = {
        "model": path.name,
        "seed": options.seed,
        "prompt_tokens": PROMPT_TOKENS,
        "deleted_lines": DELETED_LINES,
        "answer_tokens": ANSWER_TOKENS,
    }
    publish({**heading, "settings": settings, **kinds}, RESULT, save=options.save)


if __name__ == "__main__":
    main()
