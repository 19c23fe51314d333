"""Add a missing import: a name was typed that nothing in the file defines.

What to import is read from how other files of the project import that name, else from the only
definition of it in the project, else from a short list of Python's own modules and their names.
What a file has under another name is not imported again. A name that only annotations use joins
the imports for type checkers, where those of its module stand there.
"""

from __future__ import annotations

import builtins
import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import tree_sitter

from context.edits import EditKind, NextEdit, OtherDefinition, Scene
from context.edits.history import is_identifier, tokens
from context.edits.names import Scopes, scopes_of
from context.syntax.document import Source
from context.syntax.syntax_tree import Import, ancestors
from context.syntax.text import byte_offset, line_end, line_start

_MOST_NAMES = 8
_MOST_FILES = 12
_BUILTIN = frozenset(dir(builtins)) | {"self", "cls", "super", "__file__", "__name__", "__doc__"}
_SCRIPTS = frozenset(("javascript", "typescript", "tsx"))
_GLOBALS = frozenset(
    ("AbortController", "Array", "ArrayBuffer", "Blob", "Boolean", "Buffer", "Date", "Document",
     "Element", "Error", "Event", "EventTarget", "File", "FormData", "Function", "Headers",
     "Image", "Intl", "JSON", "Map", "Math", "Node", "Number", "Object", "Partial", "Promise",
     "Proxy", "Readonly", "Record", "Reflect", "RegExp", "Request", "Response", "Set", "String",
     "Symbol", "Text", "TypeError", "URL", "WeakMap", "WeakSet", "Worker", "console", "document",
     "fetch", "globalThis", "module", "process", "require", "window")
)  # fmt: skip
"""Names that every script knows, so that a project's own one need not be meant."""
_USED_BY_NAME = frozenset(
    ("generic_type", "jsx_opening_element", "jsx_closing_element", "jsx_self_closing_element")
)
_HEAD = re.compile(r"#!|#.*coding[:=]|///|/\*\s*eslint")
_FROM = re.compile(r"from\s+(\S+)\s+import\s+(?![(*])([^#\\\n]+?)\s*$")
_LISTED = re.compile(r"([ \t]+)([\w$]+)(,?)[ \t]*\Z")
_BRACED = re.compile(r"import\s*(type\s*)?\{([^{}\n]*)\}\s*from\s*(['\"])([^'\"\n]+)\3;?\s*$")


@dataclass(frozen=True)
class _Wanted:
    """What to import: a name of a module, or the module itself where `name` is empty.

    Attributes:
        local: what the file calls it, where that is something else; else empty.
        annotation: it is used in an annotation only.
    """

    module: str
    name: str = ""
    local: str = ""
    annotation: bool = False


def find(scene: Scene) -> list[NextEdit]:
    """The import for the name that was typed last and is missing."""
    if scene.source.language.resolve.wildcard:
        return []
    if any("*" in scene.text[one.start : one.stop] for one in scene.source.outline.imports):
        return []  # it may bring in any name
    scopes = scopes_of(scene.source)
    if scopes is None:
        return []
    for name, at in list(_typed(scene))[:_MOST_NAMES]:
        if _is_missing(scene, scopes, name, at):
            wanted = _wanted(scene, scopes, name, at)
            made = _inserted(scene, wanted) if wanted is not None else None
            if made is not None:
                return [made]
    return []


def _typed(scene: Scene) -> Iterator[tuple[str, int]]:
    """Names in the newest hunks that their old lines lack, and where."""
    seen: set[str] = set()
    for hunk in reversed(scene.hunks[-4:]):
        if hunk.stale:
            continue
        before = {token for line in hunk.old for token in tokens(line)}
        for line in range(hunk.first, min(hunk.stop, len(scene.lines))):
            column = 0
            for token in tokens(scene.lines[line]):
                at = scene.starts[line] + column
                column += len(token)
                if is_identifier(token) and token not in before and token not in seen:
                    seen.add(token)
                    yield token, at


def _is_missing(scene: Scene, scopes: Scopes, name: str, at: int) -> bool:
    """Whether nothing in the file defines a name that is used at an offset, and is typed whole."""
    if len(name) < 2 or name in _BUILTIN or name in scopes.names:
        return False
    if at <= scene.cursor <= at + len(name):
        return False  # it may still be typed
    node = scopes.leaf_at(at, at + len(name))
    if node is None or node.type not in {"identifier", "type_identifier"} or node.child_count:
        return False
    if scopes.is_member(node) or _in_error(node) or scopes.is_imported(node):
        return False
    parent = node.parent
    label = parent.child_by_field_name("name") if parent is not None else None
    if parent is not None and label is not None and label.id == node.id:
        if parent.type not in _USED_BY_NAME:
            return False  # what is declared, or the name of an argument
        if parent.type != "generic_type" and not name[:1].isupper():
            return False  # an element of the page
    if any(one.local == name for one in scene.source.outline.imports):
        return False
    return not any(one.name == name for one in scene.source.outline.definitions)


