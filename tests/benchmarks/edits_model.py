"""The model's part of the next-edit benchmark: its edits on chains and quiet moments.

A random sample of both, by a stated seed; every moment is requested in two formats, once each.
Reported for each format, without the gate, with it, and for rules and gate together:

- exact, position: of all chains, those whose last change was predicted, or its place;
- show_rate: of all chains, the share with an edit; precision: of these edits, the share that
  brought the file nearer to the newer release;
- deltaChrF (n up to 6, beta 2): `delta_chr_f` is the mean over the edits that are shown, as
  cursortab reports it, `delta_chr_f_of_all` over all chains, 0 for those without an edit;
- quiet_rate: of the quiet moments, the share without an edit;
- levels: the same of the gated model at the thresholds of its family, by level;
- tokens evaluated and decoded, batches that decode, and time.

Some of the first answers are generated again, whole: without drafts, and with them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from edits import Chain, applied, delta_chr_f, is_quiet, is_right, shown, state

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec
from assistant.models import vocabulary
from context.edits import NextEdit, Scene, gate, model_edits
from context.edits.model_edits import Answer, AnswerToken, EditPrompt, Format
from context.syntax.document import Document
from context.syntax.text import Encoder

FORMATS = ("generic", "sweep")
PROMPT_TOKENS = 768
_IDS = itertools.count(1)
_DECODED_AGAIN_EVERY, _DECODED_AGAIN_UP_TO = 8, 24
_MOST_QUIET = 200


@dataclass(frozen=True)
class Moment:
    """A chain after some changes: what the user sees then."""

    chain: Chain
    lines: list[str]
    scene: Scene
    last: int

    def worth(self, edit: NextEdit, confidence: float) -> float:
        moment = gate.Moment(
            self.chain.path,
            self.scene.text,
            self.last,
            self.scene.hunks,
            confidence=confidence,
        )
        return gate.judge(edit, moment).worth


@dataclass(frozen=True)
class Cost:
    """What an answer took.

    Attributes:
        evaluated, generated, steps: tokens of the prompt and of the answer, and batches for these.
        settled: it was ended after its first change.
    """

    evaluated: int = 0
    generated: int = 0
    steps: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    settled: bool = False


@dataclass(frozen=True)
class Made:
    """What the model made of a moment.

    Attributes:
        worth: of the edit, as the gate judges it; 0 for none.
        again: the cost of the whole answer with drafts and without, and whether both texts are the
            same; None where that was not compared.
    """

    edit: NextEdit | None
    worth: float
    cost: Cost
    again: tuple[Cost, Cost, bool] | None


def moment(chain: Chain, count: int) -> Moment | None:
    lines, history, last = state(chain, count)
    document = Document("", chain.path, "\n".join(lines))
    source = document.source
    if source is None or not history.hunks:
        return None
    cursor = sum(len(line) + 1 for line in lines[:last])
    return Moment(chain, lines, Scene(document, source, cursor, history.hunks), last)


class _Notes:
    """What was measured so far, a line for each answer: a run that was cut is taken up again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[str, ...], dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                row = json.loads(line)
                self._known[tuple(row["key"])] = row

    def find(self, *key: str) -> dict[str, Any] | None:
        return self._known.get(key)

    def add(self, *key: str, **values: Any) -> dict[str, Any]:
        row = {"key": key, **values}
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row


