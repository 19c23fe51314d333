"""Where a new import goes: into the statement of its module, where its group is sorted, or after
the head of the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from context.edits import EditKind, NextEdit, Scene
from context.syntax.document import Source
from context.syntax.syntax_tree import Import, ancestors
from context.syntax.text import byte_offset, line_end, line_start

SCRIPTS = frozenset(("javascript", "typescript", "tsx"))
_HEAD_NODES = frozenset(
    ("hash_bang_line", "inner_attribute_item", "package_clause", "package_declaration")
)
_HEAD = re.compile(r"#!|#.*coding[:=]|///|/\*\s*eslint")
_STATEMENT = re.compile(r"(from|import|use|using)\s+(?:static\s+)?([\w.:]+)")
_GO_BLOCK = re.compile(r"^import \(\n((?:[^()\n]*\n)*?)\)", re.MULTILINE)
_GO_SPEC = re.compile(r"\s*(?:[\w.]+ )?\"([^\"\n]+)\"")
_FROM = re.compile(r"from\s+(\S+)\s+import\s+(?![(*])([^#\\\n]+?)\s*$")
_LISTED = re.compile(r"([ \t]+)([\w$]+)(,?)[ \t]*\Z")
_USE = re.compile(r"use\s+[\w:]+::\{([^{}\n]*)\};?\s*$")
_BRACED = re.compile(r"import\s*(type\s*)?\{([^{}\n]*)\}\s*from\s*(['\"])([^'\"\n]+)\3;?\s*$")


@dataclass(frozen=True)
class Wanted:
    """What to import: a name of a module, or the module itself where `name` is empty.

    Attributes:
        local: what the file calls it, where that is something else; else empty.
        annotation: it is used in an annotation only, or imported as a type.
    """

    module: str
    name: str = ""
    local: str = ""
    annotation: bool = False


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name("known_imports.toml").read_text("utf-8"))


def library_of(source: Source) -> Mapping[str, Any]:
    """What comes with a language, and which names hardly mean anything else."""
    language = source.language.name
    found: Mapping[str, Any] = _tables()["scripts" if language in SCRIPTS else language]
    return found


def inserted(scene: Scene, wanted: Wanted) -> NextEdit | None:
    """The edit that brings in a name: in a statement of that module, or as a new line.

    None where the file imports otherwise, or the place is not clear.
    """
    language = scene.source.language.name
    text, name = scene.text, wanted.name
    every = scene.source.outline.imports
    if language == "go":
        return _inserted_in_go(scene, wanted)
    if language in SCRIPTS and every and not any(_is_import(text, one) for one in every):
        return None  # a script that imports by calls
    imports = [one for one in every if line_start(text, one.start) == one.start]
    imports = [one for one in imports if not text.startswith("import static", one.start)]
    hidden = [one for one in every if one.module == wanted.module and _is_for_types(scene, one)]
    if wanted.annotation and hidden:
        imports = hidden
    if name and not wanted.local:
        for one in imports:
            if one.module == wanted.module and one.name:
                made = _extended(text, one, name, of_types=wanted.annotation)
                if made is not None:
                    return made
    line = _line(scene, wanted, imports)
    if imports is hidden:
        same, stop = max((one.start, one.stop) for one in hidden)
        at = line_end(text, max(stop - 1, same))
        indent = text[line_start(text, same) : same]
        return NextEdit(at, at, indent + line, EditKind.IMPORT) if not indent.strip() else None
    place = _place(scene.source, imports, line)
    if place is None:
        return None
    at, before, after = place
    return NextEdit(at, at, before + line + after, EditKind.IMPORT)


def _is_import(text: str, one: Import) -> bool:
    return text.startswith(("import", "export"), one.start)


def _is_for_types(scene: Scene, one: Import) -> bool:
    """Whether an import is in a block that only type checkers read."""
    root, at = scene.source.tree.root, byte_offset(scene.text, one.start)
    leaf = root.descendant_for_byte_range(at, at) if root is not None else None
    for node in ancestors(leaf) if leaf is not None else ():
        condition = node.child_by_field_name("condition") if node.type == "if_statement" else None
        if condition is not None:
            return condition.text is not None and condition.text.endswith(b"TYPE_CHECKING")
    return False


def _line(scene: Scene, wanted: Wanted, imports: list[Import]) -> str:
    language, module, name = scene.source.language.name, wanted.module, wanted.name
    renamed = f" as {wanted.local}" if wanted.local else ""
    if language == "python":
        return f"from {module} import {name}{renamed}\n" if name else f"import {module}{renamed}\n"
    if language == "rust":
        return f"use {module}::{name}{renamed};\n" if name else f"use {module};\n"
    if language in {"java", "csharp"}:
        return f"{'import' if language == 'java' else 'using'} {module};\n"
    others = [scene.text[one.start : one.stop] for one in imports]
    quote = "'" if any("'" in one for one in others) else '"'
    end = ";" if not others or any(one.rstrip().endswith(";") for one in others) else ""
    kind = "import type" if wanted.annotation else "import"
    return f"{kind} {{ {name} }} from {quote}{module}{quote}{end}\n"


def _extended(text: str, one: Import, name: str, *, of_types: bool) -> NextEdit | None:
    """One more name in a statement on one line, or with a line for each, in order if the others
    are."""
    end = line_end(text, one.start)
    if end < one.stop:
        return _extended_by_line(text, one, name, of_types=of_types)
    statement = text[one.start : end].rstrip("\n")
    python, braced = _FROM.match(statement), _BRACED.match(statement)
    used = _USE.match(statement)
    if python is not None:
        start, listed = python.start(2), python[2]
    elif used is not None:
        start, listed = used.start(1), used[1]
    elif braced is not None and bool(braced[1]) == of_types:
        start, listed = braced.start(2), braced[2]
    else:
        return None
    names = [part.strip() for part in listed.split(",") if part.strip()]
    if not names or name in names:
        return None
    following = next((other for other in names if _key(other) > _key(name)), None)
    ordered = names == sorted(names, key=_key)
    if following is None or not ordered:
        at = one.start + start + len(listed.rstrip(", "))
        return NextEdit(at, at, f", {name}", EditKind.IMPORT)
    at = one.start + start + re.search(rf"(?<![\w$]){re.escape(following)}", listed).start()  # type: ignore[union-attr]
    return NextEdit(at, at, f"{name}, ", EditKind.IMPORT)


def _extended_by_line(text: str, one: Import, name: str, *, of_types: bool) -> NextEdit | None:
    """One more line in a statement that has a line for each name."""
    at = line_end(text, one.start)
    first = text[one.start : at].rstrip()
    braced = "import type {" if of_types else "import {"
    if not first.endswith(("import (", braced, "::{")):
        return None
    found: list[tuple[int, str]] = []
    indent = comma = ""
    for line in text[at : one.stop].split("\n")[:-1]:
        listed = _LISTED.match(line)
        if listed is None:
            return None
        indent, comma = listed[1], listed[3]
        found.append((at, listed[2]))
        at += len(line) + 1
    names = [known for _, known in found]
    if not names or name in names or not comma:
        return None
    ordered = names == sorted(names, key=_key)
    following = [start for start, known in found if _key(known) > _key(name)]
    place = following[0] if following and ordered else at
    return NextEdit(place, place, f"{indent}{name},\n", EditKind.IMPORT)


def _key(name: str) -> tuple[int, str]:
    """isort's order: constants, classes, the rest."""
    group = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return group, name.lower()


