"""T1, T18, C21: what sees foreign text takes time in proportion to it.

See `steps` for how that is measured.
"""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from steps import linear, linear_steps, steps

import context
from context.edits import Scene, gate
from context.edits.history import History
from context.index.file_record import digest
from context.prompt.window import window
from context.retrieval.name_usage import _binds
from context.syntax.document import Document, TextEdit
from context.syntax.language import language_for
from context.syntax.secrets import ShownText, masked
from context.syntax.syntax_tree import MAX_LINE_BYTES, _has_long_line, only_reach, reach
from context.syntax.text import members, near_names, terms, words

PATTERNS = {
    "equals": "=", "jwt": "eyJ-", "jwt dots": "eyJabcdefghijk.", "word": "a", "capitals": "A", "base64": "aB3/",
    "begin": "-----BEGIN " + "PRIVATE KEY-----", "begin lines": "-----BEGIN " + "PRIVATE KEY-----\n",
    "end": "-----END " + "PRIVATE KEY-----\n", "token": "token", "token =": "token = ", "password:": "password:\n",
    "quotes": "token='", "colons": "a:", "members": "a.", "address": "://a:b", "address run": "://", "@": "a@",
    "slack": "hooks.slack.com/services/", "sk": "sk-", "telegram": "1234567890:AA", "discord": "Mabc.",
    "azure": "8Q~", "atlas": ".atlasv1.", "comments": "# x\n", "blank": "\n", "spaces": " ", "tabs": "\t\n",
    "imports": "from m import n\n", "for": "for ", "brackets": "(", "open lines": "(\n", "strings": '"\n',
    "sig": "&sig=", "auth": "auth\"", "key": "private_key-", "unicode": "é.", "braces": "{a:1},", "pieces": "'aB3dE5fG7hJ9' +\n", "continued": "token=aB3dE5fG7hJ9\\\n", "list values": "token=['aB3dE5fG7hJ9', ",
    "plist": "key</key>\n<string>", "curl": " -u a:", "crypt": "$2y$05$", "dollars": "$6$a$", "blank name": "key ", "triple": 'key="""\n',
    "cookies": "cookie: a=", "commands": "mysql -u ", "netrc": "login a password ", "echoes": "echo 'a' | ",
    "password file": "a:10:b:c:", "env": "DB_PASSWORD=", "xml": "<password ", "shell": "docker login -u ",
    "call in call": "token=a(", "names in lists": "auth=['a', ", "class": "class a ",
}  # fmt: skip


def test_steps_tell_linear_from_quadratic() -> None:
    """T1: the measure itself: a loop passes, a loop in a loop does not."""
    assert linear_steps(lambda text: [ord(char) for char in text], lambda n: "a" * n, 400)
    assert not linear_steps(
        lambda text: [text.count(char) for _ in text for char in text], lambda n: "a" * n, 100
    )
    assert not linear_steps(
        lambda text: [ord(char) for _ in text for char in text], lambda n: "a" * n, 100
    )


