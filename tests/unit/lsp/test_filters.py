"""Each filter, the whole chain and the stop conditions over golden answers."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import linear

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


PLACES = {
    "block": Site("def f():\n    ", "\n    return 1\n", "python"),
    "brackets": Site("x = foo(", ")))\n", "python"),
    "long rest": Site("x = ", "abcd" * 500 + "\n", "javascript"),
    "closed below": Site("    ", "\n)\n", "typescript"),
    "lua string": Site('s = "', '"', "lua"),
    "comment": Site("/* a ", " */", "rust"),
    "recipe": Site("all:\n\t", "\n", "makefile"),
}
ANSWERS = (
    *("\n", " ", "\t", " \n", "(", ")", ")\n", "}\n", "}", '"', "'", "\\", "\\)", "# x\n", "/*"),
    *(
        "<|im_end|>",
        "[INST]",
        "a ",
        "a\n",
        "ab ab ",
        "\u200d",
        "\r",
        "\u2028",
        "print(",
        "x\n\n",
        "$(",
    ),
    *(" \t", "  x\n", "= ", "abcd", "'''", "<!--"),
)


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("name", filters.CHAIN)
def test_filters_are_linear(name: str, place: str) -> None:
    """T1: an answer of one thing over and over, at each kind of place."""
    site, one = PLACES[place], filters.CHAIN[name]

    def judged(part: str) -> bool:
        def made(size: int) -> str:
            return part * (size // len(part))

        return bool(linear(lambda text: one(text, site), made, 1_000, most=4_000))

    assert [part for part in ANSWERS if not judged(part)] == []


def test_filters_still_find_overlaps_at_the_end_of_an_answer() -> None:
    """T1: the bounds do not change what is found."""
    below = Site("x\n", "\nfoo()\nbar()\n", "python")
    assert filters.CHAIN["suffix_overlap"]("a\n\nfoo()\nbar()\n\n", below) == "a\n"
    assert filters.CHAIN["suffix_overlap"]("a\nfoo()\nbaz()", below) == "a\nfoo()\nbaz()"
    brace = Site("", "\n}\n", "c")
    assert filters.CHAIN["duplicate_line"]("a\n}\nb\n}\n\n", brace) == "a\n}\nb"
    closed = Site("f(\n", "\n)\n", "python")
    assert filters.CHAIN["brackets"]("a\n)\n)\n)", closed) == "a"
    rest = Site("x = ", "+ total\n", "python")
    assert filters.CHAIN["suffix_overlap"]("a + total  ", rest) == "a "
    assert filters.CHAIN["suffix_overlap"]("a + tot ", rest) == "a "
    assert filters.CHAIN["suffix_overlap"]("a + ", rest) == "a "
