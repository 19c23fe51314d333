"""Resolving imports, ranking, and dropping near-duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from context.index.project_index import Index
from context.retrieval import (
    WEIGHTS,
    Place,
    Recent,
    Region,
    Relation,
    among_imports,
    closeness,
    score,
)
from context.retrieval.definition_lookup import places
from context.retrieval.lexical_search import candidates
from context.retrieval.name_usage import unused_imports
from context.syntax.document import read
from context.syntax.language import languages
from context.syntax.syntax_tree import Import
from context.syntax.text import members, near_names, query_terms, similarity, terms, words


def found(
    tmp_path: Path,
    files: Any,
    text: str,
    name: str = "main.py",
    recent: Any = (),
    present: Any = "",
    unused: Any = (),
) -> Any:
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    index = Index([tmp_path])
    index.refresh()
    before, _, after = text.partition("|")
    source = read(before + after, languages()["python"])
    header = "\n".join(
        source.text[one.start : one.body[0]]
        for one in source.outline.enclosing(len(before))
        if one.body
    )
    place = Place(
        root=str(tmp_path),
        path=name,
        language=source.language,
        outline=source.outline,
        before=before,
        after=after,
        header=header,
        present=present,
        unused=frozenset(unused),
        among_imports=among_imports(source.text, source.outline, len(before)),
    )
    return candidates(index.store, place, recent)


HEIGHTS = "def height_at(hour):\n    return hour\n\n\ndef other_thing(day):\n    return day + 1\n"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"tides.py": HEIGHTS}, "from tides import height_at\nheight_at(|"),
        ({"pkg/tides.py": HEIGHTS}, "from pkg.tides import height_at as h\nh(|"),
        ({"pkg/tides/__init__.py": HEIGHTS}, "from pkg.tides import height_at\nheight_at(|"),
        ({"src/pkg/tides.py": HEIGHTS}, "from pkg.tides import height_at\nheight_at(|"),
        ({"tides.py": HEIGHTS}, "import tides\ntides.height_at(|"),
        ({"pkg/tides.py": HEIGHTS}, "from pkg import tides\ntides.height_at(|"),
    ],
)
def test_imported_names_come_first(tmp_path: Path, files: Any, text: str) -> None:
    best = found(tmp_path, {**files, "far/x.py": "def height_at(x, y, z):\n    pass\n"}, text)[0]
    assert best.name == "height_at" and "hour" in best.text
    assert best.relation in (Relation.IMPORTED, Relation.MEMBER)


def test_relative_imports_go_up(tmp_path: Path) -> None:
    files = {"pkg/tides.py": HEIGHTS, "tides.py": "def height_at(wrong): ...\n"}
    text = "from ..tides import height_at\nheight_at(|"
    (best, *_) = found(tmp_path, files, text, name="pkg/deep/main.py")
    assert best.path == "pkg/tides.py"


def test_the_base_class_is_shown(tmp_path: Path) -> None:
    files = {"base.py": "class Ship:\n    def sail(self, knots):\n        return knots\n"}
    text = (
        "from base import Ship\n\n\nclass Tug(Ship):\n    def pull(self):\n        |\n        x\n"
    )
    best = next(one for one in found(tmp_path, files, text) if one.name == "Ship")
    assert best.relation is Relation.BASE and "def sail(self, knots)" in best.text


def test_the_word_being_typed_counts_by_its_beginning(tmp_path: Path) -> None:
    text = "from tides import height_at, other_thing\n\n\ndef f():\n    return oth|"
    assert found(tmp_path, {"tides.py": HEIGHTS}, text)[0].name == "other_thing"


def members_of_a_wide_class(text: str, tmp_path: Path) -> Any:
    fields = "".join(f"    field_{at}: int = {at}\n" for at in range(6))
    methods = "".join(
        f"    def method_{at}(self, one: int, two: int) -> int:\n        return one + two\n"
        for at in range(30)
    )
    files = {"wide.py": f"class Wide(NamedTuple):\n{fields}{methods}"}
    best = next(one for one in found(tmp_path, files, text) if one.name == "Wide")
    return best.short or best.text


def test_a_wide_class_without_a_constructor_shows_what_it_offers(tmp_path: Path) -> None:
    shown = members_of_a_wide_class("from wide import Wide\nx = Wide(|", tmp_path)
    assert shown.startswith("class Wide(NamedTuple):\n    field_0: int = 0\n    field_1")
    assert "method_0(self, one: int, two: int)" in shown and "method_29" not in shown
    assert len(shown) < 900


def test_of_a_wide_class_the_members_that_are_named_come_before_the_first(tmp_path: Path) -> None:
    text = "from wide import Wide\nx = Wide()\nx.method_28(1, 2)\nx.|"
    shown = members_of_a_wide_class(text, tmp_path)
    assert "method_28(self" in shown and "field_0" in shown and "method_29" not in shown


def test_a_name_behind_another_owner_is_no_member_of_what_is_imported(tmp_path: Path) -> None:
    files = {"nodes.py": "class Tuple:\n    items = ()\n\n\nclass Leaf:\n    name = ''\n"}
    text = "import typing as t\nimport nodes\n\n\ndef f(x: t.Tuple) -> nodes.Leaf:\n    |"
    shown = found(tmp_path, files, text)
    leaf, *others = shown
    assert leaf.name == "Leaf" and leaf.relation is Relation.MEMBER
    assert all(one.score < leaf.score / 4 for one in others)


def test_imports_of_other_files_are_like_code_only_among_imports(tmp_path: Path) -> None:
    lines = "".join(f"from harbour.part_{at} import Mooring, Berth\n" for at in range(12))
    files = {"other.py": lines + "\n\ndef unlike(x):\n    return x\n"}
    text = "from harbour.part_1 import Mooring, Berth\n{}\n\n\ndef f(x):\n    {}\n"
    code = found(tmp_path, files, text.format("", "return |"))
    assert not any("harbour.part" in one.text for one in code)
    among = found(tmp_path, files, text.format("from harbour.|", "return x"))
    assert any("harbour.part" in one.text for one in among)


QUAY = """
class {kind}Quay:
    {a}def moor(self, ship, hour):
        self.ships.append(ship)
        depth = {b}self.depth_at(hour)
        self.record = {kind}Mooring(ship, depth, hour)
        self.notify_the_{place}_master(self.record)
        return self.record
