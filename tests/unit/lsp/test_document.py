"""The document against a plain, slow reference, in every encoding."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from made_texts import Reference

from context import Document as ContextDocument
from lsp import document as lines_module
from lsp.document import (
    WHOLE_TEXT_CHARS,
    Document,
    Encoding,
    Lines,
    Place,
    split,
    to_column,
    to_units,
)
from lsp.site import known_equal

ODD = "ab\r\n\f\v\x1c\x85\u2028\u2029é中😀\ud83d\ude00"
TEXT = st.text(st.sampled_from(ODD), max_size=40)
SPAN = st.tuples(*[st.integers(0, 12)] * 4)
EDITS = st.lists(st.tuples(SPAN, TEXT), max_size=8)


@pytest.mark.parametrize("encoding", list(Encoding))
@given(text=TEXT, edits=EDITS, block=st.sampled_from([1, 2, 512]))
@settings(max_examples=examples(100), deadline=None)
def test_random_edits_agree_with_the_reference(
    encoding: Encoding, text: str, edits: list[tuple[tuple[int, int, int, int], str]], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_LINES", block)
        document = Document("file:///a", text, encoding=encoding)
        reference = Reference(text, encoding)
        for span, new in edits:
            document.apply(document.change(new, span[:2], span[2:]))
            reference.replace(span, new)
            assert document.text == reference.text
            assert [document.line(at) for at in range(len(document))] == reference.lines()
            assert document.clamp(document.edited) == document.edited
        for line in range(len(document) + 2):
            place = document.place(line, 3)
            site = document.site(place)
            offset = reference.offset(line, 3)
            halves = reference.text[:offset], reference.text[offset:]
            assert (site.prefix, site.suffix) == tuple(
                re.sub("\r\n?", "\n", half) for half in halves
            )
            assert site.cursor_byte == len(site.prefix.encode())


@given(line=st.text(st.sampled_from("aé中😀\f\u2028"), max_size=20), data=st.data())
def test_units_and_columns_are_inverse(line: str, data: st.DataObject) -> None:
    column = data.draw(st.integers(0, len(line)))
    for encoding in Encoding:
        assert to_column(line + "\r\n", to_units(line, column, encoding), encoding) == column


@pytest.mark.parametrize(
    ("encoding", "units", "column"),
    [(Encoding.UTF16, 2, 1), (Encoding.UTF8, 3, 1), (Encoding.UTF8, 4, 1), (Encoding.UTF16, 3, 2)],
)
def test_a_position_inside_a_character_is_its_start(
    encoding: Encoding, units: int, column: int
) -> None:
    assert to_column("a😀b\n", units, encoding) == column


@pytest.mark.parametrize("block", [1, 2, 512])
@given(text=TEXT, news=st.lists(TEXT, max_size=4), whole=st.booleans())
@settings(max_examples=examples(100), deadline=None)
def test_a_whole_new_text_agrees_with_the_reference(
    block: int, text: str, news: list[str], whole: bool
) -> None:
    """C22: as one text, or as a range that covers all of the old one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_LINES", block)
        document, reference = Document("file:///a", text), Reference(text, Encoding.UTF16)
        for new in news:
            if whole:
                document.apply(document.change(new))
            else:
                document.apply(document.change(new, (0, 0), (10**6, 0)))
            reference.text = lines_module.clean(new)
            assert document.text == reference.text
            assert [document.line(at) for at in range(len(document))] == reference.lines()
            assert document.clamp(document.edited) == document.edited


@pytest.mark.parametrize("whole", [True, False], ids=["whole text", "range"])
@pytest.mark.parametrize(
    ("old", "new", "edited"),
    [
        ("a\nb\nc\n", "a\nbx\nc\n", (1, 2)),
        ("a\r\nb\r\nc\r\n", "a\r\nbx\r\nc\r\n", (1, 2)),
        ("a\rb\rc\r", "a\rbx\rc\r", (1, 2)),
        ("a\nb\n", "a\n\nb\n", (2, 0)),
        ("a\r\nb", "a\rb", (1, 0)),
        ("a\nb", "a\r\nb", (1, 0)),
        ("a\nb\nc", "a\nc", (1, 0)),
        ("s = '👩\u200d🚀'\nb\n", "s = '👩\u200d🚀x'\nb\n", (0, 9)),
        ("é\n中 = 1\n", "é\n中 = 12\n", (1, 6)),
        ("\n" * 900 + "x\n", "\n" * 900 + "xy\n", (900, 2)),
        ("a\nb\n", "a\nb\n", (0, 0)),
        ("", "x\ny", (1, 1)),
        ("x\ny", "", (0, 0)),
    ],
)
def test_the_place_of_change_is_where_the_texts_differ(
    whole: bool, old: str, new: str, edited: tuple[int, int]
) -> None:
    """C22: not the start of the file, which many clients that send the whole text would mean."""
    document = Document("file:///a", old)
    if whole:
        document.apply(document.change(new))
    else:
        document.apply(document.change(new, (0, 0), (10**6, 0)))
    assert document.text == new
    assert document.edited == edited