class Model:
    """A model in a worker of its own."""

    def __init__(self, path: Path) -> None:
        words = vocabulary.load(path)
        self._words, self.count = words, Encoder(words).count
        self._start = [words.bos] if words.add_bos else []
        self.engine = LlamaEngine()

    def fits(self, chain: Chain, count: int) -> bool:
        """Whether every format has a prompt for a chain after so many changes."""
        seen = moment(chain, count)
        return seen is not None and all(
            model_edits.prompt_for(
                seen.scene, model_edits.formats()[name], PROMPT_TOKENS, self.count
            )
            for name in FORMATS
        )

    async def answer(
        self, prompt: EditPrompt, *, speculate: bool = True, whole: bool = False
    ) -> tuple[Answer, Cost]:
        """Its answer and the cost; `whole`: not ended after the first change."""
        request = GenerateRequest(
            id=str(next(_IDS)),
            prompt=tuple(prompt.ids(self._start, self._words.special, self._words.encode)),
            max_tokens=model_edits.answer_tokens(prompt, self.count),
            stop=prompt.stop,
            speculate=speculate,
            exact_drafts=False,
            logprobs=0,
        )
        made = Answer(prompt)
        before = await self.engine.stats()
        started = first = time.perf_counter()
        stream = cast("AsyncGenerator[Delta | Done, None]", self.engine.generate(request))
        async with aclosing(stream) as events:
            async for event in events:
                if first == started:
                    first = time.perf_counter()
                if isinstance(event, Delta):
                    tokens = [AnswerToken(one.text, one.logprob) for one in event.logprobs]
                    if made.add(event.text, tokens) and not whole:
                        break
        ended = time.perf_counter()
        after = await self.engine.stats()
        generated = after.generated_tokens - before.generated_tokens
        accepted = after.accepted_tokens - before.accepted_tokens
        cost = Cost(
            after.evaluated_tokens - before.evaluated_tokens,
            generated,
            generated - accepted,
            first - started,
            ended - first,
            made.settled,
        )
        return made, cost

    async def made(
        self, seen: Moment, form: Format, notes: _Notes, *, again: bool, ends: float
    ) -> Made | None:
        """None where the prompt does not fit, or the time is over (`ends`, monotonic).

        Args:
            again: generate the whole answer twice more, with and without drafts.
        """
        prompt = model_edits.prompt_for(seen.scene, form, PROMPT_TOKENS, self.count)
        if prompt is None:
            return None
        key = (form.name, f"{seen.chain.name} {seen.chain.path}", str(len(seen.scene.hunks)))
        row = notes.find(*key)
        if row is None:
            if time.monotonic() > ends:
                return None
            found, cost = await self.answer(prompt)
            compared = None
            if again:
                plain, without = await self.answer(prompt, speculate=False, whole=True)
                full, drafted = await self.answer(prompt, whole=True)
                compared = [asdict(drafted), asdict(without), plain.text == full.text]
            row = notes.add(
                *key,
                text=found.text,
                confidence=model_edits.confidence(found),
                cost=asdict(cost),
                again=compared,
            )
            print(form.name, *key, row["cost"], file=sys.stderr)
        edit = model_edits.edit_in(prompt, row["text"], seen.scene)
        worth = seen.worth(edit, row["confidence"]) if edit is not None else 0.0
        comparison = None
        if row["again"] is not None:
            drafted_cost, plain_cost, same = row["again"]
            comparison = Cost(**drafted_cost), Cost(**plain_cost), bool(same)
        return Made(edit, worth, Cost(**row["cost"]), comparison)


def report(
    kind: str,
    last: Sequence[tuple[Moment, NextEdit | None, Made | None]],
    quiet: Sequence[tuple[NextEdit | None, Made | None]],
    *,
    least: float,
) -> dict[str, Any]:
    """The figures of one way to choose among a rule's edit and the model's, with this threshold."""

    def chosen(rule: NextEdit | None, made: Made | None) -> NextEdit | None:
        if kind == "rules":
            return rule
        passes = made is not None and (kind == "model" or made.worth >= least)
        by_model = made.edit if made is not None and passes else None
        return rule or by_model if kind == "rules and gated model" else by_model

    exact = position = right = 0
    scores: list[float] = []
    for seen, rule, made in last:
        edit = chosen(rule, made)
        if edit is None:
            continue
        before, goal = "\n".join(seen.lines), "\n".join(seen.chain.new)
        after_lines = applied(edit, seen.lines)
        after = "\n".join(after_lines)
        exact += after == goal
        right += is_right(seen.chain, seen.lines, after_lines)
        line = before.count("\n", 0, edit.start)
        shift = len(seen.lines) - len(seen.chain.old)
        target = seen.chain.changes[-1]
        position += target[0] + shift - 1 <= line <= target[1] + shift
        scores.append(delta_chr_f(before, goal, after))
    silent = sum(chosen(rule, made) is None for rule, made in quiet)
    count = len(scores)
    return {
        "edits": count,
        "show_rate": round(count / len(last), 3) if last else None,
        "precision": round(right / count, 3) if count else None,
        "exact": exact,
        "position": position,
        "delta_chr_f": round(statistics.mean(scores), 1) if scores else None,
        "delta_chr_f_of_all": round(sum(scores) / len(last), 1) if last else None,
        "quiet_rate": round(silent / len(quiet), 3) if quiet else None,
    }


@dataclass
class _Seen:
    """What is known of one format."""

    last: list[tuple[Moment, NextEdit | None, Made | None]]
    quiet: list[tuple[NextEdit | None, Made | None]]

    @property
    def made(self) -> list[Made]:
        last, quiet = [one[2] for one in self.last], [one[1] for one in self.quiet]
        return [one for one in (*last, *quiet) if one is not None]


