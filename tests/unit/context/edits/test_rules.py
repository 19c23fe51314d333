"""The rules give exactly the edits of their golden histories."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from text_project import ROOT, TextProject

from context.edits import (
    EditKind,
    NextEdit,
    Scene,
    gate,
    imports,
    names,
    renames,
    siblings,
    signatures,
)
from context.edits.history import History, between
from context.syntax.document import Document, Source

_RULES: dict[str, Callable[[Scene], list[NextEdit]]] = {
    "rename": renames.find,
    "signature": signatures.find,
    "sibling": siblings.find,
    "import": imports.find,
}
_CASES: list[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("golden.toml").read_text("utf-8")
)["case"]


def scene(
    path: str,
    texts: Sequence[str],
    files: dict[str, str] | None = None,
    accepted: frozenset[tuple[str, str]] = frozenset(),
) -> Scene:
    document = Document(ROOT, path, texts[-1])
    history = History()
    for before, after in itertools.pairwise(texts):
        changed = between(before.split("\n"), after.split("\n"))
        assert changed is not None
        history.changed(*changed)
    source = document.source
    assert source is not None
    project = TextProject({path: texts[0], **files}) if files else None
    return Scene(document, source, 0, history.hunks, project, accepted=accepted)


def shown(seen: Scene, edits: Sequence[NextEdit]) -> list[str]:
    return [
        f"{seen.line_of(one.start)}: {seen.text[one.start : one.stop].rstrip(' ')} -> {one.text}"
        if not one.path
        else f"{one.path} {one.start}: {one.text}"
        for one in edits
    ]


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{case['rule']}: {case['name']}")
def test_golden_history(case: dict[str, Any]) -> None:
    seen = scene(case["path"], case["texts"])
    found = [one.replace("  -> ", " -> ") for one in shown(seen, _RULES[case["rule"]](seen))]
    assert found == [one.replace("  -> ", " -> ") for one in case["expected"]]


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (("    first = item[0]", "    first = token[0]"), ["3: item -> token"]),
        (("    first = item[0]", "    first = item[1]"), []),
        (("    first = token[0]", "    first = item[0]"), []),
    ],
)
def test_a_rename_goes_on_after_a_line_with_the_new_name_was_accepted(
    accepted: tuple[str, str], expected: list[str]
) -> None:
    """The declaration and the line below it: by hand they say too little."""
    before = "def f(item):\n    first = item[0]\n    mark = match(first)\n    item[1] = mark\n"
    after = before.replace("(item)", "(token)").replace("item[0]", "token[0]")
    seen = scene("a.py", [before, after], accepted=frozenset({accepted}))
    assert shown(seen, renames.find(seen)) == expected


def test_a_rename_reaches_the_files_that_import_the_name() -> None:
    files = {
        "pkg/b.py": "from pkg.a import load\n\nload(1)\n",
        "pkg/c.py": "from other.a import load\n\nload(1)\n",
        "pkg/d.py": "from .a import x, load as read\n",
    }
    seen = scene("pkg/a.py", ["def load():\n    pass\n", "def fetch():\n    pass\n"], files)
    found = renames.find(seen)
    assert shown(seen, found) == ["pkg/b.py 18: fetch", "pkg/d.py 18: fetch"]


_LOAD = "def load(path, mode, size=1):\n    return path\n"
_USERS = {
    "pkg/b.py": "from pkg.a import load\n\nload(p, m)\nload(p, m, 3)\nload(p, mode=m)\n",
    "pkg/c.py": "from pkg import a\n\na.load(p, m, size=3)\n\ndef f(a):\n    a.load(1, 2, 3)\n",
    "pkg/__init__.py": "from .a import load\n",
    "main.py": "from pkg import load as read\n\nread(1, 2, 3)\n",
    "d.py": "import pkg.a\n\npkg.a.load(1, 2, 5)\n",
    "e.py": "from other import load\n\nload(1, 2, 3)\n",
    "f.py": "from pkg.a import other as load\n\nload(1, 2, 3)\n",
    "g.py": "try:\n    from pkg.a import load\nexcept ImportError:\n    load = None\n"
    "load(1, 2, 3)\n",
}
_BOX = """export class Box {
  constructor(w: number, h: number) {}
  static of(w: number, h: number) { return w; }
}
"""
_BOX_USERS = {
    "src/b.ts": "import { Box } from './a';\nnew Box(1, 2);\nBox.of(3, 4);\n",
    "src/c.ts": "import * as all from './a';\nnew all.Box(1, 2);\nall.Box.of(3, 4);\n",
    "src/e.ts": "import { Box } from './a.js';\nnew Box(5, 6);\nBox.of(7, 8);\n",
    "src/d.ts": "import { Box } from './z';\nnew Box(1, 2);\nBox.of(3, 4);\n",
}
_SHAPE = """package p;