def _in_error(node: tree_sitter.Node) -> bool:
    return any(one.is_error for one in (node, *ancestors(node)))


def _wanted(scene: Scene, scopes: Scopes, name: str, at: int) -> _Wanted | None:
    """What brings in a name; None where that is not known, or is there under another name."""
    found = _as_others_do(scene, name)
    definition = None if found is not None else _only_definition(scene, name)
    if definition is not None:
        module = _module_of(scene, definition)
        found = _Wanted(module, name) if module else None
    elif found is None and scene.source.language.name == "python":
        found = _standard(scene, name, at)
    if found is None or any(
        (one.module, one.name) == (found.module, found.name) and one.local not in {name, ""}
        for one in scene.source.outline.imports
    ):
        return None
    annotation = scene.source.language.name == "python" and _is_annotation(scene, scopes, name)
    return replace(found, annotation=annotation)


def _is_annotation(scene: Scene, scopes: Scopes, name: str) -> bool:
    """Whether a name stands in annotations only."""
    root = scene.source.tree.root
    if root is None:
        return False
    leaves = (scopes.leaf_at(use.start, use.stop) for use in scopes.uses(name, root, member=False))
    return all(
        leaf is not None and any(one.type == "type" for one in ancestors(leaf)) for leaf in leaves
    )


def _as_others_do(scene: Scene, name: str) -> _Wanted | None:
    """What the other files that import the name take, if they agree."""
    if scene.project is None:
        return None
    found: set[_Wanted] = set()
    own = posixpath.dirname(scene.document.path)
    python = scene.source.language.name == "python"
    for root, path in list(scene.project.mentions(name))[:_MOST_FILES]:
        if (root, path) == (scene.document.root, scene.document.path):
            continue
        source = scene.project.source(root, path)
        if source is None or not source.language.sees(scene.source.language.name):
            continue
        for one in source.outline.imports:
            if one.local != name or (not python and one.name != name and one.name):
                continue
            if one.module.startswith(".") and posixpath.dirname(path) != own:
                continue
            if not one.name and not python:
                return None  # a default import: its form differs from file to file
            renamed = name not in {one.name or one.module, one.module.split(".")[0]}
            local = name if renamed or (one.name and one.name != name) else ""
            found.add(_Wanted(one.module, one.name, local))
    return next(iter(found)) if len(found) == 1 else None


def _only_definition(scene: Scene, name: str) -> OtherDefinition | None:
    """The one definition of a name at the top of a file that this language sees."""
    if scene.project is None:
        return None
    found = [
        one
        for one in scene.project.definitions(name)
        if one.top_level
        and one.root == scene.document.root
        and scene.source.language.sees(one.language)
        and one.path != scene.document.path
    ]
    return found[0] if len(found) == 1 else None


def _module_of(scene: Scene, one: OtherDefinition) -> str:
    """What this file would write to import a file; empty where that is not known."""
    if scene.source.language.name == "python":
        return _python_module(scene, one.path)
    if scene.source.language.name in _SCRIPTS:
        exported = re.match(r"\s*export\s+(?!default)", one.text) is not None
        if not exported or one.path.endswith(".d.ts"):
            return ""
        folder = posixpath.dirname(scene.document.path) or "."
        path = posixpath.relpath(posixpath.splitext(one.path)[0], folder)
        if path.endswith("/index"):
            path = path.removesuffix("/index")
        if any(i.module.endswith((".js", ".ts")) for i in scene.source.outline.imports):
            return ""  # this project writes extensions
        return path if path.startswith(".") else f"./{path}"
    return ""


def _python_module(scene: Scene, path: str) -> str:
    parts = posixpath.splitext(path)[0].split("/")
    if parts[-1] == "__init__":
        parts = parts[:-1]
    if not parts or not all(map(str.isidentifier, parts)):
        return ""
    imports = [one.module for one in scene.source.outline.imports]
    relative = sum(module.startswith(".") for module in imports)
    own = scene.document.path.split("/")[:-1]
    if relative and own == parts[:-1]:
        return f".{parts[-1]}"
    for skip in range(len(parts) if parts[0] in {"src", "lib", "python"} else 1):
        name = ".".join(parts[skip:])
        package = parts[skip]
        same_package = own[skip : skip + 1] == [package] or not own[skip:]
        if any(module.split(".")[0] == package for module in imports) or (
            same_package and not relative and parts[0] not in {"src", "lib", "python"}
        ):
            return name
    return ""


