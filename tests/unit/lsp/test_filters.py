"""Each filter, the whole chain and the stop conditions over golden answers."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.completion import filters
from lsp.completion.completion_stream import end_of
from lsp.site import Shape, Site

GOLDEN = Path(__file__).parent / "golden"
CURSOR = "\u2038"


def cases(name: str) -> list[Any]:
    table = tomllib.loads((GOLDEN / f"{name}.toml").read_text("utf-8"))
    return [pytest.param(name, case, id=f"{name}: {case['name']}") for case in table["case"]]


def site(case: dict[str, Any]) -> Site:
    prefix, suffix = case["document"].split(CURSOR)
    return Site(
        prefix=prefix,
        suffix=suffix,
        language_id=case.get("language", ""),
        control=tuple(case.get("control", ())),
    )


@pytest.mark.parametrize(("name", "case"), [case for name in filters.CHAIN for case in cases(name)])
def test_filter(name: str, case: dict[str, Any]) -> None:
    assert filters.CHAIN[name](case["answer"], site(case)) == case["expect"]


@pytest.mark.parametrize(("name", "case"), cases("chain"))
def test_chain(name: str, case: dict[str, Any]) -> None:
    assert filters.apply(case["answer"], site(case)) == case["expect"]


@pytest.mark.parametrize(("name", "case"), cases("stopping"))
def test_stopping(name: str, case: dict[str, Any]) -> None:
    end = end_of(case["answer"], site(case))
    assert (None if end is None else case["answer"][:end]) == case.get("expect")


@pytest.mark.parametrize(("name", "case"), cases("stopping"))
def test_an_end_is_the_same_as_the_answer_comes(name: str, case: dict[str, Any]) -> None:
    """Generation is cancelled at the first end that is known, so it must be the right one."""
    place = site(case)
    ends = (end_of(case["answer"][:size], place) for size in range(1, len(case["answer"]) + 1))
    end = next((end for end in ends if end is not None), None)
    assert (None if end is None else case["answer"][:end]) == case.get("expect")


@pytest.mark.parametrize("name", list(filters.CHAIN))
def test_every_filter_is_shown_to_act_and_to_leave_alone(name: str) -> None:
    acts = {case.values[1]["answer"] != case.values[1]["expect"] for case in cases(name)}
    assert acts == {True, False}


CODE = st.text(st.sampled_from("ab(){}[]\n\t  .,:'\"#x="), max_size=60)


@given(prefix=CODE, suffix=CODE, answer=CODE)
def test_no_filter_fails_or_invents_text(prefix: str, suffix: str, answer: str) -> None:
    here = Site(prefix=prefix, suffix=suffix, language_id="python")
    result = filters.apply(answer, here)
    assert "".join(result.split()) in "".join(answer.split())
    assert result == result.rstrip("\n")


@given(prefix=CODE, suffix=CODE, answer=CODE)
def test_an_end_once_known_lies_in_the_answer(prefix: str, suffix: str, answer: str) -> None:
    here = Site(prefix=prefix, suffix=suffix, language_id="python")
    end = end_of(answer, here)
    assert end is None or 0 <= end <= len(answer)


@pytest.mark.parametrize(
    ("document", "shape"),
    [
        ("x = ‸ + 1", Shape.MIDDLE),
        ("f(‸)", Shape.LINE),
        ("x = ‸", Shape.LINE),
        ("def f():‸", Shape.BLOCK),
        ("    ‸", Shape.BLOCK),
        ("f = (‸", Shape.BLOCK),
    ],
)
def test_shape(document: str, shape: Shape) -> None:
    assert site({"document": document, "language": "python"}).shape is shape


def test_a_word_that_ends_like_an_opening_one_opens_nothing() -> None:
    assert site({"document": "undo‸", "language": "lua"}).shape is Shape.LINE
    assert site({"document": "while x do‸", "language": "lua"}).shape is Shape.BLOCK
