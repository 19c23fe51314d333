"""The runner on a real model: what is reused, who yields, how soon it ends, what speculation says.

Counts only: tokens evaluated, steps taken, texts compared.
"""

from __future__ import annotations

import asyncio
import json
import math
import platform
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from msgspec.structs import replace
from running import Bench, running

from assistant.daemon.http import tool_calls
from assistant.daemon.http.tool_calls import grammar
from assistant.engine.local import LlamaEngine
from assistant.engine.types import (
    Constraint,
    Delta,
    GenerateRequest,
    LoadSpec,
    Priority,
    StopReason,
    Timings,
)
from assistant.engine.worker import slots, speculation, token_generation
from assistant.engine.worker.job import Job
from assistant.engine.worker.scheduler import PREFILL_CHUNK
from assistant.engine.worker.speculation import FEW_ROWS
from assistant.errors import ContextFullError, RequestError
from assistant.llama.context import DecodeStatus
from assistant.llama.model import Model
from assistant.llama.structs import Span
from assistant.memory.gguf.header import read_header
from assistant.memory.model.architecture import CacheParams, model_memory, state_bytes

pytestmark = pytest.mark.model

CODE = """\
class Stock:
    def __init__(self) -> None:
        self.items: dict[str, int] = {}

    def add(self, name: str, count: int) -> None:
        self.items[name] = self.items.get(name, 0) + count

    def remove(self, name: str, count: int) -> None:
"""
LONG = CODE * 2
EDIT = (
    "<|im_start|>user\nWrite this again, with every `name` renamed to `key`:\n"
    f"```python\n{CODE}        self.items[name] -= count\n```<|im_end|>\n"
    "<|im_start|>assistant\n```python\n"
)


@pytest.fixture(scope="module")
def model(dense_model: Path) -> Iterator[Model]:
    loaded = Model(LoadSpec(path=str(dense_model)))
    yield loaded
    loaded.free()