"""


def test_a_twin_shows_how_it_goes_on(tmp_path: Path) -> None:
    """The twin is nearly what is in the prompt already: what is new in it is why it is shown."""
    files = {"aio.py": QUAY.format(kind="Async", a="async ", b="await ", place="harbour")}
    text = QUAY.format(kind="", a="", b="", place="harbour")
    before, after = text.split("        self.notify")
    text = before + "        |\n" + after[after.index("\n") + 1 :]
    present = text.replace("|", "")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (best, *_) = found(tmp_path, files, text, present=present)
    assert best.relation is Relation.ECHO and "self.notify_the_harbour_master" in best.text
    assert best.text.startswith("class AsyncQuay"), "it begins four lines before the cursor's like"


def test_of_a_module_the_members_that_are_named_come_first(tmp_path: Path) -> None:
    files = {"tides.py": "T = TypeVar('T')\n" + HEIGHTS + "def third_thing(x):\n    return x\n"}
    text = "import tides\n\ntides.third_thing(3)\n" + "\n" * 12 + "x = tides.other_thing(tides|"
    shown = found(tmp_path, files, text)
    assert [one.name for one in shown] == ["other_thing", "third_thing", "height_at"]
    assert shown[1].score > 2 * shown[2].score
    asked = found(tmp_path, files, "import tides\nx = tides.|")
    assert {one.name for one in asked} == {"T", "other_thing", "third_thing", "height_at"}


def test_an_import_that_is_used_nearer_comes_first(tmp_path: Path) -> None:
    files = {
        f"{name}.py": f"def {name}_at(x):\n    return x - {at}\n" for at, name in enumerate("abc")
    }
    text = "".join(f"from {name} import {name}_at\n" for name in "abc")
    text += "b_at(1)\n" + "\n" * 40 + "c_at(1)\n" + "\n" * 20 + "|"
    shown = [one for one in found(tmp_path, files, text) if one.relation is Relation.IMPORTED]
    assert shown[0].name == "c_at" and shown[0].score > score(Relation.IMPORTED, 0.3, 1.0)


def test_what_is_imported_and_not_used_yet_is_wanted(tmp_path: Path) -> None:
    files = {"tides.py": HEIGHTS, "moon.py": "def phase_of(day):\n    return day\n"}
    text = (
        "from tides import other_thing\nfrom moon import phase_of\n\n\nother_thing(1)\n" + "\n" * 30
    )
    names = [one.name for one in found(tmp_path, files, text + "|", unused={"phase_of"})]
    assert names[0] == "phase_of"


def test_unused_imports_are_found_where_they_are_few() -> None:
    text = "import a\nfrom b import c, d as e\n\nprint(a, ecb)\n"
    outline = read(text, languages()["python"]).outline
    assert unused_imports(text, outline) == {"c", "e"}
    many = "".join(f"from m import name_{at}\n" for at in range(30))
    assert unused_imports(many, read(many, languages()["python"]).outline) == frozenset()


def test_a_root_that_is_the_package_itself(tmp_path: Path) -> None:
    root = tmp_path / "harbour"
    root.mkdir()
    text = "from harbour.tides import height_at\nheight_at(|"
    (best, *_) = found(root, {"__init__.py": "", "tides.py": HEIGHTS}, text)
    assert best.name == "height_at" and best.relation is Relation.IMPORTED


def test_a_package_that_passes_a_name_on(tmp_path: Path) -> None:
    files = {
        "harbour/__init__.py": "from ._tides import height_at\n",
        "harbour/_tides.py": HEIGHTS,
        "other.py": "def unrelated_one(x):\n    return x\n",
    }
    (best, *others) = found(tmp_path, files, "from harbour import height_at\nheight_at(|")
    assert best.path == "harbour/_tides.py" and best.relation is Relation.IMPORTED
    assert not [one for one in others if one.relation is Relation.MEMBER]


def test_the_standard_library_is_not_taken_for_a_file_in_a_package(tmp_path: Path) -> None:
    files = {"loops/__init__.py": "", "loops/asyncio.py": "def loop_factory(x):\n    return x\n"}
    assert not found(tmp_path, files, "import asyncio\nasyncio.run(|")
    files = {"tools/asyncio.py": "def loop_factory(x):\n    return x\n"}
    assert found(tmp_path / "plain", files, "import asyncio\nasyncio.run(|")


def test_near_duplicates_are_dropped(tmp_path: Path) -> None:
    files = {f"copy{at}.py": HEIGHTS + f"# {at}\n" for at in range(5)}
    shown = found(tmp_path, files, "height_at(hour)\nother_thing(day)\n|")
    assert len([one for one in shown if "height_at" in one.text]) <= 1


def test_recent_regions_age(tmp_path: Path) -> None:
    recent = [
        Region(str(tmp_path), f"r{at}.py", 0, f"visited_{at} = {at} + unique_{at}\n")
        for at in range(4)
    ]
    shown = [one.path for one in found(tmp_path, {}, "x = |", recent=recent)]
    assert shown == ["r0.py", "r1.py", "r2.py", "r3.py"]


def test_the_formula() -> None:
    assert score(Relation.IMPORTED, 1.0, 1.0) == 1.0
    assert score(Relation.IMPORTED, 0.5, 0.0) == 0.25
    assert score(Relation.SIMILAR, 9.0, 1.0) == WEIGHTS[Relation.SIMILAR]
    assert score(Relation.NAMED, -1.0, 1.0) == 0.0
    assert list(WEIGHTS) == list(Relation), "every relation has its weight, best first"
    assert sorted(WEIGHTS.values(), reverse=True) == list(WEIGHTS.values())


def test_names_near_the_cursor_weigh_more() -> None:
    weights = near_names("far = 1\n" + "\n" * 16 + "near(", "after = 2")
    assert weights["near"] == 1.0 and weights["after"] == 0.5
    assert 0.2 < weights["far"] < 0.3


def test_words_and_terms() -> None:
    assert words("heightAt") == words("height_at") == words("HEIGHT_AT") == ["height", "at"]
    assert words("HTTPServer2") == ["http", "server", "2"]
    assert "heightat" in terms("x = heightAt(1)").split()
    assert query_terms({"height_at": 1.0, "x": 0.5})[0] in ("height", "heightat")
    found = query_terms({"tide_height_noon": 1.0, "ship_berth": 1.0})
    assert found == ["tide", "height", "noon", "tideheightnoon", "ship", "berth", "shipberth"]
    assert members("a.b + c::d(e->f)") == {"a": {"b"}, "c": {"d"}, "e": {"f"}}
    assert members("def f(x: t.Tuple, y.z.w)") == {
        "x": {"t"},
        "t": {"Tuple"},
        "y": {"z"},
        "z": {"w"},
    }
    assert similarity(set(), set()) == 0.0 and similarity({"a"}, {"a"}) == 1.0


def test_closeness_halves_with_each_step() -> None:
    assert closeness("a/b/c.py", "a/b/d.py") == 1.0
    assert closeness("a/b/c.py", "a/d.py") == 0.5
    assert closeness("a/b/c.py", "x/y/z.py") == 0.0625


@pytest.mark.parametrize(
    ("name", "module", "imported", "path", "wanted"),
    [
        ("python", "a.b", "c", "x/y.py", "a/b.py"),
        ("python", "..a", "c", "x/y/z.py", "x/a.py"),
        ("python", ".", "c", "x/y.py", "x/c.py"),
        ("typescript", "./a", "c", "x/y.ts", "x/a.ts"),
        ("typescript", "../a", "c", "x/y.ts", "a/index.ts"),
        ("typescript", "./a.js", "c", "x/y.ts", "x/a.ts"),
        ("typescript", "./a.js", "c", "x/y.ts", "x/a.js"),
        ("tsx", "./a/index.jsx", "c", "x/y.tsx", "x/a/index.tsx"),
        ("rust", "crate", "a", "src/main.rs", "src/a.rs"),
        ("rust", "crate::a::b", "C", "src/main.rs", "src/a/b.rs"),
        ("java", "org.example.Tides", "", "src/Main.java", "org/example/Tides.java"),
        ("c", "a/b.h", "", "src/x.c", "src/a/b.h"),
        ("ruby", "a/b", "", "lib/x.rb", "lib/a/b.rb"),
        ("php", "Example\\Tides\\Table", "", "src/x.php", "Tides/Table.php"),
        ("lua", "a.b", "", "x.lua", "lua/a/b.lua"),
        ("bash", "./a.sh", "", "bin/x.sh", "bin/a.sh"),
    ],
)
def test_places_of_modules(name: str, module: str, imported: Any, path: Any, wanted: Any) -> None:
    one = Import(0, 1, module, imported, imported)
    where = places(languages()[name], one, path)
    assert wanted in (*where.exact, *where.endings)


def test_the_ring_forgets_the_oldest() -> None:
    ring = Recent(capacity=3)
    for at in range(5):
        ring.add(Region("", "a.py", at, f"line number {at}\nanother {at * 7}\n"))
    ring.add(Region("", "a.py", 9, "\n \n"))
    assert [one.start for one in ring.newest()] == [4, 3, 2]
