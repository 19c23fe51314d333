"""Add a missing import: a name was typed that nothing in the file defines.

What to import is read from how other files of the project import that name, else from the only
definition of it in the project, else from a short list of Python's own modules.
"""

from __future__ import annotations

import builtins
import posixpath
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import tree_sitter

from context.edits import EditKind, NextEdit, OtherDefinition, Scene
from context.edits.history import is_identifier, tokens
from context.edits.names import Scopes, scopes_of
from context.syntax.document import Source
from context.syntax.syntax_tree import Import, ancestors
from context.syntax.text import line_end, line_start

_MOST_NAMES = 8
_MOST_FILES = 12
_BUILTIN = frozenset(dir(builtins)) | {"self", "cls", "super", "__file__", "__name__", "__doc__"}
_SCRIPTS = frozenset(("javascript", "typescript", "tsx"))
_FROM = re.compile(r"from\s+(\S+)\s+import\s+(?![(*])([^#\\\n]+?)\s*$")
_BRACED = re.compile(r"import\s*(type\s*)?\{([^{}\n]*)\}\s*from\s*(['\"])([^'\"\n]+)\3;?\s*$")


def find(scene: Scene) -> list[NextEdit]:
    """The import for the name that was typed last and is missing."""
    scopes = scopes_of(scene.source)
    if scopes is None or scene.source.language.resolve.wildcard:
        return []
    if any("*" in scene.text[one.start : one.stop] for one in scene.source.outline.imports):
        return []  # it may bring in any name
    for name, at in list(_typed(scene))[:_MOST_NAMES]:
        if _is_missing(scene, scopes, name, at):
            statement = _statement(scene, name, at)
            made = _inserted(scene, *statement) if statement is not None else None
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
    if label is not None and label.id == node.id:
        return False  # what is declared, or the name of an argument
    if any(one.local == name for one in scene.source.outline.imports):
        return False
    return not any(one.name == name for one in scene.source.outline.definitions)


def _in_error(node: tree_sitter.Node) -> bool:
    return any(one.is_error for one in (node, *ancestors(node)))


def _statement(scene: Scene, name: str, at: int) -> tuple[str, str] | None:
    """Module and name to import; the name is empty for the module itself."""
    found = _as_others_do(scene, name)
    if found is not None:
        return found
    definition = _only_definition(scene, name)
    if definition is not None:
        module = _module_of(scene, definition)
        return (module, name) if module else None
    if scene.source.language.name == "python":
        return _standard(scene.text, name, at)
    return None


def _as_others_do(scene: Scene, name: str) -> tuple[str, str] | None:
    """What the other files that import the name take, if they agree."""
    if scene.project is None:
        return None
    found: set[tuple[str, str]] = set()
    own = posixpath.dirname(scene.document.path)
    for root, path in list(scene.project.mentions(name))[:_MOST_FILES]:
        if (root, path) == (scene.document.root, scene.document.path):
            continue
        source = scene.project.source(root, path)
        if source is None or not source.language.sees(scene.source.language.name):
            continue
        for one in source.outline.imports:
            if one.local == name and one.name in {name, ""}:
                if one.module.startswith(".") and posixpath.dirname(path) != own:
                    continue
                if not one.name and scene.source.language.name != "python":
                    return None  # a default import: its form differs from file to file
                found.add((one.module, one.name))
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
def _modules() -> frozenset[str]:
    raw = tomllib.loads(Path(__file__).with_name("python_modules.toml").read_text("utf-8"))
    return frozenset(raw["modules"])


def _standard(text: str, name: str, at: int) -> tuple[str, str] | None:
    """A module of Python's library, where an attribute of it is used."""
    rest = text[at + len(name) : at + len(name) + 2]
    return (name, "") if name in _modules() and re.match(r"\.[A-Za-z]", rest) else None


def _inserted(scene: Scene, module: str, name: str) -> NextEdit | None:
    """The edit that brings in a name: in a statement of that module, or as a new line."""
    language = scene.source.language.name
    if language != "python" and language not in _SCRIPTS:
        return None
    imports = [
        one
        for one in scene.source.outline.imports
        if not scene.text[line_start(scene.text, one.start) : one.start].strip()
        and line_start(scene.text, one.start) == one.start
    ]
    if name:
        for one in imports:
            if one.module == module and one.name:
                made = _extended(scene.text, one, name)
                if made is not None:
                    return made
    line = _line(scene, module, name, imports)
    at = _place(scene.source, imports, line)
    return NextEdit(at, at, line, EditKind.IMPORT) if at is not None else None


def _line(scene: Scene, module: str, name: str, imports: list[Import]) -> str:
    if scene.source.language.name == "python":
        return f"from {module} import {name}\n" if name else f"import {module}\n"
    others = [scene.text[one.start : one.stop] for one in imports]
    quote = "'" if any("'" in one for one in others) else '"'
    end = ";" if not others or any(one.rstrip().endswith(";") for one in others) else ""
    return f"import {{ {name} }} from {quote}{module}{quote}{end}\n"


def _extended(text: str, one: Import, name: str) -> NextEdit | None:
    """One more name in a statement on one line, in order if the others are."""
    end = line_end(text, one.start)
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


def _key(name: str) -> tuple[int, str]:
    """isort's order: constants, classes, the rest."""
    group = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return group, name.lower()


def _place(source: Source, imports: list[Import], line: str) -> int | None:
    """Where a new import belongs: before the first of its group that sorts after it."""
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
                return None
    for start in best:
        if _order(text[start : ends[start]]) > _order(line):
            return start
    return ends[best[-1]]


def _root(statement: str) -> str:
    found = re.match(r"(?:from|import)\s+([\w.]+)", statement)
    if found is None:
        return "." if re.search(r"['\"]\.", statement) else ""
    return "." if found[1].startswith(".") else found[1].split(".")[0]


def _is_standard(root: str) -> bool:
    return root in _modules()


def _order(statement: str) -> tuple[bool, str]:
    """`import a` before `from a import b`, each by its module."""
    found = re.match(r"(from|import)\s+([\w.]+)", statement)
    return (found[1] == "from", found[2].lower()) if found else (True, "\uffff")


def _after_head(source: Source) -> int | None:
    """After the file's comments and documentation, if nothing imports yet."""
    if source.language.name != "python":
        return 0 if not source.text.startswith(("#!", "'use", '"use', "/*", "//")) else None
    root = source.tree.root
    if root is None:
        return None
    at = 0
    for node in root.children:
        is_doc = node.type == "expression_statement" and node.child_count == 1
        is_doc = is_doc and node.children[0].type == "string"
        if node.type != "comment" and not is_doc:
            break
        at = line_end(source.text, source.at.char(node.end_byte) - 1)
    return at if not at else None