@pytest.fixture
def bench(model: Model, dense_model: Path) -> Iterator[Bench]:
    with running(dense_model, model=model) as made:
        yield made


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row costs is not learnt from a machine that other tests keep busy."""
    monkeypatch.setattr(speculation.Pace, "took", lambda *_: None)


# What is reused.


def test_typing_along_evaluates_what_was_typed(bench: Bench) -> None:
    first = bench.answer(CODE, 4)
    assert (first.timings.cached_tokens, first.timings.evaluated_tokens) == (
        0,
        first.timings.prompt_tokens,
    )
    typed = bench.answer(f"{CODE}        if name", 4)
    assert typed.timings.evaluated_tokens <= 4
    back = bench.answer(CODE, 4)
    assert back.timings.evaluated_tokens == 1
    assert back.tokens == first.tokens


def test_a_slot_in_use_lends_its_start_without_evaluating_it(bench: Bench) -> None:
    busy = bench.ask(LONG, 40, priority=Priority.EXPLAIN)
    bench.until(lambda: bool(bench.heard[busy].tokens))
    other = bench.answer(f"{LONG}        del", 2)
    common = len(bench.model.tokenise(LONG))
    assert other.timings.cached_tokens >= common - 2
    assert other.timings.evaluated_tokens <= 4
    bench.finish()
    assert bench.heard[busy].timings.evaluated_tokens == common


def test_several_answers_to_one_prompt_evaluate_it_once(bench: Bench) -> None:
    ids = bench.model.tokenise(LONG)
    names = [bench.ask(ids, 4, document=f"candidate {number}") for number in range(3)]
    bench.finish()
    evaluated = [bench.heard[name].timings.evaluated_tokens for name in names]
    assert evaluated == [len(ids), 1, 1]


def test_an_answer_does_not_wait_for_a_prompt_that_was_given_up(bench: Bench) -> None:
    ids = bench.model.tokenise(LONG)
    first, second = bench.ask(ids, 4, document="a"), bench.ask(ids, 4, document="b")
    bench.runner.step()
    bench.runner.cancel(first)
    bench.until(lambda: bench.heard[second].done is not None)
    timings = bench.heard[second].timings
    assert 0 < timings.cached_tokens < timings.evaluated_tokens
    assert timings.cached_tokens + timings.evaluated_tokens == len(ids)


def test_an_answer_does_not_wait_for_another_prompt(bench: Bench) -> None:
    ids = bench.model.tokenise(LONG)
    other = [*reversed(ids)]
    names = [bench.ask(ids, 4, document="a"), bench.ask(other, 4, document="b")]
    bench.runner.step()
    assert sum(slot.busy for slot in bench.runner.slots) == 2
    bench.finish()
    evaluated = [bench.heard[name].timings.evaluated_tokens for name in names]
    assert evaluated == [len(ids), len(other)]


def test_a_request_that_uses_no_cache_does_not_wait(bench: Bench) -> None:
    ids = bench.model.tokenise(LONG)
    names = [bench.ask(ids, 4, document=name, cache=False) for name in "ab"]
    bench.finish()
    evaluated = [bench.heard[name].timings.evaluated_tokens for name in names]
    assert evaluated == [len(ids), len(ids)]


def test_shared_cells_hold_what_evaluation_would_give(
    bench: Bench, model: Model, dense_model: Path
) -> None:
    bench.answer(LONG, 2)
    prompt = f"{LONG}        self."
    shared = bench.answer(prompt, 8)
    with running(dense_model, model=model) as fresh:
        evaluated = fresh.answer(prompt, 8)
    assert shared.timings.cached_tokens > 0 == evaluated.timings.cached_tokens
    assert shared.tokens == evaluated.tokens


def test_room_is_made_by_forgetting_what_was_used_longest_ago(
    model: Model, dense_model: Path
) -> None:
    with running(dense_model, model=model, n_ctx=256) as bench:
        texts = [f"# {number}\n{CODE}" for number in range(4)]
        for text in texts:
            bench.answer(text, 2)
        assert bench.runner.slots.cells_used <= bench.context.n_cells == 256
        assert bench.answer(texts[-1], 2).timings.evaluated_tokens == 1
        assert bench.answer(texts[0], 2).timings.evaluated_tokens > 50


def test_what_asks_for_no_cache_leaves_nothing(bench: Bench) -> None:
    bench.answer(CODE, 2, cache=False)
    assert bench.runner.slots.cells_used == 0


def test_requests_that_can_never_be_answered_are_refused(bench: Bench) -> None:
    with pytest.raises(ContextFullError):
        bench.ask(CODE, 5000)
    for prompt in ([], [-1], [10**6]):
        with pytest.raises(RequestError):
            bench.ask(prompt)


# Who yields.


def test_an_explanation_yields_and_goes_on_without_loss(bench: Bench) -> None:
    undisturbed = bench.answer(LONG, 24, priority=Priority.EXPLAIN, cache=False)
    told = bench.ask(LONG, 24, priority=Priority.EXPLAIN, cache=False)
    bench.until(lambda: len(bench.heard[told].tokens) >= 5)
    said = len(bench.heard[told].tokens)
    asked = bench.ask(f"{CODE}        self.", 6)
    bench.until(lambda: bench.heard[asked].done is not None)
    assert len(bench.heard[told].tokens) == said  # not a token in between
    assert bench.heard[told].done is None
    bench.finish()
    assert bench.heard[told].tokens == undisturbed.tokens
    assert bench.heard[told].timings.evaluated_tokens == undisturbed.timings.prompt_tokens


def test_on_a_gpu_an_explanation_goes_on_in_the_same_batches(bench: Bench) -> None:
    bench.runner.together = True
    told = bench.ask(LONG, 24, priority=Priority.EXPLAIN, speculate=False)
    bench.until(lambda: len(bench.heard[told].tokens) >= 3)
    said = len(bench.heard[told].tokens)
    asked = bench.ask(f"{CODE}        self.", 6, speculate=False)
    steps = bench.until(lambda: bench.heard[asked].done is not None)
    assert said + 6 <= len(bench.heard[told].tokens) <= said + steps
    bench.finish()
    assert bench.heard[told].timings.generated_tokens == 24


def test_a_prompt_being_read_yields_and_keeps_what_was_read(bench: Bench) -> None:
    told = bench.ask(LONG, 1, priority=Priority.BACKGROUND)
    bench.runner.step()
    bench.answer(f"x = 1\n{CODE}", 4)
    bench.finish()
    assert bench.heard[told].timings.evaluated_tokens == bench.heard[told].timings.prompt_tokens


# How soon it ends.


def test_a_cancelled_answer_ends_before_its_next_token(bench: Bench) -> None:
    asked = bench.ask(CODE, 40, speculate=False)
    bench.until(lambda: len(bench.heard[asked].tokens) == 3)
    bench.runner.cancel(asked)
    bench.runner.step()
    heard = bench.heard[asked]
    assert heard.done is not None and heard.done.reason is StopReason.CANCELLED
    assert len(heard.tokens) == heard.timings.generated_tokens == 3


def test_a_cancelled_prompt_ends_within_the_batch_that_runs(bench: Bench) -> None:
    """The flag is raised by another thread once the batch is being computed."""
    asked = bench.ask(LONG, 4)
    bench.runner.step()
    read = bench.runner.slots.cells_used
    assert read == PREFILL_CHUNK
    decode = bench.context.decode

    def cancelled_meanwhile(spans: Sequence[Span]) -> DecodeStatus:
        timer = threading.Timer(0.005, bench.runner.cancel, (asked,))
        timer.start()
        return decode(spans)

    bench.context.decode = cancelled_meanwhile  # type: ignore[method-assign]
    bench.until(lambda: bench.heard[asked].done is not None, most=3)
    assert bench.heard[asked].timings.evaluated_tokens == read  # the batch was not finished
    bench.context.decode = decode  # type: ignore[method-assign]
    again = bench.answer(LONG, 1)
    assert again.timings.cached_tokens == read  # what was whole is kept


def test_a_batch_that_is_overtaken_before_it_begins_is_not_evaluated(bench: Bench) -> None:
    asked = bench.ask(LONG, 4)
    admit = bench.runner._admit

    def admitted(job: object) -> None:
        admit(job)  # type: ignore[arg-type]
        bench.runner.cancel(asked)

    bench.runner._admit = admitted  # type: ignore[method-assign]
    bench.runner.step()
    assert bench.runner.slots.cells_used == 0
    bench.finish()
    assert bench.heard[asked].timings.evaluated_tokens == 0


def test_the_newest_request_of_a_document_wins(bench: Bench) -> None:
    names = [bench.ask(f"{CODE}{'x' * n}", 20, document="a.py") for n in range(1, 6)]
    other = bench.ask(CODE, 2, document="b.py")
    bench.finish()
    reasons = [bench.heard[name].done.reason for name in names]  # type: ignore[union-attr]
    assert reasons[:-1] == [StopReason.CANCELLED] * 4
    assert reasons[-1] is not StopReason.CANCELLED
    assert bench.heard[other].tokens


def test_time_ends_an_answer_with_what_there_is(bench: Bench) -> None:
    heard = bench.answer(CODE, 200, time_limit_ms=1)
    assert heard.done is not None and heard.done.reason is StopReason.TIME


# What comes out.


def test_token_healing_begins_with_what_was_typed(bench: Bench) -> None:
    heard = bench.answer(f"{CODE}        self.items[name", 6, must_start_with="] -")
    assert heard.text.startswith("] -")
    inside = bench.answer(f"{CODE}        self", 4, must_start_with=".ite")
    assert inside.text.startswith(".items")


def test_a_typed_word_is_cut_as_the_tokenizer_cuts_it() -> None:
    """Not into tokens that merely fit, from which models write on badly: `ite` of `item`."""
    words = [b"x", b"i", b"ite", b"item", b"items", b"m", b"ms ", b"item"]
    pieces = token_generation.Pieces(words.__getitem__, len(words))

    def agreeing(start: bytes, first_choice: int = 0) -> list[bytes]:
        logits = np.zeros(len(words))
        logits[first_choice] = 1
        found = pieces.agreeing(start, logits)
        return [] if found is None else [words[token] for token in found]

    assert agreeing(b"item") == [b"item", b"items", b"item"]
    assert agreeing(b"it") == [b"ite", b"item", b"items", b"item", b"i"]
    assert agreeing(b"it", first_choice=4) == [b"ite", b"item", b"items", b"item", b"i"]
    assert agreeing(b"items of") == [b"items"]
    assert agreeing(b"item", first_choice=2) == [b"item", b"items", b"item", b"ite"]
    assert agreeing(b"items of", first_choice=1) == [b"i", b"items"]
    assert pieces.agreeing(b"", np.zeros(8)) is None and agreeing(b"z") == []


def test_the_bytes_of_tokens_are_read_before_the_first_request(model: Model, bench: Bench) -> None:
    assert bench.runner.busy
    bench.finish()
    read: list[int] = []

    def piece(token: int) -> bytes:
        read.append(token)
        return model.piece(token)

    bench.runner._generator.pieces._piece = piece
    bench.answer(f"{CODE}        self", 4, must_start_with=".ite")
    assert not read


def test_the_bytes_of_each_token_are_read_once() -> None:
    words = [b"a", b"", b"ab", b"a", b"b"]
    read: list[int] = []

    def piece(token: int) -> bytes:
        read.append(token)
        return words[token]

    pieces = token_generation.Pieces(piece, len(words))
    pieces.read(2)
    assert read == [0, 1]
    logits = np.array([0.0, 0.0, 1.0, 0.0, 0.0])
    found = pieces.agreeing(b"a", logits)
    assert found is not None and [*found] == [0, 2, 3]
    pieces.read()
    assert pieces.complete and read == [0, 1, 2, 3, 4]
    assert token_generation.Pieces(words.__getitem__, 0).complete


@pytest.mark.parametrize("typed", ["", ".ite"])
def test_a_line_that_is_not_wanted_is_left(bench: Bench, typed: str) -> None:
    prompt = f"{CODE}        self" if typed else CODE
    plain = bench.answer(prompt, 24, must_start_with=typed)
    line = plain.text.split("\n")[0]
    other = bench.answer(prompt, 24, must_start_with=typed, unlike=line)
    assert other.text.split("\n")[0] not in {"", line}
    assert other.text.startswith(typed)
    slot = next(slot for slot in bench.runner.slots if slot.tokens)
    assert bench.context.last(slot.number) == len(slot.tokens) - 1
    said = len(slot.tokens) - len(bench.model.tokenise(prompt))
    assert slot.tokens[-said:] == other.tokens[:said]
    again = bench.answer([*slot.tokens], 4, speculate=False)
    assert again.timings.evaluated_tokens == 1  # the cells are those of what was said


@pytest.mark.parametrize("cut", [0, 3])
def test_a_line_that_the_model_does_not_say_changes_nothing(bench: Bench, cut: int) -> None:
    plain = bench.answer(CODE, 24)
    line = plain.text.split("\n")[0]
    unlike = f"{line} + 1" if not cut else line[:-cut]
    other = bench.answer(CODE, 24, unlike=unlike)
    assert (other.tokens, other.text) == (plain.tokens, plain.text)
    assert other.timings.generated_tokens == plain.timings.generated_tokens


@pytest.mark.parametrize("limit", [1, 4])
def test_an_answer_that_is_cut_short_within_the_line_is_said(bench: Bench, limit: int) -> None:
    plain = bench.answer(CODE, limit)
    line = bench.answer(CODE, 24).text.split("\n")[0]
    other = bench.answer(CODE, limit, unlike=line)
    assert (other.tokens, other.text) == (plain.tokens, plain.text)
    assert other.done is not None and other.done.reason is StopReason.LENGTH


@pytest.mark.parametrize("prompt", [EDIT, LONG, CODE, f"{LONG}        self.items"])
def test_speculation_says_the_same(bench: Bench, prompt: str) -> None:
    bench.answer(prompt, 1)  # both find the prompt in the cache
    plain = bench.answer(prompt, 48, speculate=False)
    drafted = bench.answer(prompt, 48)
    assert plain.timings.drafted_tokens == 0
    assert drafted.tokens == plain.tokens
    assert drafted.text == plain.text


FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "method": {"enum": ["add", "remove"]},
        "arguments": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "changes": {"type": "integer", "minimum": 0, "maximum": 9},
        "a_long_name_that_is_forced": {"const": "and a long text, too"},
    },
    "required": ["method", "arguments", "changes", "a_long_name_that_is_forced"],
    "additionalProperties": False,
}
ASK_FORM = (
    f"<|im_start|>user\nDescribe `remove` as JSON:\n{CODE}<|im_end|>\n<|im_start|>assistant\n"
)
HERMES = tool_calls.family_named("hermes")


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    "constraint",
    [
        Constraint(grammar=grammar.of_schema(FORM), at_once=True, ends=True),
        grammar.of_tools(HERMES, {"describe": FORM}, required=False, parallel=True),
    ],
    ids=["schema", "lazy"],
)
def test_drafts_within_a_grammar_say_the_same(bench: Bench, constraint: Constraint) -> None:
    """What the grammar forces is drafted too; the text is that of a run without drafts."""
    given = {"constraint": constraint, "visible_tokens": (151657, 151658)}
    prompt = ASK_FORM if constraint.at_once else f"{ASK_FORM}<tool_call>\n<tool_call>\n"
    most = 64 if constraint.at_once else 24
    plain = bench.answer(prompt, most, speculate=False, **given)
    bench.runner.drafter.pace.row_costs = {2: 0.05}
    drafted = bench.answer(prompt, most, **given)
    assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text)
    if constraint.at_once:
        assert drafted.timings.accepted_tokens > 10
        assert set(json.loads(drafted.text)) == set(FORM["properties"])


@pytest.mark.usefixtures("steady")
def test_an_edit_is_written_in_fewer_steps(bench: Bench) -> None:
    bench.runner.drafter.pace.row_costs = {2: 0.1}
    asked = bench.ask(EDIT, 48)
    steps = bench.until(lambda: bench.heard[asked].done is not None)
    timings = bench.heard[asked].timings
    assert timings.accepted_tokens >= 12
    prompt_steps = -(-timings.prompt_tokens // PREFILL_CHUNK)
    assert steps - prompt_steps < timings.generated_tokens - timings.accepted_tokens // 2


@pytest.mark.usefixtures("steady")
def test_text_besides_the_prompt_is_drafted_from(bench: Bench) -> None:
    """What the answer will say is given, in part and after other code: the text stays the same."""
    prompt = f"def total(counts: list[int]) -> int:\n    {'':2}"
    bench.answer(prompt, 1)  # all find the prompt in the cache
    plain = bench.answer(prompt, 24, speculate=False)
    bench.runner.drafter.pace.row_costs = {2: 0.05}
    rest = tuple(bench.model.tokenise(CODE) + plain.tokens)
    alone = bench.answer(prompt, 24)
    helped = bench.answer(prompt, 24, draft_from=rest)
    assert plain.tokens == alone.tokens == helped.tokens
    assert helped.timings.accepted_tokens > alone.timings.accepted_tokens
    with pytest.raises(RequestError, match="draft_from"):
        bench.ask(prompt, 4, draft_from=(bench.model.facts.n_vocab,))


@pytest.mark.usefixtures("steady")
def test_unchanged_lines_cost_one_step_where_drafts_need_not_be_exact(bench: Bench) -> None:
    """A region that is written again: its lines are drafted from the prompt, many a batch."""
    again = f"File: stock.py\n```\n{CODE}```\n\nThe same file again:\n```\n"
    bench.runner.drafter.pace.row_costs = {2: 0.1}
    asked = bench.ask(again, 48, exact_drafts=False, logprobs=0)
    bench.until(lambda: bool(bench.heard[asked].tokens))
    steps = bench.until(lambda: bench.heard[asked].done is not None)
    heard = bench.heard[asked]
    assert CODE.startswith(heard.text) and heard.text.count("\n") >= 5
    assert steps <= heard.text.count("\n") + 1 and 4 * steps < len(heard.tokens)
    assert bench.runner.drafter.rewritten == 0
    assert len(heard.logprobs) == len(heard.tokens), "the gate needs the probability of each"


def test_a_wrong_draft_leaves_no_trace(bench: Bench) -> None:
    """Whatever is drafted, the cache holds what was said and the text stays the same."""
    plain = bench.answer(CODE, 24, speculate=False, cache=False)
    pace = bench.runner.drafter.pace
    pace.length = lambda draft, *_: min(len(draft.tokens), 4)  # type: ignore[method-assign]
    prompt = bench.model.tokenise(CODE)
    name = bench.ask(CODE, 24)
    job = bench.runner._jobs[name]
    bench.until(lambda: job.lookup is not None)
    assert job.lookup is not None
    lookup = job.lookup.draft
    rubbish = bench.model.tokenise("zebra crossing")

    def wrong(most: int = 99) -> speculation.Draft:
        found = lookup(most)
        return speculation.Draft((*found.tokens[:1], *rubbish)[:most], 8)

    job.lookup.draft = wrong  # type: ignore[method-assign]
    bench.finish()
    heard = bench.heard[name]
    assert heard.timings.drafted_tokens > heard.timings.accepted_tokens
    assert heard.tokens == plain.tokens
    slot = next(slot for slot in bench.runner.slots if slot.tokens)
    assert slot.tokens[: len(prompt)] == prompt
    assert bench.context.last(slot.number) == len(slot.tokens) - 1


def test_what_is_not_believed_is_decided_by_the_bits_that_come_without_drafts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[bytes] = []
    picked = bench.runner._generator._picked

    def noted(job: Job, row: int) -> int:
        decided.append(bench.context.logits(row).tobytes())
        return picked(job, row)

    monkeypatch.setattr(bench.runner._generator, "_picked", noted)
    bench.answer(EDIT, 1)  # both find the prompt in the cache
    decided.clear()
    plain = bench.answer(EDIT, 16, speculate=False)
    without, decided[:] = [*decided], []
    monkeypatch.setattr(speculation, "SURE_MARGIN", math.inf)
    monkeypatch.setattr(token_generation, "SURE_MARGIN", math.inf)
    monkeypatch.setattr(bench.runner.drafter.pace, "length", lambda draft, *_: len(draft.tokens))
    monkeypatch.setattr(bench.runner.drafter.same_bits, "known", lambda *_: False)
    drafted = bench.answer(EDIT, 16)
    assert drafted.timings.drafted_tokens > 0 < bench.runner.drafter.rewritten
    assert drafted.tokens == plain.tokens
    assert decided == without


def fill(bench: Bench, tokens: list[int]) -> None:
    """Evaluate `tokens` as the only ones."""
    bench.context.forget(0, 0)
    for start in range(0, len(tokens), 64):
        part = tokens[start : start + 64]
        assert bench.context.decode([Span(0, start, part, 1)]) is DecodeStatus.DONE


def logits_of(bench: Bench, tokens: list[int], at: int, rows: int) -> list[bytes]:
    """Of each of `tokens`, which stand from `at` on, in batches of `rows`."""
    bench.context.forget(0, at)
    found = []
    for start in range(0, len(tokens), rows):
        part = tokens[start : start + rows]
        assert bench.context.decode([Span(0, at + start, part, len(part))]) is DecodeStatus.DONE
        found += [bench.context.logits(row).tobytes() for row in range(len(part))]
    return found


@pytest.mark.parametrize("cells", [100, 700])
def test_it_is_found_out_which_batches_need_no_margin(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    """By drafts of every length, as they come; the same as a comparison by hand, text unchanged."""
    tokens = bench.model.tokenise(EDIT)
    prompt = (tokens * (cells // len(tokens) + 1))[-cells:]
    plain = bench.answer(prompt, 40, speculate=False)
    lengths = iter([1, 1, 1, 1, 2, 2, 2, 2] * 20)
    pace = bench.runner.drafter.pace
    monkeypatch.setattr(pace, "length", lambda draft, *_: min(next(lengths), len(draft.tokens)))
    drafted = bench.answer(prompt, 40)
    assert drafted.tokens == plain.tokens
    known = {
        rows: bench.runner.drafter.same_bits.known(rows, cells + rows)
        for rows in range(2, FEW_ROWS + 1)
    }
    bench.runner.slots.drop_idle()
    end = bench.model.tokenise(CODE)[:6]
    fill(bench, prompt)
    alone = logits_of(bench, end, cells, 1)
    assert known == {rows: logits_of(bench, end, cells, rows) == alone for rows in known}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other CPUs have other kernels")
def test_this_build_needs_no_margin_for_a_few_rows(bench: Bench) -> None:
    """Attention of one row is computed as that of several, also over many cells: our build of
    llama.cpp does not split the cells of a single row among the threads."""
    tokens = bench.model.tokenise(LONG * 4)[:600]
    fill(bench, tokens)
    end = bench.model.tokenise(CODE)[:6]
    alone = logits_of(bench, end, len(tokens), 1)
    assert [logits_of(bench, end, len(tokens), rows) == alone for rows in (2, 3)] == [True, True]


def test_another_request_is_never_in_a_batch_with_a_draft(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.runner.drafter.pace, "length", lambda draft, *_: len(draft.tokens))
    decode, batches = bench.context.decode, list[list[Span]]()

    def seen(spans: list[Span]) -> DecodeStatus:
        batches.append(spans)
        return decode(spans)

    monkeypatch.setattr(bench.context, "decode", seen)
    names = [bench.ask(EDIT, 40), bench.ask(f"{EDIT}class", 8)]
    bench.finish()
    assert bench.heard[names[0]].timings.drafted_tokens > 0
    for spans in batches:
        drafted = [span for span in spans if span.outputs > 1]
        assert not drafted or len(spans) == 1


def test_sampling_by_chance_drafts_nothing(bench: Bench) -> None:
    from assistant.engine.types import Sampling

    heard = bench.answer(EDIT, 24, sampling=Sampling(temperature=0.8, seed=3))
    assert heard.timings.drafted_tokens == 0


# Memory kinds.


def test_a_recurrent_memory_is_only_ever_extended(tmp_path: Path) -> None:
    with running(tiny_models.recurrent(tmp_path / "m.gguf"), n_ctx=512) as bench:
        assert bench.runner.info(0).reuse == "append"
        prompt = list(range(3, 103))
        first = bench.answer(prompt, 4)
        assert first.timings.evaluated_tokens == 100
        held = [*max((slot.tokens for slot in bench.runner.slots), key=len)]
        assert len(held) > len(prompt)  # the answer as well, in a slot of its own
        longer = bench.answer([*held, 7, 8, 9], 4)
        assert longer.timings.evaluated_tokens == 3
        cut = bench.answer([*prompt[:50], 200], 4)  # it goes back to a checkpoint
        assert (cut.timings.cached_tokens, cut.timings.evaluated_tokens) == (35, 16)
        assert cut.timings.drafted_tokens == 0
        with running(tmp_path / "m.gguf", n_ctx=512) as fresh:
            assert fresh.answer([*held, 7, 8, 9], 4).tokens == longer.tokens
            assert fresh.answer([*prompt[:50], 200], 4).tokens == cut.tokens


WINDOWED = [3 + number * 7 % 250 for number in range(300)]


@pytest.mark.parametrize("swa_full", [True, False])
def test_a_sliding_window_is_cut_where_its_cells_are_still_held(
    tmp_path: Path, swa_full: bool
) -> None:
    """256 cells hold the window of 32 before each of the last 220 tokens or so."""
    path = tiny_models.sliding_window(tmp_path / "m.gguf")
    with running(path, swa_full=swa_full, n_ubatch=64, n_batch=64) as bench:
        assert bench.runner.info(0).reuse == "partial"
        bench.answer(WINDOWED, 4)
        near = [*WINDOWED[:120], 5, 6]
        back = bench.answer(near, 4)
        assert back.timings.evaluated_tokens == 2
        assert bench.answer(WINDOWED[:121], 1).timings.evaluated_tokens == 1
        bench.answer(WINDOWED, 4)
        far = [*WINDOWED[:40], 5, 6]
        jump = bench.answer(far, 4)
        assert jump.timings.evaluated_tokens == (2 if swa_full else len(far))
    with running(path, swa_full=True) as fresh:
        assert fresh.answer(near, 4).tokens == back.tokens
        assert fresh.answer(far, 4).tokens == jump.tokens


def test_a_checkpoint_of_a_sliding_window_is_gone_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "_STRIDE", 64)
    path = tiny_models.sliding_window(tmp_path / "m.gguf")
    far = [*WINDOWED[:150], 5, 6]
    long = [*WINDOWED, *WINDOWED[:100]]
    shape = {"swa_full": False, "n_ubatch": 64, "n_batch": 64, "n_seq_max": 1}
    with running(path, **shape) as bench:
        bench.answer(long, 4)
        slot = bench.runner.slots[0]
        assert bench.context.first(0) > 150 - tiny_models.WINDOW
        held = bench.context.checkpoint_bytes(0)
        memory = model_memory(read_header(path))
        planned = state_bytes(memory, CacheParams(n_ctx=1024, swa_full=False))
        assert held <= planned <= 1.2 * held
        back = bench.answer(far, 4)
        assert 0 < back.timings.cached_tokens < 150 and len(slot.tokens) == len(far) + 3
        assert bench.answer(long, 1).timings.cached_tokens == 150
    with running(path, checkpoint_bytes=0, **shape) as bare:
        bare.answer(long, 4)
        assert bare.answer(far, 4).timings.cached_tokens == 0
    with running(path, swa_full=True) as fresh:
        assert fresh.answer(far, 4).tokens == back.tokens


def test_any_order_of_prompts_has_the_same_answers_behind_a_window(tmp_path: Path) -> None:
    """Cuts, shares between slots, evictions and checkpoints, in a cache that is often full."""
    path = tiny_models.sliding_window(tmp_path / "m.gguf")
    rng = random.Random(7)
    with (
        running(path, swa_full=False, n_ubatch=64, n_batch=64, n_ctx=768) as short,
        running(path, swa_full=True, n_ubatch=64, n_batch=64, n_ctx=768) as full,
    ):
        prompt, differing = [*WINDOWED], 0
        for _ in range(60):
            cut = rng.randrange(1, len(prompt))
            prompt = [*prompt[:cut], *rng.choices(range(3, 250), k=rng.choice([1, 2, 60, 200]))]
            prompt = prompt[:500]
            one, other = (bench.answer(prompt, 3, cache=True) for bench in (short, full))
            differing += one.tokens != other.tokens
        assert differing <= 1  # batches of other lengths round otherwise: a near tie may turn


def test_sequences_live_on_over_a_restart_of_the_worker(dense_model: Path) -> None:
    async def ask(engine: LlamaEngine, prompt: tuple[int, ...]) -> tuple[str, Timings]:
        text = ""
        async for event in engine.generate(GenerateRequest(id="1", prompt=prompt, max_tokens=6)):
            if isinstance(event, Delta):
                text += event.text
            else:
                return text, event.timings
        raise AssertionError("no end")

    async def main() -> None:
        engine = LlamaEngine()
        spec = LoadSpec(path=str(dense_model), n_ctx=512, n_seq_max=2)
        try:
            await engine.load(spec)
            prompt = tuple(await engine.tokenise(CODE))
            before, evaluated = await ask(engine, prompt)
            worker = engine.pid
            await engine.unload()
            assert engine.pid is None
            await engine.load(spec)
            assert engine.pid != worker
            after, again = await ask(engine, prompt)
            assert after == before
            assert (evaluated.evaluated_tokens, again.evaluated_tokens) == (len(prompt), 1)
            await engine.unload()
            await engine.load(replace(spec, n_ctx=256))  # another spec takes up nothing
            assert (await engine.stats()).cells_used == 0
        finally:
            await engine.close()

    asyncio.run(main())


def test_log_probabilities_are_reported_and_change_nothing(bench: Bench) -> None:
    """Of each token of a greedy answer; the likeliest is the one that was chosen."""
    prompt = "def total(values):\n"
    plain = bench.answer(prompt, 6, cache=False)
    heard = bench.answer(prompt, 6, cache=False, logprobs=3)
    assert heard.tokens == plain.tokens and heard.text == plain.text
    assert [one.token for one in heard.logprobs] == heard.tokens
    for one in heard.logprobs:
        values = [other.logprob for other in one.top]
        assert one.top[0].token == one.token and one.logprob == values[0] < 0
        assert values == sorted(values, reverse=True) and len(values) == 3


def test_further_choices_evaluate_the_last_token_of_the_prompt(bench: Bench) -> None:
    """What `n` relies on: the daemon sends the same prompt again, one request after another."""
    prompt = "class Account:\n    def __init__(self, owner):\n"
    first, second = bench.answer(prompt, 4), bench.answer(prompt, 4)
    assert first.timings.evaluated_tokens == first.timings.prompt_tokens
    assert second.timings.evaluated_tokens == 1
    assert second.text == first.text