def _place(source: Source, imports: list[Import], line: str) -> tuple[int, str, str] | None:
    """Where a new import belongs, and the blank lines before and after it: before the first of its
    group that sorts after it."""
    text = source.text
    if not imports:
        return _after_head(source)
    blocks: list[list[int]] = []
    starts = sorted({one.start for one in imports})
    ends = {one.start: line_end(text, max(one.stop - 1, one.start)) for one in imports}
    for start in starts:
        if blocks and not text[ends[blocks[-1][-1]] : start].strip(" \t"):
            blocks[-1].append(start)
        else:
            blocks.append([start])
    root = _root(line)
    roots = library_of(source)["roots"]
    best = next((b for b in blocks if any(_root(text[s : s + 200]) == root for s in b)), None)
    if best is None:
        best = blocks[0] if root in roots else blocks[-1]
        if "__future__" in text[best[0] : ends[best[-1]]]:
            best = blocks[1] if len(blocks) > 1 else best
            if "__future__" in text[best[0] : ends[best[-1]]]:
                return _apart(text, ends[best[-1]])
    for start in best:
        if _order(text[start : ends[start]]) > _order(line):
            return start, "", ""
    return ends[best[-1]], "", ""


def _apart(text: str, at: int) -> tuple[int, str, str]:
    """A place with a blank line on both sides."""
    before = "" if not at else "\n" if text[at - 1] == "\n" else "\n\n"
    return at, before, "" if text[at : at + 1] in {"", "\n"} else "\n"


