"""Changes are minimal, rebased on newer texts, checked by the grammar, and written as LSP edits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from lsp.actions.document_range import (
    Change,
    EditCapabilities,
    Proposal,
    applied,
    describe,
    difference,
    rebased,
    syntax_errors,
    text_edit,
    workspace_edit,
)
from lsp.document import Document, Encoding

LINES = st.lists(st.sampled_from(["", "a", "b", "    c", "\U0001f600 d", "\f"]), max_size=8)


def proposal(lines: list[str], change: Change, **more: object) -> Proposal:
    return Proposal(
        uri="file:///a.py", version=3, lines=lines, change=change,
        label="Fix", description="adds 1 line", **more,  # type: ignore[arg-type]
    )  # fmt: skip


@given(LINES, LINES, LINES, LINES)
def test_a_change_makes_what_was_asked_and_touches_nothing_else(
    head: list[str], old: list[str], new: list[str], tail: list[str]
) -> None:
    lines = [*head, *old, *tail]
    first, stop = len(head), len(head) + len(old)
    change = difference(lines, first, stop, new)
    if change is None:
        assert old == new
        return
    assert first <= change.first <= change.stop <= stop
    assert applied(change, lines) == [*head, *new, *tail]


@given(LINES, LINES, LINES, LINES, LINES)
def test_a_carried_change_does_the_same_in_a_text_edited_elsewhere(
    head: list[str], old: list[str], new: list[str], tail: list[str], typed: list[str]
) -> None:
    lines = [*head, "<", *old, ">", *tail]
    first, stop = len(head) + 1, len(head) + 1 + len(old)
    change = Change(first, stop, tuple(new))
    above = rebased(change, lines, [*typed, *lines])
    assert above is None or applied(above, [*typed, *lines]) == [*typed, *applied(change, lines)]
    below = rebased(change, lines, [*lines, *typed])
    assert below is None or applied(below, [*lines, *typed]) == [*applied(change, lines), *typed]


def test_edits_far_from_the_change_never_stop_it() -> None:
    lines = ["a", "b", "c", "d", "e", "f"]
    change = Change(2, 3, ("C",))
    for new in (["A", *lines[1:]], ["x", *lines], [*lines[:5], "F"], [*lines, "g"]):
        found = rebased(change, lines, new)
        assert found is not None and "C" in applied(found, new) and "c" not in applied(found, new)


def test_edits_of_the_lines_themselves_do() -> None:
    lines = ["a", "b", "c", "d", "e"]
    assert rebased(Change(2, 3, ("C",)), lines, ["a", "b", "x", "d", "e"]) is None
    assert rebased(Change(2, 3, ("C",)), lines, ["a", "b", "d", "e"]) is None
    assert rebased(Change(2, 2, ("C",)), lines, ["a", "b!", "c!", "d", "e"]) is None


@given(LINES, LINES, LINES, st.sampled_from(["\n", "\r\n"]), st.sampled_from(list(Encoding)))
def test_the_text_edit_does_what_the_change_says(
    head: list[str], new: list[str], tail: list[str], line_end: str, encoding: Encoding
) -> None:
    lines = [*head, "old \U0001f600", *tail]
    change = Change(len(head), len(head) + 1, tuple(new))
    text = line_end.join(lines)
    edit = text_edit(proposal(lines, change, line_end=line_end), encoding)
    document = Document("file:///a.py", text, encoding=encoding)
    start, end = edit.range.start, edit.range.end
    document.apply(
        document.change(edit.new_text, (start.line, start.character), (end.line, end.character))
    )
    expected = applied(change, lines) or [""]
    assert document.text == line_end.join(expected)


def test_what_breaks_the_syntax_is_said() -> None:
    lines = ["def f():", "    return 1", ""]
    good = Change(1, 2, ("    return 2",))
    bad = Change(1, 2, ("    return (2",))
    assert syntax_errors(good, "a.py", lines) == ()
    assert syntax_errors(bad, "a.py", lines) == (1,)
    assert syntax_errors(bad, "a.unknown", lines) == ()
    already = ["def f(:", "    return 1", ""]
    assert syntax_errors(good, "a.py", already) == (), "it was broken before"
    assert describe(bad, (1,)) == "BREAKS THE SYNTAX near line 2; replaces 1 line with 1 line"
    assert describe(Change(1, 1, ("a", "b")), ()) == "adds 2 lines"
    assert describe(Change(1, 3, ()), ()) == "removes 2 lines"


def test_the_workspace_edit_is_what_the_client_understands() -> None:
    made = proposal(["a", ""], Change(0, 1, ("b",)))
    full = workspace_edit(made, EditCapabilities(versions=True, asks=True), Encoding.UTF16)
    assert full.document_changes is not None and full.change_annotations is not None
    (change,) = full.document_changes
    assert isinstance(change, types.TextDocumentEdit)
    assert change.text_document.version == 3
    (edit,) = change.edits
    assert isinstance(edit, types.AnnotatedTextEdit)
    note = full.change_annotations[edit.annotation_id]
    assert note.needs_confirmation is True and note.description == "adds 1 line"
    plain = workspace_edit(made, EditCapabilities(), Encoding.UTF16)
    assert plain.document_changes is None and plain.changes is not None
    assert list(plain.changes) == ["file:///a.py"]
    without = workspace_edit(made, EditCapabilities(versions=True), Encoding.UTF16)
    assert without.change_annotations is None
