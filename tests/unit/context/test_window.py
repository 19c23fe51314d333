"""The plain prompt: right pieces, right order, never past the budget, stable while one types."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from toy_counter import ToyCounter

import context
from context import FimLayout, Prompt
from context.prompt import Part
from context.syntax.text import CursorKind, byte_offset, char_offset, clean, pieces, pieces_before

SOURCE = (Path(context.__file__).with_name("prompt") / "window.py").read_text(encoding="utf-8")


def build(
    text: str,
    cursor: Any,
    layout: FimLayout,
    counter: ToyCounter,
    control: dict[str, int],
    budget: int = 300,
    answer: Any = 0,
) -> Any:
    return context.window(text, byte_offset(text, cursor), layout, counter, control, budget, answer)


def part(prompt: Prompt, name: str) -> Any:
    return "".join(section.text for section in prompt.sections if section.part is name)


@pytest.mark.parametrize("needle", ["    tokens = 0\n", "finest.tokens", "def windows("])
def test_the_window_is_the_text_around_the_cursor(
    layout: FimLayout, counter: ToyCounter, control: dict[str, int], needle: Any
) -> None:
    cursor = SOURCE.index(needle)
    prompt = build(SOURCE, cursor, layout, counter, control)
    before = part(prompt, Part.FAR_PREFIX) + part(prompt, Part.PREFIX)
    assert before and SOURCE[:cursor].endswith(before)
    after = part(prompt, Part.SUFFIX)
    assert after and SOURCE[cursor:].startswith(after)
    assert len(prompt.ids) == 3 + sum(section.tokens for section in prompt.sections) <= 300
    assert counter.decode(prompt.ids) == "".join(section.text for section in prompt.sections)


def test_the_order_follows_the_kind_of_cursor(
    mixed_layout: FimLayout, counter: ToyCounter, control: dict[str, int]
) -> None:
    line = SOURCE.index("    tokens = 0\n")
    start = build(SOURCE, line + 4, mixed_layout, counter, control)
    assert start.kind is CursorKind.LINE_START
    assert [s.part for s in start.sections] == [Part.FAR_PREFIX, Part.SUFFIX, Part.PREFIX]
    assert start.ids[0] == 1 and start.ids[-1] != 3
    middle = build(SOURCE, line + 9, mixed_layout, counter, control)
    assert middle.kind is CursorKind.MID_LINE
    assert [s.part for s in middle.sections] == [Part.PREFIX, Part.SUFFIX]
    assert middle.ids[-1] == 3


def test_a_whole_small_file_fits(
    layout: FimLayout, counter: ToyCounter, control: dict[str, int]
) -> None:
    prompt = build("a = 1\nb = \nc = 3\n", 10, layout, counter, control)
    assert part(prompt, Part.PREFIX) == "a = 1\nb = "
    assert part(prompt, Part.SUFFIX) == "\nc = 3\n"
    assert prompt.cut == ()


def test_the_answer_has_room(
    layout: FimLayout, counter: ToyCounter, control: dict[str, int]
) -> None:
    cursor = len(SOURCE) // 2
    assert len(build(SOURCE, cursor, layout, counter, control, 200, 64).ids) <= 136


def test_a_layout_of_another_model_is_refused(layout: FimLayout, counter: ToyCounter) -> None:
    with pytest.raises(ValueError, match="no control token"):
        context.window("x", 1, layout, counter, {"<pre>": 1}, 100, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n" * 5000,
        "x" * 100_000,
        "\u00e9\U0001f600" * 3000,
        "\0\x01\x02" * 500,
        "a\r\nb\rc\x0cd\u2028e\n" * 100,
        "lone \ud800 surrogate\n" * 20,
        "   \t  ",
    ],
    ids=["empty", "newlines", "long", "astral", "nul", "ends", "surrogate", "blank"],
)
def test_odd_texts_never_pass_the_budget(
    layout: FimLayout, counter: ToyCounter, control: dict[str, int], text: str
) -> None:
    for cursor in {0, 1, len(text) // 2, len(text)}:
        for budget in (-5, 0, 1, 3, 4, 10, 77, 512):
            prompt = build(text, cursor, layout, counter, control, budget)
            assert len(prompt.ids) <= max(budget, 0)
            counted = sum(section.tokens for section in prompt.sections)
            assert len(prompt.ids) in (0, counted + 3)


def test_a_cursor_outside_is_clamped(
    layout: FimLayout, counter: ToyCounter, control: dict[str, int]
) -> None:
    assert part(context.window("ab", 99, layout, counter, control, 50, 0), Part.PREFIX) == "ab"
    assert part(context.window("ab", -9, layout, counter, control, 50, 0), Part.SUFFIX) == "ab"


def test_pieces_are_the_text_from_both_ends() -> None:
    for text in (SOURCE, "", "\n\n a\n\n\nb  ", "x" * 1000 + "\n" * 700 + "y", " \n  "):
        assert "".join(pieces(text)) == text
        found = list(pieces_before(text, len(text)))
        assert "".join(piece for _, piece in reversed(found)) == text
        assert all(text[at : at + len(piece)] == piece for at, piece in found)


def test_pieces_before_are_pieces() -> None:
    for stop in range(0, len(SOURCE), 7):
        forward = pieces(SOURCE[:stop])
        assert [piece for _, piece in pieces_before(SOURCE, stop)] == forward[::-1]


def test_byte_and_character_offsets_agree() -> None:
    text = "a\u00e9\u2028\U0001f600b"
    for offset in range(len(text) + 1):
        assert char_offset(text, byte_offset(text, offset)) == offset
    assert char_offset(text, 2) == 1  # inside a character: its start
    assert clean("a\ud800b") == "a\ufffdb"


@pytest.mark.parametrize("budget", [256, 512, 1024])
def test_typing_changes_only_the_tail(
    layout: FimLayout, counter: ToyCounter, control: dict[str, int], budget: int
) -> None:
    """Replay typing the second half of a real file: the share of tokens that stay."""
    typed = SOURCE * 3
    start = len(typed) // 2
    total = same = 0
    before: tuple[int, ...] = ()
    for cursor in range(start, start + 400):
        text = typed[:cursor] + typed[start + 400 :]
        prompt = build(text, cursor, layout, counter, control, budget)
        if before:
            total += len(prompt.ids)
            same += next(
                (i for i, (a, b) in enumerate(zip(prompt.ids, before, strict=False)) if a != b),
                min(len(prompt.ids), len(before)),
            )
        before = prompt.ids
    assert same / total > 0.97


def test_random_places_in_real_files(
    layout: FimLayout, counter: ToyCounter, control: dict[str, int]
) -> None:
    rng = random.Random(5)
    for path in sorted(Path(context.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for _ in range(40):
            cursor, budget = rng.randrange(len(text) + 1), rng.randrange(3, 1200)
            prompt = build(text, cursor, layout, counter, control, budget)
            assert len(prompt.ids) <= budget
            before = part(prompt, Part.FAR_PREFIX) + part(prompt, Part.PREFIX)
            assert text[:cursor].endswith(before)
            assert text[cursor:].startswith(part(prompt, Part.SUFFIX))
            if budget > 100 and cursor > 200:
                assert before