@pytest.mark.parametrize("name", sorted(PATTERNS))
@pytest.mark.parametrize(
    "run", [masked, members, terms, words, lambda text: near_names(text, text),
            lambda text: _binds(text, "a"), lambda text: language_for("a.h", text)],
    ids=["masked", "members", "terms", "words", "near_names", "binds", "language"],
)  # fmt: skip
def test_patterns_are_linear(run: Any, name: str) -> None:
    """T1: every pattern, on what makes it start over and over."""
    part = PATTERNS[name]

    def made(size: int) -> str:
        return part * (size // len(part)) + "!"

    assert linear_steps(run, made, 1_000)
    assert linear(run, made, 4_000)


HEADERS = {
    "structs": "struct a{", "closed structs": "struct a{int f(a b);};", "struct words": "struct a ", "ampersands": "a&b,", "defaults": "a b(c=",
    "conditions": "\n#if 1", "const": "const a ", "for (": "for(a b", "chars": "'a", "raw": 'R"(', "block comments": "/*", "stars": "/**",
    "colons (": ":a(b)", "open (": "a b(c ", "angles": "a<b", "operator": "operator ", "square": "=[a,", "names (": "a b(int c d ",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_the_language_of_a_header_is_found_in_linear_time(name: str) -> None:
    """T1, C14: each sign of C++, on what nearly is one."""
    part, other = HEADERS[name], language_for("a.h", HEADERS[name])

    def made(size: int) -> str:
        return part * (size // len(part))

    assert linear_steps(lambda text: language_for("a.h", text), made, 1_000)
    assert linear(lambda text: language_for("a.h", text), made, 4_000)
    assert other is not None


def whole(text: str) -> None:
    document = Document("", "/x/a.py", text)
    counter = Quick()
    layout, control = LAYOUT
    workspace = context.Workspace([], counter, layout, control)
    document = workspace.open(Path("/x/a.py"), text)
    workspace.prompt(document, len(document.data) // 2, 500, rest=True)


class Quick:
    def encode(self, text: str) -> Any:
        return [1] * self.count(text)

    def count(self, text: str) -> Any:
        return len(text) // 4 + 1


LAYOUT = (
    context.FimLayout(
        "toy",
        {context.Part.PREFIX_TOKEN: "<p>", context.Part.SUFFIX_TOKEN: "<s>", context.Part.MIDDLE_TOKEN: "<m>"},
        dict.fromkeys(
            context.CursorKind,
            (context.Part.PREFIX_TOKEN, context.Part.REPO, context.Part.FAR_PREFIX, context.Part.SUFFIX_TOKEN,
             context.Part.SUFFIX, context.Part.MIDDLE_TOKEN, context.Part.PREFIX),
        ),
    ),
    {"<p>": 1, "<s>": 2, "<m>": 3},
)  # fmt: skip

TEXTS = {
    "imports": lambda n: "".join(f"from m{at} import n{at}\n" for at in range(n)),
    "used imports": lambda n: (
        "".join(f"from m{at} import n{at}\n" for at in range(n))
        + "".join(f"n{at}()\n" for at in range(n))
    ),
    "the same import": lambda n: "import os\n" * n,
    "functions": lambda n: "".join(f"def f{at}(x):\n    return x\n" for at in range(n)),
    "constants": lambda n: "".join(f"NAME_{at} = {at}\n" for at in range(n)),
    "members": lambda n: (
        "class A:\n" + "".join(f"    def f{at}(self): self.g{at}\n" for at in range(n))
    ),
    "keys": lambda n: f"password = '{'aB3dE5fG7hJ9'}'\n" * n,
    "list of keys": lambda n: "tokens = [\n" + f"    '{'aB3dE5fG7hJ9kL'}',\n" * n + "]\n",
    "continued key": lambda n: "token = '" + "aB3dE5fG7hJ9kL' +\n    '" * n + "'\n",
    "long list on a line": lambda n: "token = [" + f"'{'aB3dE5fG7hJ9kL'}', " * n + "]\n",
    "decorators": lambda n: "@a\n" * n + "def f(): pass\n",
    "nested functions": lambda n: "".join(f"{' ' * (at % 40)}def f{at}():\n" for at in range(n)),
}


@pytest.mark.parametrize("name", sorted(TEXTS))
@pytest.mark.parametrize(
    "run", [whole, lambda text: digest("a.py", text)], ids=["prompt", "digest"]
)
def test_prompts_and_records_are_linear(run: Any, name: str) -> None:
    """T18: many imports, definitions or keys cost their number."""
    assert linear_steps(run, TEXTS[name], 250)


LISTS = {
    "a.ts": ("import {{\n{}}} from 'a';\n", "  x{0} as y{0},\n"),
    "b.ts": ("import {{\n{}}} from 'a';\n", "  x{0},\n"),
    "a.js": ("const {{\n{}}} = require('a');\n", "  x{0},\n"),
    "b.js": ("const {{\n{}}} = require('a');\n", "  x{0}: y{0},\n"),
    "a.py": ("from a import (\n{})\n", "    x{0},\n"),
    "a.rs": ("use a::{{\n{}}};\n", "    x{0},\n"),
}


@pytest.mark.parametrize("path", sorted(LISTS))
def test_one_import_of_many_names_is_linear(path: str) -> None:
    """T18: also where the module stands after the names."""
    around, each = LISTS[path]

    def names(size: int) -> str:
        return around.format("".join(each.format(at) for at in range(size // 16)))

    def found(text: str) -> int:
        source = Document("", path, text).source
        return len(source.outline.imports) if source is not None else 0

    assert found(names(1_600)) >= 100
    assert linear(found, names, 8_000, most=32_000)


ONE_LINE = {
    "functions": "def f{0}(): pass\n",
    "constants": "N{0} = {0}\n",
    "imports": "import m{0}\n",
    "classes": "class A{0}: x = 1\n",
}


@pytest.mark.parametrize("name", sorted(ONE_LINE))
def test_the_first_prompt_of_a_very_long_text_takes_a_bounded_number_of_steps(name: str) -> None:
    """C21: definitions count around the cursor, however many there are."""
    texts = ["".join(map(ONE_LINE[name].format, range(n))) for n in (30_000, 90_000)]
    whole("x = 1\n")
    small, large = (steps(whole, text) for text in texts)
    assert small < 3_000_000
    assert large - small < 15 * 60_000  # what searches the text for secrets


def test_what_is_around_the_cursor_of_a_very_long_text_is_parsed() -> None:
    """C21: with its places, wherever the cursor goes, and with the imports at the start."""
    lines = [f"class A{at}:\n    def f{at}(self):\n        return {at}\n" for at in range(9_000)]
    text = "import os\n" + "é = 1\n" + "".join(lines)
    document = Document("", "a.py", text)
    for at in (0, 4_000, 8_999, 100):
        offset = text.index(f"return {at}\n")
        document.look_at(len(text[:offset].encode()))
        source = document.source
        assert source is not None and source.parsed_bytes is not None
        assert [one.name for one in source.outline.enclosing(offset)] == [f"A{at}", f"f{at}"]
        assert source.outline.imports[0].module == "os"
        assert source.reach[0] <= offset < source.reach[1]
        assert len(source.outline.definitions) < 12_000
        assert all(
            text[one.start :].startswith(("class ", "def ", "é"))
            for one in source.outline.definitions
        )
    document.replace(text[:3_000])
    source = document.source
    assert source is not None and source.parsed_bytes is None
    assert source.outline.definitions[-1].stop == len(text[:3_000].rstrip())


@pytest.mark.parametrize(
    ("text", "at"),
    [("", 0), ("\n" * 20_000, 9_000), ("a" * 400_000, 10), ("a\n" * 200_000, 399_999)],
)
def test_the_part_that_is_parsed_has_whole_lines(text: str, at: int) -> None:
    """C21: also in texts of one line or of none."""
    data = text.encode()
    first, stop = reach(data, at)
    assert 0 <= first <= at <= stop <= len(data) or "\n" not in text
    assert first == 0 or data[first - 1 : first] == b"\n"
    assert stop == len(data) or stop == 0 or data[stop - 1 : stop] == b"\n"
    assert len(only_reach(data, (first, stop))) == len(data)


def test_very_long_lines_are_not_parsed() -> None:
    """C21: one line of 900,000 characters costs no parse; the document still gets a prompt."""
    long = "x = [" + "1, " * 300_000 + "]\n"
    document = Document("", "a.py", "def f():\n    pass\n" + long)
    source = document.source
    assert source is not None and source.tree.root is None
    document.apply([TextEdit((2, 10), (3, 0), "1]\n")])
    source = document.source
    assert source is not None and source.tree.root is not None, "a short line again is parsed again"
    layout, control = LAYOUT
    for at in (0, 17, 30, 400_000, len(long)):
        made = window(long, at, layout, Quick(), control, 300, 0)
        assert 0 < len(made.ids) <= 300


@pytest.mark.parametrize("end", ["", "\n"])
def test_lines_up_to_the_limit_are_parsed(end: Any) -> None:
    """C21: the limit counts bytes of a line, wherever the line is."""
    for before in ("", "a\n", "a\n" * 9000):
        line = "b" * MAX_LINE_BYTES
        assert not _has_long_line(f"{before}{line}{end}".encode())
        assert _has_long_line(f"{before}{line}b{end}{before}".encode())


def test_an_edit_in_a_long_line_searches_its_neighbourhood() -> None:
    """C21, T2: keys near an edit are found in a line of any length."""
    text = "a, " * 100_000 + "b"
    shown = ShownText(text)
    key = 'token = "' + "aB3dE5fG7hJ9kL" + '"'
    at = 150_000
    text = text[:at] + key + text[at:]
    shown.edited(text, at, at, at + len(key))
    assert shown.spans == ShownText(text).spans and len(shown.spans) == 1


@pytest.mark.parametrize(
    ("part", "path"), [("<!--", "a.py"), ("<!--\n", "a.py"), ('"\\)', "a.lua"), ("%w[", "a.rs")]
)
def test_texts_that_are_no_code_are_parsed_in_linear_time(part: str, path: str) -> None:
    """T1: recovery from errors takes a bounded number of steps, and reads little again."""

    def made(size: int) -> str:
        return part[:1] + part[1:] * (size // len(part)) + "\n"

    def parse(text: str) -> None:
        source = Document("", path, text).source
        assert source is not None
        _ = source.tree.root

    assert linear(parse, made, 2_000)


def test_a_text_on_which_the_parser_gave_up_is_tried_again() -> None:
    """T1: not with each edit, and not never."""
    document = Document("", "a.py", "x = 1\n" + "<!--\n" * 4_000)
    source = document.source
    assert source is not None and source.tree.root is None
    document.apply([TextEdit((1, 0), (4_001, 0), "")])
    for _ in range(30):
        document.apply([TextEdit((0, 5), (0, 5), "1")])
        source = document.source
        assert source is not None
        if source.tree.root is not None:
            break
    assert source.tree.root is not None


@pytest.mark.parametrize("part", ["(", "[", "lambda: ("])
def test_rules_for_next_edits_take_no_longer_in_deep_nesting(part: str) -> None:
    """T1: only the inner part of what is around a name is looked at."""

    def made(size: int) -> str:
        closer = {"[": "]"}.get(part[-1], ")")
        return "old = 1\n" + (part + "\n") * size + "old\n" + (closer + "\n") * size

    def found(text: str) -> None:
        document = Document("/p", "a.py", text.replace("old", "new", 1))
        history = History()
        history.changed(0, ["old = 1"], ["new = 1"])
        source = document.source
        assert source is not None
        gate.find(Scene(document, source, 0, history.hunks))

    assert linear(found, made, 500, most=2_000)
