"""Kept suggestions: found again while they are true, and never when they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.completion.suggestion import Source, Suggestion, Suggestions
from lsp.site import Site


def at(prefix: str, suffix: str = "\n") -> Site:
    return Site(prefix, suffix, "python", uri="file:///a", version=1)


def keeping(prefix: str, text: str, suffix: str = "\n") -> Suggestions:
    suggestions = Suggestions()
    suggestions.keep(at(prefix, suffix), Suggestion("1", text, Source.MODEL))
    return suggestions


def rest(suggestions: Suggestions, prefix: str, suffix: str = "\n") -> str | None:
    found = suggestions.find(at(prefix, suffix))
    return found.text if found else None


def test_it_is_followed_letter_by_letter_and_back() -> None:
    kept = keeping("x = ", "alpha(1)")
    assert rest(kept, "x = ") == "alpha(1)"
    assert rest(kept, "x = alp") == "ha(1)"
    assert rest(kept, "x =") == " alpha(1)"
    assert rest(kept, "") == "x = alpha(1)"


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("x = b", "\n"),
        ("x = alpha(1)", "\n"),
        ("y = ", "\n"),
        ("x = ", "  # changed\n"),
        ("x = ", ""),
        ("\nx = al", "\n"),
    ],
)
def test_it_is_not_shown_where_it_is_not_true(prefix: str, suffix: str) -> None:
    assert rest(keeping("x = ", "alpha(1)"), prefix, suffix) is None


def test_going_back_over_a_line_end_finds_nothing() -> None:
    assert rest(keeping("a\nb", "c"), "a") is None


def test_brackets_that_the_editor_closes_do_not_hide_it() -> None:
    kept = keeping("x = ", "f(a, [b])")
    assert rest(kept, "x = f(", ")\n") == "a, [b]"
    assert rest(kept, "x = f(a, [", "])\n") == "b"
    assert rest(kept, "x = f(", "!)\n") is None


def test_the_newest_true_one_is_found() -> None:
    kept = keeping("x = ", "alpha")
    kept.keep(at("x = al"), Suggestion("2", "pine", Source.AHEAD))
    found = kept.find(at("x = al"))
    assert found is not None and (found.id, found.text, found.source) == ("2", "pine", Source.CACHE)
    assert rest(kept, "x = alph") == "a"


def test_only_so_many_are_kept() -> None:
    suggestions = Suggestions(capacity=3)
    for number in range(5):
        suggestions.keep(at(f"{number}"), Suggestion("1", "x", Source.MODEL))
    assert rest(suggestions, "0") is None
    assert rest(suggestions, "4") == "x"


LETTERS = st.text("ab\n(", max_size=6)


@given(LETTERS, LETTERS, LETTERS, LETTERS, LETTERS)
def test_what_is_found_completes_to_what_was_suggested(
    prefix: str, suffix: str, text: str, new_prefix: str, new_suffix: str
) -> None:
    kept = keeping(prefix, text, suffix)
    found = rest(kept, new_prefix, new_suffix)
    if found is not None and new_suffix == suffix:
        assert new_prefix + found == prefix + text
