"""The rules give exactly the edits of their golden histories."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from context.edits import (
    EditKind,
    NextEdit,
    OtherDefinition,
    Scene,
    gate,
    imports,
    names,
    siblings,
    signatures,
)
from context.edits.history import History, between
from context.syntax.document import Document, Source, read_file

_RULES: dict[str, Callable[[Scene], list[NextEdit]]] = {
    "rename": names.find_renames,
    "signature": signatures.find,
    "sibling": siblings.find,
    "import": imports.find,
}
_CASES: list[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("golden.toml").read_text("utf-8")
)["case"]


class Files:
    """A project of a few texts."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def definitions(self, name: str) -> Sequence[OtherDefinition]:
        found = []
        for path in self._files:
            source = self.source("/p", path)
            assert source is not None
            found += [
                OtherDefinition(
                    "/p",
                    path,
                    source.language.name,
                    name,
                    source.text[one.start : one.stop],
                    top_level=one.parent < 0,
                )
                for one in source.outline.definitions
                if one.name == name
            ]
        return found

    def mentions(self, name: str) -> Sequence[tuple[str, str]]:
        return [("/p", path) for path, text in self._files.items() if name in text]

    def source(self, root: str, path: str) -> Source | None:
        assert root == "/p"
        return read_file(path, self._files[path])


def scene(
    path: str,
    texts: Sequence[str],
    files: dict[str, str] | None = None,
    accepted: frozenset[tuple[str, str]] = frozenset(),
) -> Scene:
    document = Document("/p", path, texts[-1])
    history = History()
    for before, after in itertools.pairwise(texts):
        changed = between(before.split("\n"), after.split("\n"))
        assert changed is not None
        history.changed(*changed)
    source = document.source
    assert source is not None
    project = Files(files) if files else None
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
    assert shown(seen, names.find_renames(seen)) == expected


def test_a_rename_reaches_the_files_that_import_the_name() -> None:
    files = {
        "pkg/b.py": "from pkg.a import load\n\nload(1)\n",
        "pkg/c.py": "from other.a import load\n\nload(1)\n",
        "pkg/d.py": "from .a import x, load as read\n",
    }
    seen = scene("pkg/a.py", ["def load():\n    pass\n", "def fetch():\n    pass\n"], files)
    found = names.find_renames(seen)
    assert shown(seen, found) == ["pkg/b.py 18: fetch", "pkg/d.py 18: fetch"]


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