@cache
def _known() -> Mapping[str, Any]:
    """Python's own modules, and which of their names are hardly used for anything else."""
    return tomllib.loads(Path(__file__).with_name("python_modules.toml").read_text("utf-8"))


def _standard(scene: Scene, name: str, at: int) -> _Wanted | None:
    """A module of Python's library where an attribute of it is used, or a name of one. What is no
    attribute of the module is one of the class that is called the same."""
    if scene.project is not None and scene.project.definitions(name):
        return None
    module = _known()["names"].get(name)
    if module is not None:
        return _Wanted(module, name)
    rest = scene.text[at + len(name) : at + len(name) + 64]
    attribute = re.match(r"\.([A-Za-z]\w*)", rest)
    if attribute is None or name not in _known()["modules"]:
        return None
    own = _known()["attributes"].get(name)
    return _Wanted(name, name if own is not None and attribute[1] not in own else "")


def _inserted(scene: Scene, wanted: _Wanted) -> NextEdit | None:
    """The edit that brings in a name: in a statement of that module, or as a new line."""
    language = scene.source.language.name
    if language != "python" and language not in _SCRIPTS:
        return None
    text, name = scene.text, wanted.name
    every = scene.source.outline.imports
    if language in _SCRIPTS and (
        name in _GLOBALS or (every and not any(_is_import(text, one) for one in every))
    ):
        return None  # a global, or a script that imports by calls
    imports = [one for one in every if line_start(text, one.start) == one.start]
    hidden = [one for one in every if one.module == wanted.module and _is_for_types(scene, one)]
    if wanted.annotation and hidden:
        imports = hidden
    if name and not wanted.local:
        for one in imports:
            if one.module == wanted.module and one.name:
                made = _extended(text, one, name)
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


def _line(scene: Scene, wanted: _Wanted, imports: list[Import]) -> str:
    module, name = wanted.module, wanted.name
    renamed = f" as {wanted.local}" if wanted.local else ""
    if scene.source.language.name == "python":
        return f"from {module} import {name}{renamed}\n" if name else f"import {module}{renamed}\n"
    others = [scene.text[one.start : one.stop] for one in imports]
    quote = "'" if any("'" in one for one in others) else '"'
    end = ";" if not others or any(one.rstrip().endswith(";") for one in others) else ""
    return f"import {{ {name} }} from {quote}{module}{quote}{end}\n"


def _extended(text: str, one: Import, name: str) -> NextEdit | None:
    """One more name in a statement on one line, or with a line for each, in order if the others
    are."""
    end = line_end(text, one.start)
    if end < one.stop:
        return _extended_by_line(text, one, name)
    statement = text[one.start : end].rstrip("\n")
    python, braced = _FROM.match(statement), _BRACED.match(statement)
    if python is not None:
        start, listed = python.start(2), python[2]
    elif braced is not None and not braced[1]:
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


def _extended_by_line(text: str, one: Import, name: str) -> NextEdit | None:
    """One more line in a statement that has a line for each name."""
    at = line_end(text, one.start)
    first = text[one.start : at].rstrip()
    if not first.endswith(("import (", "import {")):
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
    best = next((b for b in blocks if any(_root(text[s : s + 200]) == root for s in b)), None)
    if best is None:
        best = blocks[0] if _is_standard(root) else blocks[-1]
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
    found = re.match(r"(?:from|import)\s+([\w.]+)", statement)
    if found is None:
        return "." if re.search(r"['\"]\.", statement) else ""
    return "." if found[1].startswith(".") else found[1].split(".")[0]


def _is_standard(root: str) -> bool:
    return root in _known()["modules"]


def _order(statement: str) -> tuple[bool, str]:
    """`import a` before `from a import b`, each by its module."""
    found = re.match(r"(from|import)\s+([\w.]+)", statement)
    return (found[1] == "from", found[2].lower()) if found else (True, "\uffff")


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
        if "comment" not in node.type and node.type != "hash_bang_line" and not is_text:
            break
        if is_text or _HEAD.match(text, start) or text[end : end + 1] in {"", "\n"}:
            at = end
    return _apart(text, at)
