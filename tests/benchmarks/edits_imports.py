"""Next edits that add an import, on the code of real packages, with the other files of each.

Usage: python tests/benchmarks/edits_imports.py [--save] [--set NAME ...] [--folder WHEELS]

Of each package of the sets (see `edits.py`) the newer release, and of that a few files. Reported:

- quiet: of the places where lines of a file were typed, and nothing is missing, the share with no
  edit;
- right: of the edits after an import was removed and a line that needs it typed, the share after
  which the file imports the same name from the same module again, relative or not; the others are
  listed, many of which take it from the module that defines it, or re-exports it;
- found: the share of the removed imports for which there is an edit.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import edits
from head import head, publish
from text_project import ROOT, TextProject

from context.edits import NextEdit, Scene, gate, imports
from context.edits.history import History, tokens
from context.syntax.document import Document, read_file
from context.syntax.syntax_tree import Import
from context.syntax.text import line_end, line_start

_RESULT = Path(__file__).parent / "results" / "edits_imports.json"
_FILES, _BLOCKS, _REMOVED = 6, 6, 4
_BLOCK_LINES = 12
_USES = 6
_MOST_CHARS = 100_000


def releases(folder: Path, requirements: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Name and newest wheel of the packages of some requirements."""
    names = edits.names_of(requirements)
    found = {name.replace(".", "_"): wheels[-1] for name, wheels in edits.wheels_in(folder)}
    yield from sorted((name, wheel) for name, wheel in found.items() if name in names)


def added(text: str, path: str, typed: range, project: TextProject) -> NextEdit | None:
    """The import that is offered after some lines of a file were typed."""
    lines = text.split("\n")
    history = History()
    history.changed(typed.start, [], lines[typed.start : typed.stop])
    document = Document(ROOT, path, text)
    if document.source is None or not history.hunks:
        return None
    scene = Scene(document, document.source, 0, history.hunks, project)
    moment = gate.Moment(path, text, typed.start, history.hunks)
    found = imports.find(scene)
    return next((one for one in found if gate.judge(one, moment).passes(gate.Level.NORMAL)), None)


def single_imports(text: str, path: str) -> list[Import]:
    """The imports at the top that have a line of their own and give a name that is used."""
    found = []
    every = every_import(text, path)
    for one in every:
        start, stop = line_start(text, one.start), line_end(text, one.stop - 1)
        alone = sum(start <= other.start < stop for other in every) == 1
        whole = start == one.start and text.count("\n", start, stop) == 1
        if alone and whole and one.local and one.module != "__future__":
            found.append(one)
    return found


def every_import(text: str, path: str) -> Sequence[Import]:
    """The imports of a text in order."""
    source = read_file(path, text)
    return source.outline.imports if source is not None else ()


def key(one: Import, path: str) -> tuple[str, str, str]:
    """What an import of a file brings in: the whole name of its module, the name, and what the
    file calls it."""
    module = one.module.lstrip(".")
    dots = len(one.module) - len(module)
    folders = path.split("/")[:-1]
    above = folders[: len(folders) - dots + 1] if dots else []
    return ".".join([*above, *([module] if module else ())]), one.name, one.local


def removed(text: str, one: Import) -> str:
    """A text without the line of an import."""
    return text[: line_start(text, one.start)] + text[line_end(text, one.stop - 1) :]


def uses(text: str, name: str) -> Iterator[int]:
    """The first lines that have a name."""
    for number, line in enumerate(text.split("\n")):
        if name in tokens(line) and not line.lstrip().startswith("#"):
            yield number


def measure(packages: Sequence[tuple[str, Path]], seed: int) -> dict[str, Any]:
    """The figures of the rule."""
    draw = random.Random(seed)
    quiet = blocks = right = found = missing = 0
    wrong: list[str] = []
    for name, wheel in packages:
        texts = {p: t for p, t in edits.texts_of(wheel).items() if len(t) < _MOST_CHARS}
        project = TextProject(texts)
        candidates = sorted(path for path, text in texts.items() if text.count("\n") > 20)
        for path in draw.sample(candidates, min(_FILES, len(candidates))):
            text = texts[path]
            count = text.count("\n")
            for start in draw.sample(range(count), min(_BLOCKS, count)):
                edit = added(text, path, range(start, start + _BLOCK_LINES), project)
                blocks += 1
                quiet += edit is None
                if edit is not None:
                    wrong.append(f"{name} {path}:{start + 1}, nothing missing: {edit.text!r}")
            single = single_imports(text, path)
            for one in draw.sample(single, min(_REMOVED, len(single))):
                without = removed(text, one)
                lines = list(itertools.islice(uses(without, one.local), _USES))
                if not lines:
                    continue
                missing += 1
                made = (added(without, path, range(at, at + 1), project) for at in lines)
                edit = next((one for one in made if one is not None), None)
                if edit is None:
                    continue
                found += 1
                after = without[: edit.start] + edit.text + without[edit.stop :]
                same = key(one, path) in {key(two, path) for two in every_import(after, path)}
                right += same
                if not same:
                    wrong.append(f"{name} {path}, {key(one, path)} was removed: {edit.text!r}")
    return {
        "packages": len(packages),
        "seed": seed,
        "places": blocks,
        "quiet": round(quiet / blocks, 4) if blocks else None,
        "removed": missing,
        "found": round(found / missing, 3) if missing else None,
        "edits": found,
        "right": round(right / found, 3) if found else None,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep the result")
    known = edits.packages()
    parser.add_argument("--set", nargs="+", choices=list(known), default=list(known)[-2:])
    parser.add_argument("--folder", type=Path, help="wheels that are there already")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    chosen = parser.parse_args()
    rows = [row for name in chosen.set for row in known[name]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder
        if folder is None:
            folder = Path(temporary)
            edits.download(folder, rows)
        made = head("edits, imports", variant=f"sets {', '.join(chosen.set)}")
        result = {**made, **measure(list(releases(folder, rows)), chosen.seed)}
    publish(result, _RESULT, save=chosen.save)


if __name__ == "__main__":
    main()