def test_an_edit_after_a_form_feed_lands_where_the_client_meant() -> None:
    document = Document("file:///a", "one\f\ntwo\u2028three\nfour\n")
    document.apply(document.change(" ", (1, 3), (1, 4)))
    document.apply(document.change("!", (2, 4), (2, 4)))
    assert document.text == "one\f\ntwo three\nfour!\n"


def test_halves_of_a_line_end_that_meet_become_one() -> None:
    document = Document("file:///a", "a\rx\nb")
    document.apply(document.change("", (1, 0), (1, 1)))
    assert document.text == "a\r\nb"
    assert len(document) == 2
    document.apply(document.change("\r", (0, 1), (0, 1)))
    assert len(document) == 3


def test_a_lone_surrogate_keeps_every_position_and_can_be_encoded() -> None:
    document = Document("file:///a", "x\ud83dy")
    document.apply(document.change("\udc00", (0, 2), (0, 2)))
    assert document.text == "x\ufffd\ufffdy"
    assert document.site(document.place(0, 4)).cursor_byte == 8


def test_positions_outside_are_clamped() -> None:
    document = Document("file:///a", "ab\ncd")
    assert document.place(0, 99) == Place(0, 2)
    assert document.place(9, 0) == Place(1, 2)
    document.apply(document.change("-", (9, 9), (0, 99)))  # swapped, too
    assert document.text == "ab-"


def test_typing_in_a_long_file_touches_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document("file:///a", "x = 1\n" * 50_000)
    seen: list[int] = []

    def counting(text: str) -> list[str]:
        seen.append(len(text))
        return split(text)

    monkeypatch.setattr(lines_module, "split", counting)
    for at in range(200):
        document.apply(document.change("y", (25_000, 5 + at), (25_000, 5 + at)))
    document.apply(document.change("new\nline\n", (25_000, 0), (25_000, 0)))
    assert max(seen) < 300
    assert len(document) == 50_003
    assert document.line(25_002) == "x = 1" + "y" * 200 + "\n"


def test_blocks_stay_small_however_a_file_grows() -> None:
    lines = Lines("")
    for at in range(5_000):
        lines.replace(at, at, f"{at}\n")
    assert len(lines) == 5_001
    assert lines.text() == "".join(f"{at}\n" for at in range(5_000))
    assert lines.block_of(5_000) >= 3


def test_a_huge_document_is_cut_where_the_cut_stays() -> None:
    document = Document("file:///a", "0123456789abcdef é\n" * 100_000)
    assert len(document.text) > WHOLE_TEXT_CHARS
    first = document.site(document.place(50_000, 4))
    document.apply(document.change("typed", (50_000, 4), (50_000, 4)))
    second = document.site(document.place(50_000, 9))
    assert second.prefix == first.prefix + "typed"
    assert second.suffix == first.suffix
    assert second.prefix.endswith("\n0123typed")


def test_one_huge_line_is_cut_around_the_cursor() -> None:
    document = Document("file:///a", "x" * 4_000_000)
    site = document.site(document.place(0, 2_000_000))
    assert len(site.prefix) == len(site.suffix) == WHOLE_TEXT_CHARS


PLACES = st.tuples(st.integers(0, 12), st.integers(0, 12))


@settings(max_examples=examples(75))
@given(TEXT, EDITS, PLACES, PLACES, st.integers(0, 3), st.text("xyé", max_size=3))
def test_what_two_sites_surely_share_is_the_same_in_both(
    text: str,
    edits: list[tuple[tuple[int, int, int, int], str]],
    before: tuple[int, int],
    after: tuple[int, int],
    left_out: int,
    added: str,
) -> None:
    document = Document("file:///a", text, encoding=Encoding.UTF32)
    old = document.site(document.clamp(Place(*before)))
    old = replace(old, prefix=old.prefix[: max(len(old.prefix) - left_out, 0)])
    for (a, b, c, d), new in edits:
        document.apply(document.change(new, (a, b), (c, d)))
    new_site = document.site(document.clamp(Place(*after)))
    new_site = replace(new_site, prefix=new_site.prefix + added)
    start, end = known_equal(old, new_site)
    one, other = old.text, new_site.text
    assert one[:start] == other[:start]
    assert one[len(one) - end :] == other[len(other) - end :]
    held = ContextDocument("", "a.py", one)
    held.replace(other, (start, end))
    assert held.text == other and held.data == other.encode()


def test_what_is_known_of_two_sites_reaches_to_the_change() -> None:
    lines = "".join(f"line {number}\n" for number in range(1000))
    document = Document("file:///a", lines)
    old = document.site(Place(500, 4))
    document.apply(document.change("x", (500, 4), (500, 4)))
    start, end = known_equal(old, document.site(Place(500, 5)))
    assert start + end == len(lines)
    assert known_equal(old, Document("file:///a", lines).site(Place(500, 4))) == (0, 0)
    for _ in range(300):  # more changes than are remembered
        document.apply(document.change("y", (0, 0), (0, 0)))
    assert known_equal(old, document.site(Place(500, 5))) == (0, 0)