async def _measure(
    found: Sequence[Chain], limit: int, path: Path, *, seed: int, minutes: float, notes: _Notes
) -> dict[str, Any]:
    rng = random.Random(seed)
    mixed = rng.sample(found, len(found))
    model = Model(path)
    chains = itertools.islice((c for c in mixed if model.fits(c, len(c.changes) - 1)), limit)
    quiet = (c for c in mixed if is_quiet(c) and model.fits(c, 1))
    silent = itertools.islice(quiet, min(limit, _MOST_QUIET))
    results = {name: _Seen([], []) for name in FORMATS}
    ends = time.monotonic() + 60 * minutes
    counts = [0, 0]
    try:
        await model.engine.load(LoadSpec(path=str(path), n_ctx=4096, n_outputs_max=32))
        # In turn, so that a run that is out of time has some of each.
        for number, chain in enumerate(itertools.chain(*itertools.zip_longest(chains, silent))):
            if chain is None or time.monotonic() > ends + 60:
                continue
            is_last = number % 2 == 0
            step = len(chain.changes) - 1 if is_last else 1
            seen, rule = moment(chain, step), shown(chain, step)[0]
            assert seen is not None
            again = number // 2 % _DECODED_AGAIN_EVERY == number % 2
            again = again and number // 2 <= _DECODED_AGAIN_UP_TO
            made = {
                name: await model.made(
                    seen, model_edits.formats()[name], notes, again=again, ends=ends
                )
                for name in FORMATS
            }
            if None in made.values():
                continue
            counts[number % 2] += 1
            for name, result in results.items():
                if is_last:
                    result.last.append((seen, rule, made[name]))
                else:
                    result.quiet.append((rule, made[name]))
    finally:
        await model.engine.close()
    return {
        "settings": {
            "model": path.name,
            "prompt_tokens": PROMPT_TOKENS,
            "level": "normal",
            "sample": "random",
            "seed": seed,
        },
        "chains": counts[0],
        "quiet_moments": counts[1],
        **{name: _figures(one, model_edits.formats()[name]) for name, one in results.items()},
    }


def _figures(seen: _Seen, form: Format) -> dict[str, Any]:
    kinds = ("rules", "model", "gated model", "rules and gated model")
    costs = [one.cost for one in seen.made]
    again = [(one.cost, *one.again) for one in seen.made if one.again is not None]
    normal = form.thresholds[gate.Level.NORMAL]
    found: dict[str, Any] = {
        kind: report(kind, seen.last, seen.quiet, least=normal) for kind in kinds
    }
    found["levels"] = {
        level: report("gated model", seen.last, seen.quiet, least=least)
        for level, least in form.thresholds.items()
    }
    found["requests"] = len(costs)
    if costs:
        found |= {
            "tokens_evaluated": round(statistics.mean(one.evaluated for one in costs)),
            "tokens_decoded": round(statistics.mean(one.generated for one in costs)),
            "decode_steps": round(statistics.mean(one.steps for one in costs), 1),
            "ended_after_first_change": sum(one.settled for one in costs),
            "prefill_s_median": round(statistics.median(one.prefill_s for one in costs), 2),
            "decode_s_median": round(statistics.median(one.decode_s for one in costs), 2),
        }
    if again:
        ended, drafted, plain, same = zip(*again, strict=True)

        def times(value: str, of: Sequence[Cost]) -> float:
            total = float(sum(getattr(one, value) for one in of))
            whole = float(sum(getattr(one, value) for one in plain))
            return round(whole / max(total, 1e-9), 2)

        found["without_drafts"] = {
            "compared": len(plain),
            "same_text": sum(same),
            "decode_s": round(sum(one.decode_s for one in plain), 1),
            "drafted_decode_s": round(sum(one.decode_s for one in drafted), 1),
            "ended_decode_s": round(sum(one.decode_s for one in ended), 1),
            "steps_ratio_with_drafts": times("steps", drafted),
            "time_ratio_with_drafts": times("decode_s", drafted),
            "steps_ratio_with_drafts_ended_after_first_change": times("steps", ended),
            "time_ratio_with_drafts_ended_after_first_change": times("decode_s", ended),
        }
    return found


def measure(
    found: Sequence[Chain],
    limit: int,
    path: Path,
    *,
    seed: int = 1,
    minutes: float = 60,
    notes: Path | None = None,
) -> dict[str, Any]:
    """The figures of a model on at most `limit` chains and as many quiet moments."""
    return asyncio.run(
        _measure(found, limit, path, seed=seed, minutes=minutes, notes=_Notes(notes))
    )