class Shape {
  Shape(int w, int h) { }
  static int area(int w, int h) { return w; }
}
"""
_SHAPE_USERS = {
    "p/B.java": "package p;\n\nclass B {\n  int f() { new Shape(1, 2); }\n"
    "  int g() { return Shape.area(3, 4); }\n}\n",
    "q/C.java": "package q;\n\nimport p.Shape;\n\nclass C {\n  int f() { new Shape(1, 2); }\n"
    "  int g() { return Shape.area(3, 4); }\n}\n",
    "test/p/F.java": "package p;\n\nclass F {\n  int f() { new Shape(5, 6); }\n}\n",
    "q/D.java": "package q;\n\nimport r.Shape;\n\nclass D {\n  int f() { new Shape(1, 2); }\n}\n",
    "q/E.java": "package q;\n\nclass E {\n  int f() { new Shape(1, 2); }\n}\n",
}


def _as_csharp(text: str) -> str:
    return text.replace("package", "namespace").replace("import p.Shape", "using p")


_AREA = "package shape\n\nfunc Area(w int, h int) int { return w }\n"
_AREA_USERS = {
    "shape/b.go": "package shape\n\nfunc f() { Area(1, 2) }\n",
    "main.go": 'package main\n\nimport "example.com/x/shape"\n\nfunc f() { shape.Area(1, 2) }\n',
    "last.go": 'package main\n\nimport s "example.com/x/shape"\n\nfunc f() { s.Area(1, 2) }\n',
    "other/b.go": "package other\n\nfunc f() { Area(1, 2) }\n",
}
_RUST = "pub fn area(w: i32, h: i32) -> i32 { w }\n"
_RUST_USERS = {
    "src/main.rs": "use crate::shape::area;\n\nfn main() { area(1, 2); }\n",
    "src/b.rs": "use crate::shape;\n\nfn f() { shape::area(1, 2); }\n",
    "src/c.rs": "use super::shape::{area, x};\n\nfn f() { area(1, 2); }\n",
    "src/d.rs": "use crate::other::area;\n\nfn f() { area(1, 2); }\n",
}


def lines_after(files: dict[str, str], edits: Sequence[NextEdit]) -> list[str]:
    """For each edit of another file the path, and the lines that it makes."""
    found = []
    for one in edits:
        text = files[one.path]
        made = text[: one.start] + one.text + text[one.stop :]
        changed = between(text.split("\n"), made.split("\n"))
        assert changed is not None
        found.append(f"{one.path}: {' | '.join(line.strip() for line in changed[2])}")
    return found


@pytest.mark.parametrize(
    ("path", "text", "old", "new", "files", "expected"),
    [
        (
            "pkg/a.py", _LOAD, ", size=1", "", _USERS,
            ["pkg/b.py: load(p, m)", "pkg/c.py: a.load(p, m)", "main.py: read(1, 2)",
             "d.py: pkg.a.load(1, 2)"],
        ),
        (  # a call with two arguments may have been updated
            "pkg/a.py", _LOAD, "mode, ", "", _USERS,
            ["pkg/b.py: load(p, 3)", "main.py: read(1, 3)", "d.py: pkg.a.load(1, 5)"],
        ),
        (
            "pkg/a.py", _LOAD, "size=1", "*, size=1", _USERS,
            ["pkg/b.py: load(p, m, size=3)", "main.py: read(1, 2, size=3)",
             "d.py: pkg.a.load(1, 2, size=5)"],
        ),
        ("pkg/a.py", _LOAD, "mode", "kind", _USERS, ["pkg/b.py: load(p, kind=m)"]),
        ("pkg/a.py", _LOAD, "path, mode", "mode, path", _USERS, []),
        ("pkg/a.py", _LOAD, "path, mode", "path, mode, kind", _USERS, []),
        (
            "pkg/a.py", "class A:\n    def f(self, a, b):\n        pass\n", ", b", "",
            {"b.py": "from pkg.a import A\n\nA().f(1, 2)\nA.f(x, 1, 2)\n"}, [],
        ),
        (
            "pkg/a.py", "class A:\n    @classmethod\n    def f(cls, a, b):\n        pass\n",
            ", b", "", {"b.py": "from pkg.a import A\n\nA.f(1, 2)\nx.f(1, 2)\n"},
            ["b.py: A.f(1)"],
        ),
        (
            "pkg/a.py", "def f(a, b, *rest):\n    pass\n", "a, b", "a",
            {"b.py": "from pkg.a import f\n\nf(1, 2, 3)\n"}, [],
        ),
        (
            "src/a.ts", _BOX, "constructor(w: number, h: number)", "constructor(w: number)",
            _BOX_USERS,
            ["src/b.ts: new Box(1);", "src/c.ts: new all.Box(1);", "src/e.ts: new Box(5);"],
        ),
        (
            "src/a.ts", _BOX, "of(w: number, h: number)", "of(w: number)",
            _BOX_USERS,
            ["src/b.ts: Box.of(3);", "src/c.ts: all.Box.of(3);", "src/e.ts: Box.of(7);"],
        ),
        (
            "p/Shape.java", _SHAPE, "Shape(int w, int h)", "Shape(int w)", _SHAPE_USERS,
            ["p/B.java: int f() { new Shape(1); }", "q/C.java: int f() { new Shape(1); }",
             "test/p/F.java: int f() { new Shape(5); }"],
        ),
        (
            "p/Shape.java", _SHAPE, "area(int w, int h)", "area(int w)", _SHAPE_USERS,
            ["p/B.java: int g() { return Shape.area(3); }",
             "q/C.java: int g() { return Shape.area(3); }"],
        ),
        (
            "p/Shape.cs", _as_csharp(_SHAPE), "Shape(int w, int h)", "Shape(int w)",
            {path.replace("java", "cs"): _as_csharp(text) for path, text in _SHAPE_USERS.items()},
            ["p/B.cs: int f() { new Shape(1); }", "q/C.cs: int f() { new Shape(1); }",
             "test/p/F.cs: int f() { new Shape(5); }"],
        ),
        (
            "shape/a.go", _AREA, ", h int", "", _AREA_USERS,
            ["shape/b.go: func f() { Area(1) }", "main.go: func f() { shape.Area(1) }",
             "last.go: func f() { s.Area(1) }"],
        ),
        (
            "src/shape.rs", _RUST, ", h: i32", "", _RUST_USERS,
            ["src/main.rs: fn main() { area(1); }", "src/b.rs: fn f() { shape::area(1); }",
             "src/c.rs: fn f() { area(1); }"],
        ),
    ],
)  # fmt: skip
def test_calls_in_other_files_follow_a_signature(
    path: str, text: str, old: str, new: str, files: dict[str, str], expected: list[str]
) -> None:
    assert old in text
    after = text.replace(old, new, 1)
    found = signatures.find(scene(path, [text, after], files))
    assert lines_after(files, found) == expected
    # Where they are updated, nothing is left: what was edited there is not known.
    for one in reversed(found):
        made = files[one.path]
        files = {**files, one.path: made[: one.start] + one.text + made[one.stop :]}
    assert signatures.find(scene(path, [text, after], files)) == []


@pytest.mark.parametrize(
    ("path", "text", "old", "new", "files", "expected"),
    [
        (
            "pkg/a.py", _LOAD, "load", "fetch", _USERS,
            ["pkg/b.py: from pkg.a import fetch", "pkg/c.py: a.fetch(p, m, size=3)",
             "pkg/__init__.py: from .a import fetch", "main.py: from pkg import fetch as read",
             "d.py: pkg.a.fetch(1, 2, 5)", "g.py: from pkg.a import fetch"],
        ),
        (
            "shape/a.go", _AREA, "Area", "Surface", _AREA_USERS,
            ["shape/b.go: func f() { Surface(1, 2) }", "main.go: func f() { shape.Surface(1, 2) }",
             "last.go: func f() { s.Surface(1, 2) }"],
        ),
        (
            "src/shape.rs", _RUST, "area", "surface", _RUST_USERS,
            ["src/main.rs: use crate::shape::surface;",
             "src/b.rs: fn f() { shape::surface(1, 2); }",
             "src/c.rs: use super::shape::{surface, x};"],
        ),
        ("p/Shape.java", _SHAPE.replace("Shape(int w, int h) { }", ""), "Shape", "Box",
         _SHAPE_USERS, []),
    ],
)  # fmt: skip
def test_a_rename_goes_on_in_other_files(
    path: str, text: str, old: str, new: str, files: dict[str, str], expected: list[str]
) -> None:
    found = renames.find(scene(path, [text, text.replace(old, new, 1)], files))
    assert lines_after(files, found) == expected


@pytest.mark.parametrize(
    ("defined", "expected"),
    [
        ("def fetch(path):\n    pass\n", ["2: load -> fetch"]),
        ("def fetch(path):\n    pass\n\ndef load(path):\n    pass\n", []),
        ("def load(path):\n    pass\n", []),
    ],
)
def test_uses_follow_an_import_where_the_name_was_renamed_there(
    defined: str, expected: list[str]
) -> None:
    before = "from pkg.a import load\n\nload(1)\n"
    after = before.replace("import load", "import fetch")
    seen = scene("pkg/b.py", [before, after], {"pkg/a.py": defined})
    assert shown(seen, renames.find(seen)) == expected


@pytest.mark.parametrize(
    ("files", "before", "typed", "expected"),
    [
        (  # as another file does
            {"pkg/b.py": "from tools.core import Thing\n"},
            "import os\n\n",
            "x = Thing()\n",
            "from tools.core import Thing\n",
        ),
        (  # its only definition, in the same package, into an existing statement in order
            {"pkg/b.py": "class Thing:\n    pass\n"},
            "from pkg.b import Apple, Zebra\n\n",
            "x = Thing()\n",
            "Thing, ",
        ),
        (  # relative imports are the custom here
            {"pkg/b.py": "class Thing:\n    pass\n"},
            "from .c import Other\n\n",
            "x = Thing()\n",
            "from .b import Thing\n",
        ),
        (
            {"b.py": "class Thing: ...\n", "c.py": "class Thing: ...\n"},
            "import os\n",
            "Thing()",
            "",
        ),
        ({"pkg/b.py": "def f():\n    Thing = 1\n"}, "import os\n", "Thing()", ""),
        (
            {"pkg/b.py": "class Thing: ...\n"},
            "try:\n    from x import *\nexcept ImportError:\n    pass\n",
            "Thing()\n",
            "",
        ),
        (  # under the name that another file gives it
            {"pkg/b.py": "import tools.core as Thing\n"},
            "import os\n\n",
            "x = Thing()\n",
            "import tools.core as Thing\n",
        ),
        (
            {"pkg/b.py": "from tools import Core as Thing\n"},
            "import os\n\n",
            "x = Thing()\n",
            "from tools import Core as Thing\n",
        ),
        (  # a relative import of another folder, as it is written here
            {"pkg/x/b.py": "from ..core import Thing\n"},
            "from .c import Other\n\n",
            "x = Thing()\n",
            "from .core import Thing\n",
        ),
        (
            {"pkg/x/b.py": "from .core import Thing\n"},
            "from .c import Other\n\n",
            "x = Thing()\n",
            "from .x.core import Thing\n",
        ),
        (  # the package may end between them
            {"x/b.py": "from .core import Thing\n"},
            "import os\n",
            "x = Thing()\n",
            "",
        ),
        (
            {"pkg/b.py": "from .core import Thing\n"},
            "import os\n\n",
            "x = Thing()\n",
            "from .core import Thing\n",
        ),
        (
            {"pkg/x/b.py": "from ..core import Thing\n"},
            "from pkg.y import other\n",
            "x = Thing()\n",
            "from pkg.core import Thing\n",
        ),
        (  # the library's module is meant
            {"pkg/b.py": "from datetime import time\n"},
            "import os\n",
            "time.sleep(1)\n",
            "",
        ),
        ({"pkg/b.py": "import os.path\n"}, "import sys\n", "os.sep\n", "import os\n"),
        (  # they disagree
            {
                "pkg/b.py": "from functools import partial\n",
                "pkg/c.py": "from tools import partial\n",
            },
            "import os\n",
            "partial()\n",
            "",
        ),
        (  # the project has names of its own that the library has too
            {"b.py": "class Path: ...\n", "c.py": "class Path: ...\n"},
            "import os\n",
            "Path()\n",
            "",
        ),
        (
            {"pkg/b.py": "class Thing: ...\nclass Other: ...\n"},
            "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import pkg.b\n\n",
            "def f(x: Thing): ...\n",
            "    from pkg.b import Thing\n",
        ),
    ],
)
def test_a_missing_import(files: dict[str, str], before: str, typed: str, expected: str) -> None:
    seen = scene("pkg/a.py", [before, before + typed], files)
    found = imports.find(seen)
    assert [one.text for one in found] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("path", "files", "before", "typed", "expected"),
    [
        (
            "src/a.ts",
            {"src/b.ts": "export class Thing {}\n"},
            "import { x } from './x'\n\n",
            "const y = new Thing()\n",
            "import { Thing } from './b'\n",
        ),
        (
            "src/a.ts",
            {"src/b.ts": "export class Thing<T> {}\n"},
            '"use strict";\n',
            "const y: Thing<string> = z;\n",
            '\nimport { Thing } from "./b";\n\n',
        ),
        (
            "src/a.ts",
            {"src/b.ts": "export class Thing {}\n"},
            'import {\n  Other,\n} from "./b";\n',
            "new Thing();\n",
            "  Thing,\n",
        ),
        (
            "src/a.tsx",
            {"src/b.tsx": "export function Thing() {}\n"},
            'import { x } from "./x";\n',
            "const y = <Thing/>;\n",
            'import { Thing } from "./b";\n',
        ),
        (
            "src/a.tsx",
            {"src/b.tsx": "export function div() {}\n"},
            'import { x } from "./x";\n',
            "const y = <div/>;\n",
            "",
        ),
        (
            "src/a.ts",
            {"src/b.ts": "export class Event {}\n"},
            'import { x } from "./x";\n',
            "new Event();\n",
            "",
        ),
        (
            "src/a.js",
            {"src/b.js": "export function helper() {}\n"},
            'const x = require("./x");\n',
            "helper();\n",
            "",
        ),
    ],
)
def test_a_missing_import_of_a_script(
    path: str, files: dict[str, str], before: str, typed: str, expected: str
) -> None:
    seen = scene(path, [before, before + typed], files)
    assert [one.text for one in imports.find(seen)] == ([expected] if expected else [])


_GO = 'package main\n\nimport (\n\t"fmt"\n\t"strings"\n\n\t"example.com/x/b"\n)\n\n'
_JAVA = "package p;\n\nimport java.util.Map;\n\nimport p.z.Other;\n\n"


@pytest.mark.parametrize(
    ("path", "files", "before", "typed", "expected"),
    [
        ("a.go", {}, _GO, "var x = os.Args\n", '\t"os"\n'),
        ("a.go", {}, _GO, "var x = json.Valid(nil)\n", '\t"encoding/json"\n'),
        ("a.go", {}, _GO, "var x = json.valid\n", ""),
        (  # the library has one that is called the same
            "a.go",
            {"c/d.go": 'package c\n\nimport "example.com/x/errors"\n'},
            _GO,
            "var x = errors.New(1)\n",
            '\t"example.com/x/errors"\n',
        ),
        ("a.go", {}, _GO, "func f(json T) { json.Valid(nil) }\n", ""),
        ("a.go", {"b.go": "package main\n\nvar json = 1\n"}, _GO, "var x = json.Valid(nil)\n", ""),
        (
            "a.go",
            {"c/d.go": 'package c\n\nimport "example.com/x/shape"\n'},
            _GO,
            "var x shape.Circle\n",
            '\t"example.com/x/shape"\n',
        ),
        (
            "a.go",
            {"c/d.go": 'package c\n\nimport geo "example.com/x/shape"\n'},
            _GO,
            "var x = geo.Area(1)\n",
            '\tgeo "example.com/x/shape"\n',
        ),
        (
            "a.go",
            {"c/d.go": 'package c\n\nimport "other.org/shape"\n'},
            'package a\n\nimport (\n\t"fmt"\n)\n\n',
            "var x shape.Circle\n",
            '\n\t"other.org/shape"\n',
        ),
        ("a.go", {}, "// Package a is one.\npackage a\n\n", "var x = os.Args\n", '\nimport "os"\n'),
        ("a.go", {}, 'package a\n\nimport "fmt"\n\n', "var x = os.Args\n", 'import "os"\n'),
        ("p/A.java", {}, _JAVA, "class A { List<String> x; }\n", "import java.util.List;\n"),
        ("p/A.java", {}, _JAVA, "class A { String x; }\n", ""),
        ("p/A.java", {}, _JAVA, "class A<List> { List x; }\n", ""),
        ("p/A.java", {}, _JAVA, "class A { Object x = Files.list(p); }\n",
         "import java.nio.file.Files;\n"),
        ("p/A.java", {"p/List.java": "package p;\n\nclass List {}\n"}, _JAVA,
         "class A { List x; }\n", ""),
        (
            "p/A.java",
            {"q/B.java": "package q;\n\nimport org.lib.Shape;\n"},
            _JAVA,
            "class A { Shape x; }\n",
            "import org.lib.Shape;\n",
        ),
        (
            "p/A.java",
            {"p/q/Shape.java": "package p.q;\n\npublic class Shape {}\n"},
            _JAVA,
            "class A { Shape x = new Shape(); }\n",
            "import p.q.Shape;\n",
        ),
        (
            "p/A.java",
            {"p/q/Shape.java": "package p.q;\n\npublic class Shape {}\n"},
            _JAVA + "import p.r.*;\n",
            "class A { Shape x = new Shape(); }\n",
            "",
        ),
        (
            "p/A.java",
            {"p/q/Shape.java": "package p.q;\n\npublic class Shape {}\n"},
            "/* License */\npackage p;\n\n",
            "class A { Shape x; }\n",
            "\nimport p.q.Shape;\n",
        ),
        (
            "src/a.rs",
            {"src/shape.rs": "pub fn area(w: i32) -> i32 { w }\n"},
            "use crate::x::y;\nuse std::fs;\n\n",
            "fn f() { area(1); }\n",
            "use crate::shape::area;\n",
        ),
        ("src/a.rs", {"src/shape.rs": "fn area(w: i32) -> i32 { w }\n"}, "use crate::x::y;\n\n",
         "fn f() { area(1); }\n", ""),
        (
            "src/a.rs",
            {},
            "use std::collections::{BTreeMap, HashSet};\n\n",
            "fn f(x: HashMap<u8, u8>) {}\n",
            "HashMap, ",
        ),
        ("src/a.rs", {}, "#![allow(dead_code)]\n\n", "fn f(x: Arc<u8>) {}\n",
         "\nuse std::sync::Arc;\n"),
        ("src/a.rs", {"src/b.rs": "use anyhow::Result;\n"}, "use std::fs;\n\n",
         "fn f() -> Result<u8, u8> { Ok(1) }\n", ""),
        ("src/a.rs", {"src/b.rs": "use serde::Serialize;\n"}, "use std::fs;\n\n",
         "#[derive(Serialize)]\nstruct A;\n", "use serde::Serialize;\n"),
        ("src/a.rs", {"src/b.rs": "use crate::x::Key;\n"}, "use std::fs;\n\n",
         "fn f<Key>(x: Key) {}\n", ""),
        ("src/a.rs", {}, "use std::fs;\n\n", "mod tests { use super::*; fn f(x: Arc<u8>) {} }\n",
         ""),
        ("src/a.rs", {}, "use std::fs;\n\nmod tests { use super::*; }\n", "fn f(x: Arc<u8>) {}\n",
         "use std::sync::Arc;\n"),
        (
            "A.cs",
            {"q/Shape.cs": "namespace Geo.Shapes;\n\npublic class Shape { public Shape() { } }\n",
             "B.cs": "using Geo.Shapes;\n\nclass B { Shape x; }\n"},
            "using System.IO;\nusing Newtonsoft.Json;\n\n",
            "class A { Shape x = new Shape(); }\n",
            "using Geo.Shapes;\n",
        ),
        (
            "A.cs",
            {"q/Shape.cs": "namespace Geo\n{\n    public class Shape { }\n}\n",
             "B.cs": "using Geo;\n\nnamespace X\n{\n    class B { Shape x; }\n}\n"},
            "using System.IO;\n\n",
            "namespace Y\n{\n    class A { Shape x; }\n}\n",
            "using Geo;\n",
        ),
        (
            "A.cs",
            {"q/Shape.cs": "namespace Geo.Shapes;\n\npublic class Shape { }\n"},
            "namespace Geo.Shapes.Tests;\n\n",
            "class A { Shape x; }\n",
            "",
        ),
        (
            "A.cs",
            {"q/Shape.cs": "namespace Geo;\n\npublic class Shape { }\n",
             "Usings.cs": "global using Geo;\n", "B.cs": "class B { Shape x; }\n"},
            "using System.IO;\n\n",
            "class A { Shape x; }\n",
            "",
        ),
        ("A.cs", {"q/Size.cs": "namespace Geo;\n\npublic class Size { }\n"}, "using System.IO;\n\n",
         "class A : B { int F() { return Size.Width; } }\n", ""),
        ("A.cs", {}, "using System.IO;\n\n", "class A { StringBuilder x; }\n",
         "using System.Text;\n"),
        (  # a library's, in the project's settings
            "A.cs",
            {"B.cs": "class B { StringBuilder x; }\n"},
            "using System.IO;\n\n",
            "class A { StringBuilder x; }\n",
            "",
        ),
        (
            "x/src/a.rs",
            {"x/src/b/mod.rs": "pub struct Shape;\n", "y/src/c.rs": "use crate::d::Shape;\n"},
            "use std::fs;\n\n",
            "fn f(x: Shape) {}\n",
            "use crate::b::Shape;\n",
        ),
        ("x/src/a.rs", {"y/src/b.rs": "pub struct Shape;\n"}, "use std::fs;\n\n",
         "fn f(x: Shape) {}\n", ""),
        (  # made by a macro of this file
            "src/a.rs",
            {"src/b.rs": "use crate::a::area;\n"},
            "use std::fs;\n\nfunction!(area);\n",
            "fn f() { area(1); }\n",
            "",
        ),
        ("src/a.rs", {"src/b.rs": "use self::c::area;\n"}, "use std::fs;\n\n",
         "fn f() { area(1); }\n", ""),
        ("src/a.rs", {}, "use std::fs;\n\n", "fn f() { use a::*; let x: Arc<u8>; }\n", ""),
        ("src/a.rs", {}, "use std::{fs, sync::{Arc, Mutex}};\n\n", "fn f(x: Arc<u8>) {}\n", ""),
        ("p/A.java", {"test/p/B.java": "package p;\n\nclass List {}\n"}, _JAVA,
         "class A { List x; }\n", ""),
        ("p/A.java", {"q/B.java": "package q;\n\nimport org.junit.Test;\n"}, _JAVA,
         "class A { @Test void f() {} }\n", "import org.junit.Test;\n"),
        ("p/A.java", {"q/B.java": "package q;\n\nimport static java.lang.X.METHOD;\n"}, _JAVA,
         "class A { @Target(METHOD) void f() {} }\n", ""),
        ("src/a.rs", {"src/b.rs": "use clap::arg;\n"}, "use std::fs;\n\n",
         "struct A { #[arg(short)] x: u8 }\n", ""),
        ("p/A.java", {"q/B.java": "package q;\n\nimport java.util.Map.Entry;\n"}, _JAVA,
         "class A { Map.Entry x; }\n", ""),
        ("a.go", {}, _GO, "var x = new(bytes.Buffer)\n", '\t"bytes"\n'),
        ("a.lua", {"b.lua": "local x = require('y')\n"}, "local z = 1\n", "x.f()\n", ""),
        (
            "src/a.ts",
            {"src/b.ts": "export class Thing {}\n"},
            "import * as x from './x';\n\n",
            "const y = new Thing();\n",
            "import { Thing } from './b';\n",
        ),
        (
            "src/a.ts",
            {"src/b.ts": "import type { Thing } from './c/d';\n"},
            "import { x } from './x';\n\n",
            "const y: Thing = z;\n",
            "import type { Thing } from './c/d';\n",
        ),
        (
            "src/a.ts",
            {"src/b.ts": "import type { Thing } from './c/d';\n"},
            "import type { Other } from './c/d';\nimport { x } from './c/d';\n\n",
            "const y: Thing = z;\n",
            ", Thing",
        ),
        (
            "src/c/a.ts",
            {"src/b.ts": "import { Thing } from './d/e';\n"},
            "import { x } from './x';\n\n",
            "new Thing();\n",
            "import { Thing } from '../d/e';\n",
        ),
        (
            "one/app/src/c/a.ts",
            {"two/src/b.ts": "export class Thing {}\n"},
            "import { x } from './x';\n\n",
            "new Thing();\n",
            "",
        ),
        (
            "src/a.ts",
            {"src/b/index.ts": "export class Thing {}\n"},
            "import { x } from './x.js';\n\n",
            "new Thing();\n",
            "import { Thing } from './b/index.js';\n",
        ),
        (  # what others import from this file is made here
            "src/a.ts",
            {"src/b.ts": "import { thing } from './a.js';\n"},
            "import { x } from './x.js';\n\n",
            "thing();\n",
            "",
        ),
        (  # another file has it without an import, so it is everywhere
            "src/a.ts",
            {"src/b.ts": "import { it } from 'vitest';\n", "src/c.ts": "it('works');\n"},
            "import { x } from './x';\n\n",
            "it('works');\n",
            "",
        ),
        ("src/a.ts", {"src/b.ts": "export class Thing {}\n"}, "import * as x from './x';\n\n",
         "function f<Thing>(y: Thing) {}\n", ""),
    ],
)  # fmt: skip
def test_a_missing_import_in_other_languages(
    path: str, files: dict[str, str], before: str, typed: str, expected: str
) -> None:
    seen = scene(path, [before, before + typed], files)
    assert [one.text for one in imports.find(seen)] == ([expected] if expected else [])


def test_many_similar_lines_need_the_scopes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base = "def f(a):\n    total = 1\n" + "".join(f"    use(a.x{n})\n" for n in range(1000))
    texts = [base + "# a line that is longer\n"]
    for line in ("    use(a.x0)", "    use(a.x1)"):
        texts.append(texts[-1].replace(line + "\n", line.replace("(", "(total, ") + "\n"))
    built: list[Source] = []

    def counted(source: Source) -> names.Scopes | None:
        built.append(source)
        return names.scopes_of(source)

    monkeypatch.setattr(siblings, "scopes_of", counted)
    found = siblings.find(scene("a.py", texts))
    assert len(built) == 1
    assert len(found) == 200
    assert found[0].start < found[-1].start


def test_two_examples_of_a_new_name_are_sure_enough_for_eager_only() -> None:
    case = next(one for one in _CASES if one["name"].endswith("two lines: not sure"))
    seen = scene("a.py", case["texts"])
    found = gate.find(seen)
    moment = gate.Moment("a.py", seen.text, 0, seen.hunks)
    assert [one.kind for one in found] == [EditKind.SIBLING] * 2
    for level, passes in (("quiet", False), ("normal", False), ("eager", True)):
        assert gate.judge(found[0], moment).passes(gate.Level(level)) is passes


def test_a_sure_edit_of_another_kind_goes_before_one_that_is_not_sure() -> None:
    case = next(one for one in _CASES if one["name"].endswith("two lines: not sure"))
    last = case["texts"][-1]
    texts = [*case["texts"], last.replace("def f(a, b):\n", "def f(a, b):\n    json.loads(a)\n")]
    found = gate.find(scene("a.py", texts))
    assert [one.kind for one in found] == [EditKind.IMPORT]
