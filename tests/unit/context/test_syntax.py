"""Incremental parses against fresh ones, over random sequences of edits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from context.syntax.document import Document
from context.syntax.language import languages
from context.syntax.parsed_text import read
from context.syntax.parser import MAX_PARSED_BYTES, ByteMap, SyntaxTree

INSERTS = [
    "x", "(", ")", "{", "}", '"', "'", "\n", "    ", "if ", "def f():\n", "/*", "*/", "#", "//",
    "\u00e9", "\U0001f600", "\t", "\r\n", "\0", "=", "return", ";", ":", "[", "]", "`",
]  # fmt: skip


def shape(node):
    """Kind and place of every node: two trees are the same when these are."""
    found = []
    pending = [node]
    while pending:
        one = pending.pop()
        found.append((one.type, one.start_byte, one.end_byte, one.is_missing))
        pending.extend(one.children)
    return found


@pytest.mark.parametrize("name", sorted(languages()))
def test_edits_give_the_tree_of_a_fresh_parse(name, main_file):
    """200 edits a language, parsed every third time; the tree covers the text as a fresh one does.

    Where the text has syntax errors, tree-sitter may recover in another way than from scratch;
    so exact equality is asked for where the fresh tree has none.
    """
    rng = random.Random(name)
    text = main_file(name).read_text(encoding="utf-8")
    document = Document("", f"a{languages()[name].extensions[0]}", text)
    assert document.source.tree.root is not None
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
            root = document.source.tree.root
            fresh = read(document.text, languages()[name]).tree.root
            assert (root.start_byte <= fresh.end_byte) and root.end_byte == fresh.end_byte
            if not fresh.has_error:
                assert shape(root) == shape(fresh)
                equal += 1
    assert equal >= 10


def test_byte_map_is_exact():
    rng = random.Random(3)
    text = "".join(rng.choice("ab\n\u00e9\u2028\U0001f600") for _ in range(5000))
    data = text.encode("utf-8")
    at = ByteMap(data)
    for offset in rng.sample(range(len(text) + 1), 500):
        assert at.char(len(text[:offset].encode("utf-8"))) == offset
    assert at.char(-5) == 0 and at.char(10**9) == len(text)


def test_a_huge_text_has_no_tree():
    data = b"x = 1\n" * (MAX_PARSED_BYTES // 6 + 1)
    assert SyntaxTree(languages()["python"], data).root is None


@pytest.mark.parametrize("seed", range(4))
def test_replace_finds_what_is_common(seed):
    rng = random.Random(seed)
    text = Path(__file__).read_text(encoding="utf-8") + "\u00e9\u00ea" * 20
    document = Document("", "a.py", text)
    for _ in range(60):
        at, length = rng.randrange(len(text)), rng.randrange(30)
        text = text[:at] + rng.choice(("\u00e8", "\u00eb\n", "abc", "")) + text[at + length :]
        document.replace(text)
        assert document.text == text
        assert document.data == text.encode("utf-8")
        assert (
            shape(document.source.tree.root)[0] == shape(read(text, document.language).tree.root)[0]
        )


def test_edits_are_clamped_and_never_cut_a_character():
    document = Document("", "a.py", "a\u00e9b")
    document.edit(2, 2, "x")  # inside the two bytes of the second character: before it
    assert document.text == "ax\u00e9b"
    document.edit(-5, 0, "<")
    document.edit(100, 200, ">")
    assert document.text == "<ax\u00e9b>"
    document.edit(3, 1, "\ud800")
    assert document.text == "<ax\ufffd\u00e9b>"
