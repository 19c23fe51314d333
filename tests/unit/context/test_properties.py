"""Thousands of random places, budgets and edits in real files of all languages."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from examples import examples

import context
from context import FimLayout, Prompt, TokenCounter
from context.index.file_record import chunks
from context.prompt import Part
from context.syntax.document import Source, read_file
from context.syntax.language import language_for, languages
from context.syntax.text import Encoder, byte_offset
from context.syntax.trim import Depth, cuts, trim

TRIPLES = examples(7_000)
TRIPLES_A_LANGUAGE = examples(80)


def broken(source: Source) -> bool:
    """Whether the tree of a source has errors."""
    assert source.tree.root is not None
    return source.tree.root.has_error


def check(prompt: Prompt, text: str, cursor: Any, budget: int, answer: Any = 0) -> None:
    """Holds for every prompt: budget, order, exact counts, and the truth of what is shown."""
    assert len(prompt.ids) + answer <= max(budget, answer)
    if not prompt.ids:
        return
    counted = sum(one.tokens for one in prompt.sections)
    assert len(prompt.ids) == counted + 3
    near = "".join(one.text for one in prompt.sections if one.part is Part.PREFIX)
    suffix = "".join(one.text for one in prompt.sections if one.part is Part.SUFFIX)
    before, after = text[:cursor], text[cursor:]
    assert before.endswith(near) or "..." in near
    assert after.startswith(suffix) or "..." in suffix


def by_language(sources: Any) -> Any:
    found = defaultdict(list)
    for path, text in sources:
        language = language_for(path)
        found[language.name if language is not None else "none"].append((path, text))
    return found


def test_random_places_cursors_and_budgets(
    real_sources: list[tuple[str, str]],
    fast_counter: TokenCounter,
    layout: FimLayout,
    control: dict[str, int],
    tmp_path: Path,
) -> None:
    """Cursors jump about under one budget for a while: so heads are built and kept, both."""
    rng = random.Random(7)
    workspace = context.Workspace([tmp_path], fast_counter, layout, control)
    done: Counter[str] = Counter()
    turns = itertools.cycle(by_language(real_sources).values())
    while done.total() < TRIPLES:
        # Files as they come, most of them Python; and one of each language in turn.
        path, text = rng.choice(rng.choice((real_sources, next(turns))))
        document = workspace.open(tmp_path / path.lstrip("/").replace("/", "_"), text)
        text = document.text
        for _ in range(3):
            budget = rng.choice((0, 3, 5, 40, 128, 300, 512, 1024, 2048, rng.randrange(4000)))
            answer = rng.choice((0, 0, 32))
            for _ in range(16):
                cursor = rng.randrange(len(text) + 1)
                at = byte_offset(text, cursor)
                rest = rng.random() < 0.1
                prompt = workspace.prompt(document, at, budget, max_answer_tokens=answer, rest=rest)
                check(prompt, text, cursor, budget, answer)
                done[document.language.name if document.language is not None else "none"] += 1
        workspace.close(document)
    assert all(done[name] >= TRIPLES_A_LANGUAGE for name in languages()), done


def test_a_smaller_budget_gives_a_sensible_subset(
    real_sources: list[tuple[str, str]],
    counter: TokenCounter,
    layout: FimLayout,
    control: dict[str, int],
) -> None:
    """What a small budget shows of the current file lies within what a large one covers."""
    rng = random.Random(8)
    for path, text in rng.sample(real_sources, 25):
        cursor = rng.randrange(len(text))
        shown = []
        for budget in (128, 512, 2048):
            workspace = context.Workspace([], counter, layout, control)
            document = workspace.open(Path("/nowhere", Path(path).name), text)
            prompt = workspace.prompt(document, byte_offset(document.text, cursor), budget)
            shown.append({one.part: one.text for one in prompt.sections})
        for small, large in pairwise(shown):
            assert large.get(Part.SUFFIX, "").startswith(small.get(Part.SUFFIX, ""))
            whole = large.get(Part.FAR_PREFIX, "") + large.get(Part.PREFIX, "")
            assert whole.endswith(small.get(Part.PREFIX, ""))


def test_chunks_hold_every_character_once(
    real_sources: list[tuple[str, str]], counter: TokenCounter
) -> None:
    encoder = Encoder(counter)
    for path, text in real_sources:
        source = read_file(path, text)
        if source is None:
            continue
        found = chunks(source, encoder, 120)
        assert "".join(source.text[one.start : one.stop] for one in found) == source.text
        for one, following in pairwise(found):
            assert one.stop == following.start
        for one in found:
            shown = source.text[one.start : one.stop]
            assert one.tokens == encoder.text_count(shown)
            assert one.tokens <= 120 or len(shown) <= 256, "only one long piece may be larger"


@pytest.mark.parametrize("depth", [Depth.LIGHT, Depth.DOCS, Depth.BODIES], ids=str)
def test_trimming_twice_is_trimming_once(real_sources: list[tuple[str, str]], depth: Depth) -> None:
    for path, text in real_sources:
        source = read_file(path, text)
        if source is None:
            continue
        once, made = trim(source, depth)
        again = read_file(path, once)
        assert again is not None
        assert trim(again, depth)[0] == once, path
        assert all(cut.saved > 0 for cut in made)
        if not broken(source):
            assert not broken(again), f"{path}: a marker broke the syntax"


def test_what_is_protected_is_not_touched(real_sources: list[tuple[str, str]]) -> None:
    rng = random.Random(9)
    for path, text in real_sources:
        source = read_file(path, text)
        if source is None:
            continue
        start = rng.randrange(len(source.text))
        stop = min(len(source.text), start + rng.randrange(2000))
        for cut in cuts(source, Depth.BODIES, protect=(start, stop)):
            assert cut.stop <= start or cut.start >= stop
