"""What a question tells the model of its place."""

from __future__ import annotations

import pytest

from lsp.completion.completion_stream import body_start, half_typed, unwanted_line
from lsp.document import Document, Encoding
from lsp.site import Site

CURSOR = "\u2038"


def site_of(text: str, language: str = "python") -> Site:
    prefix, suffix = text.split(CURSOR)
    document = Document("file:///a", prefix + suffix, encoding=Encoding.UTF32, language=language)
    line = prefix.count("\n")
    return document.site(document.place(line, len(prefix) - prefix.rfind("\n") - 1))


def unlike(text: str) -> str:
    site = site_of(text)
    rest = unwanted_line(site)
    return half_typed(site) + rest if rest else ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if a:\n    del ‸\n    del a.first[0]  \n", " a.first[0]"),
        ("if a:\n    del a.fir‸\n\n    del a.first[0]\n", "first[0]"),
        ("if a:\n    ‸\n    return 1\n", "return 1"),
        ("if a:\n    x‸\n    return 1\n", ""),
        ("if a:\n    ret‸ 2\n    return 1\n", ""),
        ("if a:\n    return 1‸\n    return 1\n", ""),
        ("x = ‸", ""),
        (f"x = ‸\nx = {'y' * 300}\n", ""),
    ],
)
def test_the_answer_should_not_be_the_line_below(text: str, expected: str) -> None:
    assert unlike(text) == expected


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "if x:‸\n"),
        ("python", "    else:‸\nfoo()\n"),
        ("python", "class A(B):‸"),
        ("python", "async def f() -> int:‸"),
        ("python", "with open(a) as f:‸\n\ndef g():\n    pass\n"),
        ("python", "try:‸"),
        ("javascript", "if (a) {‸\n}\n"),
        ("javascript", "use(x => {‸\n"),
        ("javascript", "} else {‸\n}\n"),
        ("typescript", "function f(): number {‸"),
        ("typescript", "export interface A {‸"),
        ("go", "if err != nil {‸\n}\n"),
        ("go", "func f() int {‸"),
        ("rust", "match x {‸"),
        ("rust", "pub(crate) fn f() -> i32 {‸"),
        ("cpp", "void f() const {‸"),
        ("java", "} catch (E e) {‸"),
        ("swift", "guard let x = y else {‸"),
    ],
)
def test_a_missing_body_begins_on_the_next_line(language: str, text: str) -> None:
    assert body_start(site_of(text, language)).startswith("\n")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "if x:‸\n    pass\n"),  # it is there
        ("python", "if x:‸ pass\n"),
        ("python", "if x: ‸"),  # the line goes on
        ("python", "if x‸"),
        ("python", "y:‸\n"),  # a type
        ("python", "match: int‸"),
        ("python", "case:‸"),
        ("python", "d = {\n    'a':‸\n}\n"),
        ("python", "def f(a,\n      b:‸\n"),
        ("python", "if f(a,\n     lambda x:‸\n"),
        ("python", "f = lambda x:‸"),
        ("python", "x[1:‸"),
        ("python", "# if x:‸"),
        ("python", '"""\nfor each item:‸\n"""\n'),
        ("yaml", "if:‸"),
        ("yaml", "for x:‸"),
        ("makefile", "all:‸"),
        ("javascript", "const a = {‸\n"),
        ("javascript", "use(x => {‸})\n"),
        ("javascript", "if (a) {‸\n  b()\n}\n"),
        ("javascript", "import {‸"),
        ("javascript", "/* if (a) {‸ */"),
        ("go", "x := T{‸"),
        ("rust", "use a::{‸"),
        ("c", "int a[] = {‸"),
        ("c", "struct A a = {‸"),
        ("css", "a:hover {‸"),
    ],
)
def test_other_answers_may_go_on_in_the_line(language: str, text: str) -> None:
    assert not body_start(site_of(text, language))


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("python", "if x:‸\n", "\n    "),
        ("python", "def f():\n  if x:‸\n", "\n    "),
        ("python", "def f():\n\tif x:‸\n", "\n\t\t"),
        ("javascript", "function f() {\n  if (a) {‸\n  }\n}\n", "\n    "),
        ("go", "func f() {\n\tif a {‸\n\t}\n}\n", "\n\t\t"),
        ("go", "func f() {\n\tswitch a {‸\n\t}\n}\n", "\n"),
        ("cpp", "namespace a {‸\n}\n", "\n"),
        ("cpp", "class A {‸\n};\n", "\n"),
    ],
)
def test_the_body_is_indented_as_the_file_is(language: str, text: str, expected: str) -> None:
    assert body_start(site_of(text, language)) == expected
