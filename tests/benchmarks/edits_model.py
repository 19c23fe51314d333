"""The model's part of the next-edit benchmark: its edits on the same chains and quiet moments.

Every moment is asked in two formats. Reported for each, with and without the gate, and for rules
and gate together: exact last changes, deltaChrF and position, the share of quiet moments without an
edit, tokens evaluated and decoded, and the time. Some answers are decoded again without drafts: the
texts have to be equal, and the ratio of the times is the gain.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edits import Chain, applied, delta_chr_f, is_quiet, shown, state

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, GenerateRequest, LoadSpec, Timings
from assistant.models import vocabulary
from context.edits import gate, model_edits
from context.edits.model_edits import AnswerToken, EditPrompt, Format
from context.edits.types import NextEdit, Scene
from context.syntax.document import Document
from context.syntax.text import Encoder

FORMATS = ("generic", "sweep")
PROMPT_TOKENS = 1024
_IDS = itertools.count(1)
_WITHOUT_DRAFTS_EVERY = 5


@dataclass(frozen=True)
class Moment:
    """A chain after some changes: what the user sees then."""

    chain: Chain
    lines: list[str]
    scene: Scene
    last: int

    def judged(self, edit: NextEdit, confidence: float) -> bool:
        moment = gate.Moment(
            self.chain.path,
            self.scene.text,
            self.last,
            self.scene.hunks,
            confidence=confidence,
        )
        return gate.judge(edit, moment).passes(gate.Level.NORMAL)


@dataclass(frozen=True)
class Made:
    """What the model made of a moment."""

    prompt: EditPrompt
    edit: NextEdit | None
    passes: bool
    timings: Timings
    text: str


def moment(chain: Chain, count: int) -> Moment | None:
    lines, history, last = state(chain, count)
    document = Document("", chain.path, "\n".join(lines))
    source = document.source
    if source is None or not history.hunks:
        return None
    cursor = sum(len(line) + 1 for line in lines[:last])
    return Moment(chain, lines, Scene(document, source, cursor, history.hunks), last)


class Model:
    """A model in a worker of its own."""

    def __init__(self, path: Path) -> None:
        words = vocabulary.load(path)
        self._words, self._count = words, Encoder(words).count
        self._start = [words.bos] if words.add_bos else []
        self.engine = LlamaEngine()

    async def answer(
        self, prompt: EditPrompt, *, speculate: bool = True, max_tokens: int | None = None
    ) -> tuple[str, list[AnswerToken], Timings]:
        """Its answer, the tokens of it, and the cost."""
        ids = list(self._start)
        for part in prompt.parts(self._words.special):
            ids += [part] if isinstance(part, int) else self._words.encode(part)
        most = model_edits.answer_tokens(prompt, self._count)
        request = GenerateRequest(
            id=str(next(_IDS)),
            prompt=tuple(ids),
            max_tokens=most if max_tokens is None else max_tokens,
            stop=prompt.stop,
            speculate=speculate,
            logprobs=0,
        )
        text, tokens = "", list[AnswerToken]()
        async for event in self.engine.generate(request):
            if isinstance(event, Delta):
                text += event.text
                tokens += [AnswerToken(one.text, one.logprob) for one in event.logprobs]
            else:
                return text, tokens, event.timings
        raise AssertionError("no end")

    async def made(self, seen: Moment, form: Format) -> Made | None:
        """None where the prompt does not fit."""
        prompt = model_edits.prompt_for(seen.scene, form, PROMPT_TOKENS, self._count)
        if prompt is None:
            return None
        text, tokens, timings = await self.answer(prompt)
        edit = model_edits.edit_in(prompt, text, seen.scene)
        passes = edit is not None and seen.judged(edit, model_edits.confidence(prompt, tokens))
        return Made(prompt, edit, passes, timings, text)


def report(
    kind: str,
    last: Sequence[tuple[Moment, NextEdit | None, Made | None]],
    quiet: Sequence[tuple[NextEdit | None, Made | None]],
) -> dict[str, Any]:
    """The figures of one way to choose among a rule's edit and the model's."""

    def chosen(rule: NextEdit | None, made: Made | None) -> NextEdit | None:
        if kind == "rules":
            return rule
        by_model = made.edit if made is not None and (made.passes or kind == "model") else None
        return rule or by_model if kind == "rules and gated model" else by_model

    exact = position = count = 0
    scores: list[float] = []
    for seen, rule, made in last:
        edit = chosen(rule, made)
        before, goal = "\n".join(seen.lines), "\n".join(seen.chain.new)
        if edit is None:
            scores.append(0.0)
            continue
        count += 1
        after = "\n".join(applied(edit, seen.lines))
        exact += after == goal
        line = before.count("\n", 0, edit.start)
        shift = len(seen.lines) - len(seen.chain.old)
        target = seen.chain.changes[-1]
        position += target[0] + shift - 1 <= line <= target[1] + shift
        scores.append(delta_chr_f(before, goal, after))
    silent = sum(chosen(rule, made) is None for rule, made in quiet)
    return {
        "edits": count,
        "exact": exact,
        "position": position,
        "delta_chr_f_of_all": round(statistics.mean(scores), 1) if scores else None,
        "quiet_rate": round(silent / len(quiet), 3) if quiet else None,
    }


def spread(found: Sequence[Chain], limit: int) -> list[Chain]:
    """At most `limit` of them, evenly taken."""
    return list(found[:: max(1, len(found) // limit)][:limit])


async def _measure(found: Sequence[Chain], limit: int, path: Path) -> dict[str, Any]:
    chains = spread([one for one in found if moment(one, len(one.changes) - 1)], limit)
    silent = spread([one for one in found if is_quiet(one) and moment(one, 1)], limit)
    result: dict[str, Any] = {
        "settings": {"model": path.name, "prompt_tokens": PROMPT_TOKENS, "level": "normal"},
        "chains": len(chains),
        "quiet_moments": len(silent),
    }
    model = Model(path)
    try:
        spec = LoadSpec(path=str(path), n_ctx=4096, n_outputs_max=32)
        await model.engine.load(spec)
        for name in FORMATS:
            form = model_edits.formats()[name]
            result[name] = await _with_format(model, form, chains, silent)
    finally:
        await model.engine.close()
    return result


async def _with_format(
    model: Model, form: Format, chains: Sequence[Chain], silent: Sequence[Chain]
) -> dict[str, Any]:
    last, quiet, answers = [], [], list[Made]()
    compared = same = 0
    plain_ms = drafted_ms = 0.0
    for number, chain in enumerate([*chains, *silent]):
        count = len(chain.changes) - 1 if number < len(chains) else 1
        seen = moment(chain, count)
        assert seen is not None
        made = await model.made(seen, form)
        rule = shown(chain, count)[0]
        if number < len(chains):
            last.append((seen, rule, made))
        else:
            quiet.append((rule, made))
        if made is None:
            continue
        answers.append(made)
        print(form.name, number, made.timings, made.passes, file=sys.stderr)
        if number % _WITHOUT_DRAFTS_EVERY == 0:
            text, _, timings = await model.answer(made.prompt, speculate=False)
            compared, same = compared + 1, same + (text == made.text)
            plain_ms += timings.decode_ms
            drafted_ms += made.timings.decode_ms
    costs = [one.timings for one in answers]
    kinds = ("rules", "model", "gated model", "rules and gated model")
    return {kind: report(kind, last, quiet) for kind in kinds} | {
        "asked": len(answers),
        "tokens_evaluated": round(statistics.mean(one.evaluated_tokens for one in costs)),
        "tokens_decoded": round(statistics.mean(one.generated_tokens for one in costs)),
        "accepted_share": round(
            sum(one.accepted_tokens for one in costs)
            / max(1, sum(one.generated_tokens for one in costs)),
            3,
        ),
        "prefill_s_median": round(statistics.median(one.prefill_ms for one in costs) / 1000, 2),
        "decode_s_median": round(statistics.median(one.decode_ms for one in costs) / 1000, 2),
        "without_drafts": {
            "compared": compared,
            "same_text": same,
            "decoding_takes_times": round(plain_ms / max(drafted_ms, 1e-9), 2),
        },
    }


def measure(found: Sequence[Chain], limit: int, path: Path) -> dict[str, Any]:
    """The figures of a model on at most `limit` chains and as many quiet moments."""
    return asyncio.run(_measure(found, limit, path))
