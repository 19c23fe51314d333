"""Incremental parses against fresh ones, over random sequences of edits."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tree_sitter import Node

from context.syntax.document import Document, Source, TextEdit, read
from context.syntax.language import languages
from context.syntax.syntax_tree import MAX_PARSED_BYTES, ByteMap, SyntaxTree
from context.syntax.text import common_ends

INSERTS = [
    "x", "(", ")", "{", "}", '"', "'", "\n", "    ", "if ", "def f():\n", "/*", "*/", "#", "//",
    "\u00e9", "\U0001f600", "\t", "\r\n", "\0", "=", "return", ";", ":", "[", "]", "`",
]  # fmt: skip


def root_of(source: Source | None) -> Node:
    """The root of a source that is parsed."""
    assert source is not None and source.tree.root is not None
    return source.tree.root


def shape(node: Any) -> Any:
    """Kind and place of every node: two trees are the same when these are."""
    found = []
    pending = [node]
    while pending:
        one = pending.pop()
        found.append((one.type, one.start_byte, one.end_byte, one.is_missing))
        pending.extend(one.children)
    return found


@pytest.mark.parametrize("name", sorted(languages()))
def test_edits_give_the_tree_of_a_fresh_parse(name: str, main_file: Callable[[str], Path]) -> None:
    """200 edits a language, parsed every third time; the tree covers the text as a fresh one does.

    Where the text has syntax errors, tree-sitter may recover in another way than from scratch;
    so exact equality is asked for where the fresh tree has none.
    """
    rng = random.Random(name)
    text = main_file(name).read_text(encoding="utf-8")
    document = Document("", f"a{languages()[name].extensions[0]}", text)
    root_of(document.source)
    equal = 0
    for step in range(200):
        data = document.data
        start = rng.randrange(len(data) + 1)
        if step % 20 == 19:  # back to something sound
            document.replace(text)
        elif rng.random() < 0.5:
            document.edit(start, start, rng.choice(INSERTS))
        else:
            document.edit(start, start + rng.randrange(12), rng.choice(INSERTS) * rng.randrange(2))
        assert document.text.encode("utf-8") == document.data
        if step % 3 == 0 or step % 20 == 19:
            root = root_of(document.source)
            fresh = root_of(read(document.text, languages()[name]))
            assert (root.start_byte <= fresh.end_byte) and root.end_byte == fresh.end_byte
            if not fresh.has_error:
                assert shape(root) == shape(fresh)
                equal += 1
    assert equal >= 10


def test_byte_map_is_exact() -> None:
    rng = random.Random(3)
    text = "".join(rng.choice("ab\n\u00e9\u2028\U0001f600") for _ in range(5000))
    data = text.encode("utf-8")
    at = ByteMap(data)
    for offset in rng.sample(range(len(text) + 1), 500):
        assert at.char(len(text[:offset].encode("utf-8"))) == offset
    assert at.char(-5) == 0 and at.char(10**9) == len(text)


def test_a_huge_text_has_no_tree() -> None:
    data = b"x = 1\n" * (MAX_PARSED_BYTES // 6 + 1)
    assert SyntaxTree(languages()["python"], data).root is None


@pytest.mark.parametrize("seed", range(4))
def test_replace_finds_what_is_common(seed: int) -> None:
    rng = random.Random(seed)
    text = Path(__file__).read_text(encoding="utf-8") + "\u00e9\u00ea" * 20
    document = Document("", "a.py", text)
    for _ in range(60):
        at, length = rng.randrange(len(text)), rng.randrange(30)
        text = text[:at] + rng.choice(("\u00e8", "\u00eb\n", "abc", "")) + text[at + length :]
        document.replace(text)
        assert document.text == text
        assert document.data == text.encode("utf-8")
        assert document.language is not None
        fresh = read(text, document.language)
        assert shape(root_of(document.source))[0] == shape(root_of(fresh))[0]


def test_edits_are_clamped_and_never_cut_a_character() -> None:
    document = Document("", "a.py", "a\u00e9b")
    document.edit(2, 2, "x")  # inside the two bytes of the second character: before it
    assert document.text == "ax\u00e9b"
    document.edit(-5, 0, "<")
    document.edit(100, 200, ">")
    assert document.text == "<ax\u00e9b>"
    document.edit(3, 1, "\ud800")
    assert document.text == "<ax\ufffd\u00e9b>"


ALPHABET = ("a", "\u00e9", "\U0001f600", "\n", "\r\n", "\t", "def f():\n", "", "\u2028", "\f")


@pytest.mark.parametrize("seed", range(4))
def test_edits_by_position_give_the_text_of_the_editor(seed: int) -> None:
    """C22: ranges go straight into the document; text and tree equal those of a fresh one."""
    rng = random.Random(seed)
    document = Document("", "a.py", "".join(rng.choices(ALPHABET, k=400)).replace("\r", ""))
    for _ in range(150):
        lines = document.text.split("\n")
        edits = []
        for _ in range(rng.randrange(1, 4)):
            positions = []
            for _ in range(2):
                line = rng.randrange(len(lines) + 2)
                length = len(lines[line]) if line < len(lines) else 3
                positions.append((line, rng.randrange(length + 3)))
            first, last = sorted(positions)
            new = "".join(rng.choices(ALPHABET, k=rng.randrange(4)))
            text = "\n".join(lines)
            start, stop = offset(lines, first), offset(lines, last)
            lines = (text[:start] + new.replace("\r\n", "\n") + text[stop:]).split("\n")
            start_at, end_at = rng.sample((first, last), 2)
            edits.append(TextEdit(start_at, end_at, new))
        document.apply(edits)
        assert document.text == "\n".join(lines)
        assert document.data == document.text.encode("utf-8")
    assert document.language is not None
    fresh = read(document.text, document.language)
    assert str(root_of(document.source)) == str(root_of(fresh))


def offset(lines: list[str], position: tuple[int, int]) -> int:
    line, column = position
    if line >= len(lines):
        return len("\n".join(lines))
    return sum(len(one) + 1 for one in lines[:line]) + min(column, len(lines[line]))


def test_edits_by_position_in_a_long_text() -> None:
    """C22: lines are found by halving; the same as by counting."""
    text = "".join(f"line {at}\n" * (at % 3) + "\u00e9" * (at % 7) + "\n" for at in range(5000))
    document = Document("", "a.py", text)
    lines = text.split("\n")
    for line in (0, 1, 17, 2500, len(lines) - 2, len(lines) - 1):
        document.apply([TextEdit((line, 2), (line, 3), "\u00fc")])
        lines[line] = lines[line][:2] + "\u00fc" + lines[line][3:]
    assert document.text == "\n".join(lines)
    document.apply([TextEdit((-1, 5), (0, -3), "first\n"), TextEdit((10**9, 0), (10**9, 9), "z")])
    assert document.text == "first\n" + "\n".join(lines) + "z"


@pytest.mark.parametrize("kind", [str, bytes])
def test_common_ends(kind: type) -> None:
    """C22: the place of change in a whole new text is what start and end do not share."""
    shared: Callable[[Any, Any], tuple[int, int]] = common_ends
    rng = random.Random(7)
    for size in (0, 1, 5, 4095, 4096, 4097, 30_000):
        old = "".join(rng.choices("ab\n", k=size))
        for _ in range(8):
            at, length = rng.randrange(size + 1), rng.randrange(4)
            new = old[:at] + "".join(rng.choices("ab\n", k=rng.randrange(4))) + old[at + length :]
            one, two = (old, new) if kind is str else (old.encode(), new.encode())
            start, end = shared(one, two)
            assert start + end <= min(len(one), len(two))
            assert one[:start] == two[:start] and one[len(one) - end :] == two[len(two) - end :]
            middle = one[start : len(one) - end], two[start : len(two) - end]
            assert not (middle[0] and middle[1]) or (
                middle[0][0] != middle[1][0] and middle[0][-1] != middle[1][-1]
            )
    assert common_ends("same", "same") == (4, 0)