def _root(statement: str) -> str:
    found = _STATEMENT.match(statement)
    if found is None:
        return "." if re.search(r"['\"]\.", statement) else ""
    return "." if found[2].startswith(".") else re.split(r"[.:]", found[2])[0]


def _order(statement: str) -> tuple[bool, str]:
    """By module; `import a` before `from a import b`, and C#'s own namespaces first."""
    found = _STATEMENT.match(statement)
    if found is None:
        return True, "\uffff"
    others = found[1] == "using" and not f"{found[2]}.".startswith("System.")
    return found[1] == "from" or others, found[2].lower()


def _after_head(source: Source) -> tuple[int, str, str] | None:
    """After the file's first comments and documentation, if nothing imports yet. Comments right
    above code belong to that."""
    root, text = source.tree.root, source.text
    if root is None:
        return None
    at = 0
    for node in root.children:
        start, end = source.at.char(node.start_byte), source.at.char(node.end_byte)
        end = line_end(text, max(end - 1, start))
        is_text = node.type == "expression_statement" and node.named_child_count == 1
        is_text = is_text and node.named_children[0].type == "string"
        is_head = is_text or node.type in _HEAD_NODES
        if "comment" not in node.type and not is_head:
            break
        if is_head or _HEAD.match(text, start) or text[end : end + 1] in {"", "\n"}:
            at = end
    return _apart(text, at)


def _inserted_in_go(scene: Scene, wanted: Wanted) -> NextEdit | None:
    """A line in the group of a block of imports whose paths are most alike, else a statement."""
    text = scene.text
    alias = f"{wanted.local} " if wanted.local else ""
    line = f'{alias}"{wanted.module}"\n'
    block = _GO_BLOCK.search(text)
    if block is None:
        return _go_statement(scene, f"import {line}")
    groups: list[list[tuple[int, str]]] = [[]]
    at = block.start(1)
    for row in block[1].split("\n")[:-1]:
        spec = _GO_SPEC.match(row)
        if spec is not None:
            groups[-1].append((at, spec[1]))
        elif not row.strip() and groups[-1]:
            groups.append([])
        at += len(row) + 1
    groups = [group for group in groups if group]
    host = wanted.module.split("/")[0]
    near = [group for group in groups if any(path.split("/")[0] == host for _, path in group)]
    alike = [group for group in groups if ("." in group[0][1].split("/")[0]) == ("." in host)]
    best = next(iter(near or alike), None)
    if best is not None:
        place = next((start for start, path in best if path > wanted.module), None)
        if place is None:
            place = line_end(text, best[-1][0])
        return NextEdit(place, place, f"\t{line}", EditKind.IMPORT)
    place = block.start(1) if "." not in host else block.end(1)
    made = f"\t{line}\n" if "." not in host else f"\n\t{line}"
    return NextEdit(place, place, made if groups else f"\t{line}", EditKind.IMPORT)


def _go_statement(scene: Scene, line: str) -> NextEdit | None:
    """A statement after those that stand alone, or after the head of the file."""
    imports = scene.source.outline.imports
    if imports:
        place = line_end(scene.text, imports[-1].stop - 1)
        return NextEdit(place, place, line, EditKind.IMPORT)
    head = _after_head(scene.source)
    if head is None:
        return None
    place, before, after = head
    return NextEdit(place, place, before + line + after, EditKind.IMPORT)
