"""Add a missing import: a name was typed that nothing in the file defines.

What to import is read from how other files of the project import that name, else from the only
definition of it in the project, else from a short list of names of the language's library. What a
file has under another name is not imported again. A name that only annotations use joins the
imports for type checkers, where those of its module stand there.

For Python, JavaScript, TypeScript, Go (packages), Java, Rust and C# (namespaces).
"""

from __future__ import annotations

import builtins
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace

import tree_sitter

from context.edits import NextEdit, OtherDefinition, Scene
from context.edits.history import is_identifier, tokens
from context.edits.import_lines import SCRIPTS, Wanted, inserted, library_of
from context.edits.names import Scopes, leads_to, mentioning, namespace_of, package_of, scopes_of
from context.syntax.document import Source
from context.syntax.syntax_tree import Import, ancestors
from context.syntax.text import byte_offset, line_start

_MOST_NAMES = 8
_ENDINGS = frozenset((".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx"))
_SOURCES = ("src", "lib", "python")
_FAR = "../../../"
_BUILTIN = frozenset(dir(builtins)) | {"self", "cls", "super", "__file__", "__name__", "__doc__"}
_LANGUAGES = SCRIPTS | {"python", "go", "java", "rust", "csharp"}
_LEAVES = frozenset(("identifier", "type_identifier", "package_identifier"))
_TYPE_PLACES = frozenset(
    ("array_type", "attribute", "base_list", "generic_name", "nullable_type", "type_argument_list")
)
_INNER = frozenset(("macro_definition", "mod_item"))
_MEMBERS = frozenset(("field_access", "method_invocation"))
_USED_BY_NAME = frozenset(
    ("annotation", "generic_type", "jsx_opening_element", "jsx_closing_element",
     "jsx_self_closing_element", "marker_annotation")
)  # fmt: skip
_IMPORT_TYPE = re.compile(r"^import type ", re.MULTILINE)


def find(scene: Scene) -> list[NextEdit]:
    """The import for the name that was typed last and is missing."""
    scopes = scopes_of(scene.source)
    if scopes is None or scene.source.language.name not in _LANGUAGES:
        return []
    rust = scene.source.language.name == "rust"
    stars = [one for one in scene.source.outline.imports if _brings_all(scene, one)]
    if any(not rust or line_start(scene.text, one.start) == one.start for one in stars):
        return []
    for name, at in list(_typed(scene))[:_MOST_NAMES]:
        inner = any(_is_in_block_of(scene, one, at) for one in stars)
        if not inner and _is_missing(scene, scopes, name, at):
            wanted = _wanted(scene, scopes, name, at)
            made = inserted(scene, wanted) if wanted is not None else None
            if made is not None:
                return [made]
    return []


def _brings_all(scene: Scene, one: Import) -> bool:
    """Whether an import may bring in any name; in scripts `*` has a name itself."""
    return scene.source.language.name not in SCRIPTS and "*" in scene.text[one.start : one.stop]


def _is_in_block_of(scene: Scene, one: Import, offset: int) -> bool:
    """Whether an offset is in the block that an import stands in."""
    root, at = scene.source.tree.root, scene.source.at
    first = byte_offset(scene.text, one.start)
    node = root.descendant_for_byte_range(first, first) if root is not None else None
    while node is not None and at.char(node.start_byte) >= one.start:
        node = node.parent
    return node is not None and at.char(node.start_byte) <= offset < at.char(node.end_byte)


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
    built_in = scene.source.language.name == "python" and name in _BUILTIN
    if len(name) < 2 or built_in or name in scopes.names:
        return False
    if at <= scene.cursor <= at + len(name):
        return False  # it may still be typed
    node = scopes.leaf_at(at, at + len(name))
    if node is None or node.type not in _LEAVES or node.child_count:
        return False
    if scopes.is_member(node) or _in_error(node) or scopes.is_imported(node):
        return False
    parent = node.parent
    label = parent.child_by_field_name("name") if parent is not None else None
    if parent is not None and label is not None and label.id == node.id:
        if parent.type not in _USED_BY_NAME:
            return False  # what is declared, or the name of an argument
        if "jsx" in parent.type and not name[:1].isupper():
            return False  # an element of the page
    if not _is_importable(scene, node, name) or _is_parameter_of_types(node, name):
        return False
    if any(name in {one.local, one.name} for one in scene.source.outline.imports if one.local):
        return False
    if any(one.name == name for one in scene.source.outline.definitions):
        return False
    if name in _in_statements(scene.source):
        return False
    own = package_of(scene.source, scene.document.path)
    project = scene.project
    if not own or project is None:
        return True
    sources = {one.path: project.source(one.root, one.path) for one in project.definitions(name)}
    return all(found is None or package_of(found, path) != own for path, found in sources.items())


def _in_statements(source: Source) -> set[str]:
    """The names in Rust's statements that bring in names or modules, whatever their form."""
    if source.language.name != "rust" or source.tree.root is None:
        return set()
    found = [
        one if one.type != "mod_item" else one.child_by_field_name("name")
        for one in source.tree.root.children
        if one.type in {"use_declaration", "extern_crate_declaration", "mod_item"}
    ]
    texts = [one.text.decode("utf-8", "replace") for one in found if one is not None and one.text]
    return {token for text in texts for token in tokens(text)}


def _is_importable(scene: Scene, node: tree_sitter.Node, name: str) -> bool:
    """Whether what stands at a place may be imported, and by a statement at the top: in Go
    a package, in Java and C# a type. A module in a file of Rust has imports of its own, and
    macros and what they make up are left out, also attributes other than `derive`."""
    language, parent = scene.source.language.name, node.parent
    if parent is None:
        return False
    if language == "go":
        rest = scene.source.data[node.end_byte : node.end_byte + 2].decode("utf-8", "replace")
        return rest[:1] == "." and rest[1:].isupper()
    if language == "java":
        if parent.type == "scoped_type_identifier":
            return parent.children[0].id == node.id
        is_owner = parent.type in _MEMBERS and name[:1].isupper()
        return node.type == "type_identifier" or is_owner or "annotation" in parent.type
    if language == "csharp":
        kind = parent.child_by_field_name("type")
        return (kind is not None and kind.id == node.id) or parent.type in _TYPE_PLACES
    return language != "rust" or not any(
        one.type in _INNER
        or one.child_by_field_name("macro") is not None
        or (one.type == "attribute" and not (one.text or b"").startswith(b"derive"))
        for one in ancestors(node)
    )


def _is_parameter_of_types(node: tree_sitter.Node, name: str) -> bool:
    """Whether a name is a parameter of the generic function or type that it stands in."""
    for one in ancestors(node):
        listed = one.child_by_field_name("type_parameters") or next(
            (child for child in one.children if child.type == "type_parameter_list"), None
        )
        text = listed.text if listed is not None else None
        if text is not None and name in tokens(text.decode("utf-8", "replace")):
            return True
    return False


def _in_error(node: tree_sitter.Node) -> bool:
    return any(one.is_error for one in (node, *ancestors(node)))


def _wanted(scene: Scene, scopes: Scopes, name: str, at: int) -> Wanted | None:
    """What brings in a name; None where that is not known, or is there under another name."""
    if name in library_of(scene.source)["own"]:
        return None
    others = _as_others_do(scene, name)
    if others is None:
        return None
    definition = _only_definition(scene, name) if len(others) != 1 else None
    standard = _standard(scene, name, at)
    if len(others) == 1:
        is_python = scene.source.language.name == "python"
        found = _agreed(others[0], standard) if is_python else others[0]
    elif definition is not None:
        found = _of_definition(scene, definition)
    else:
        found = standard if not others else None
    if found is None or any(
        (one.module, one.name) == (found.module, found.name) and one.local not in {name, ""}
        for one in scene.source.outline.imports
    ):
        return None
    if scene.source.language.name == "python":
        return replace(found, annotation=_is_annotation(scene, scopes, name))
    leaf = scopes.leaf_at(at, at + len(name))
    is_custom = found.annotation or _IMPORT_TYPE.search(scene.text) is not None
    of_types = is_custom and leaf is not None and leaf.type == "type_identifier"
    return replace(found, annotation=of_types)


def _agreed(others: Wanted, standard: Wanted | None) -> Wanted | None:
    """What other files take, unless a module of the library is used here that is called the same:
    `time.sleep()` where they have `from datetime import time`."""
    if standard is None or standard.name or (others.module, others.name) == (standard.module, ""):
        return others
    inner = not others.name and others.module.startswith(f"{standard.module}.")
    return standard if inner else None


def _is_annotation(scene: Scene, scopes: Scopes, name: str) -> bool:
    """Whether a name stands in annotations only."""
    root = scene.source.tree.root
    if root is None:
        return False
    leaves = (scopes.leaf_at(use.start, use.stop) for use in scopes.uses(name, root, member=False))
    return all(
        leaf is not None and any(one.type == "type" for one in ancestors(leaf)) for leaf in leaves
    )


def _as_others_do(scene: Scene, name: str) -> list[Wanted] | None:
    """What the other files that import the name take. None where it comes from this file, and in
    scripts where one has it without an import (it is everywhere), or as the default of a module,
    whose form differs from file to file."""
    language = scene.source.language.name
    if language == "csharp":
        return []
    found: dict[Wanted, bool] = {}
    without: list[Source] = []
    relative = True
    for _, path, source in mentioning(scene, name):
        taken = [
            one
            for one in source.outline.imports
            if one.local == name and (language == "python" or one.name in {"", name})
        ]
        if not taken:
            without.append(source)
        for one in taken:
            module = _module_here(scene, source, path, one)
            if not module or source.text.startswith("import static", one.start):
                continue
            if leads_to(source, one, path, scene.document.path):
                return None
            if not one.name and language in SCRIPTS:
                return None
            last = one.name or re.split(r"[./]", module)[-1]
            renamed = name not in ({last} if language != "python" else _called(one))
            local = name if renamed or (one.name and one.name != name) else ""
            wanted = Wanted(module, one.name, local)
            relative = relative and one.module.startswith(".")
            found[wanted] = found.get(wanted, True) and _is_of_types(source, one)
    if found and language in SCRIPTS and any(_is_global(one, name) for one in without):
        return None
    made = [replace(wanted, annotation=of_types) for wanted, of_types in found.items()]
    if language != "python":
        return made
    written = ((one, _as_written_here(scene, one.module, relative=relative)) for one in made)
    return [replace(one, module=module) for one, module in written if module]


def _is_of_types(source: Source, one: Import) -> bool:
    """Whether a script imports a name as a type."""
    statement = source.text[one.start : one.stop]
    pattern = rf"\btype\s+(\{{|{re.escape(one.local)}\b)"
    return source.language.name in SCRIPTS and re.search(pattern, statement) is not None


def _is_global(source: Source, name: str) -> bool:
    """Whether a file uses a name that it neither defines nor imports."""
    scopes, root = scopes_of(source), source.tree.root
    if scopes is None or root is None or name in scopes.names:
        return False
    return bool(scopes.uses(name, root, member=False))


def _relative(path: str, folder: str) -> str:
    """A script's name for a file without its ending; empty where it would lead far up, which is
    more often into another package."""
    found = posixpath.relpath(path, folder or ".")
    if found.startswith(_FAR):
        return ""
    return found if found.startswith(".") else f"./{found}"


def _module_here(scene: Scene, source: Source, path: str, one: Import) -> str:
    """What this file writes for the module of an import of another file (in Python the whole name);
    empty where the two would mean different ones."""
    language, module = scene.source.language.name, one.module
    own, other = posixpath.dirname(scene.document.path), posixpath.dirname(path)
    if language in SCRIPTS and module.startswith("."):
        return _relative(posixpath.normpath(posixpath.join(other, module)), own)
    if language == "rust":
        head = module.partition("::")[0]
        stems = {posixpath.splitext(posixpath.basename(p))[0] for p in (path, scene.document.path)}
        if head == "super":
            return module if own == other and stems.isdisjoint({"lib", "main", "mod"}) else ""
        if head == "crate" and _crate(path) != _crate(scene.document.path):
            return ""
        inner = rf"^[ \t]*+(?:pub[^\s;]*+ )?mod {re.escape(head)}\b"
        return "" if head == "self" or re.search(inner, source.text, re.MULTILINE) else module
    return _absolute(module, other) if language == "python" else module


def _absolute(module: str, folder: str) -> str:
    """The whole name of a relative module of Python, for a file in a folder."""
    name = module.lstrip(".")
    dots = len(module) - len(name)
    if not dots:
        return module
    parts = _packages(folder)
    return ".".join([*parts[: len(parts) - dots + 1], *([name] if name else ())])


def _packages(folder: str) -> list[str]:
    """The packages around a file in a folder; what holds only sources is none."""
    parts = folder.split("/") if folder else []
    return parts[1:] if parts and parts[0] in _SOURCES else parts


def _as_written_here(scene: Scene, module: str, *, relative: bool) -> str:
    """A module of Python in the form that the file has for those of its own package, else in that
    of other files; empty where they are in other folders, since the package may end between them.
    """
    own, there = _packages(posixpath.dirname(scene.document.path)), module.split(".")
    mine = [one.module for one in scene.source.outline.imports]
    is_whole = any(one.split(".")[0] == there[0] for one in mine)
    if not own or there[0] != own[0]:
        return module if is_whole or not relative else ""
    is_relative = any(one.startswith(".") for one in mine)
    if is_relative != is_whole:
        relative = is_relative
    elif relative and there[: len(own)] != own:
        return ""
    common = len(posixpath.commonprefix([there, own]))
    return "." * (len(own) - common + 1) + ".".join(there[common:]) if relative else module


def _called(one: Import) -> set[str]:
    """What Python calls an import where nothing else is said."""
    return {one.name or one.module, one.module.split(".")[0]}


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


def _of_definition(scene: Scene, one: OtherDefinition) -> Wanted | None:
    """What brings in a definition of another file; None where that is not known."""
    language, project = scene.source.language.name, scene.project
    source = project.source(one.root, one.path) if project is not None else None
    if source is None:
        return None
    if language == "java":
        package = package_of(source, one.path)
        own = posixpath.splitext(posixpath.basename(one.path))[0] == one.name
        return Wanted(f"{package}.{one.name}") if package != "." and own else None
    if language == "csharp":
        return _namespace(scene, one.name, namespace_of(source), one.path)
    module = _module_of(scene, one)
    return Wanted(module, one.name) if module else None


def _namespace(scene: Scene, name: str, found: str, defined: str = "") -> Wanted | None:
    """A namespace that the file neither is in nor uses, where each other file that has the name
    uses it: else all files may, by the settings of the project.

    Args:
        defined: the file that defines the name; it need not use its namespace.
    """
    used = {one.module for one in scene.source.outline.imports if not one.local}
    if not found or found in used or _is_within(scene.source, found):
        return None
    others = [
        any(one.module == found and not one.local for one in source.outline.imports)
        for _, path, source in mentioning(scene, name)
        if path != defined and not _is_within(source, found)
    ]
    return Wanted(found) if all(others) and (others or not defined) else None


def _is_within(source: Source, namespace: str) -> bool:
    return f"{namespace_of(source)}.".startswith(f"{namespace}.")


def _rust_module(scene: Scene, one: OtherDefinition) -> str:
    """The path of what a file of the same crate makes public."""
    crate = _crate(one.path)
    if re.match(r"\s*pub(\(crate\))?\s", one.text) is None or crate != _crate(scene.document.path):
        return ""
    parts = posixpath.splitext(one.path)[0].removeprefix(crate).split("/")
    if parts[-1] in {"mod", "lib"}:
        parts = parts[:-1]
    known = crate.endswith("src/") and all(map(str.isidentifier, parts)) and parts != ["main"]
    return "::".join(["crate", *parts]) if known else ""


def _crate(path: str) -> str:
    """The folder of the sources of the crate that a file is of; its own one where that is not
    known."""
    folder, found, _ = f"/{path}".rpartition("/src/")
    return f"{folder}{found}"[1:] if found else f"{posixpath.dirname(path)}/"


def _module_of(scene: Scene, one: OtherDefinition) -> str:
    """What this file would write to import a file; empty where that is not known."""
    if scene.source.language.name == "python":
        return _python_module(scene, one.path)
    if scene.source.language.name == "rust":
        return _rust_module(scene, one)
    if scene.source.language.name in SCRIPTS:
        exported = re.match(r"\s*export\s+(?!default)", one.text) is not None
        if not exported or one.path.endswith(".d.ts"):
            return ""
        folder = posixpath.dirname(scene.document.path)
        stem = posixpath.splitext(one.path)[0]
        modules = [i.module for i in scene.source.outline.imports if i.module.startswith(".")]
        endings = {posixpath.splitext(module)[1] for module in modules} & _ENDINGS
        if len(endings) > 1:
            return ""
        if endings:
            return f"{path}{endings.pop()}" if (path := _relative(stem, folder)) else ""
        return _relative(stem.removesuffix("/index"), folder)
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
    for skip in range(len(parts) if parts[0] in _SOURCES else 1):
        name = ".".join(parts[skip:])
        package = parts[skip]
        same_package = own[skip : skip + 1] == [package] or not own[skip:]
        if any(module.split(".")[0] == package for module in imports) or (
            same_package and not relative and parts[0] not in _SOURCES
        ):
            return name
    return ""


def _standard(scene: Scene, name: str, at: int) -> Wanted | None:
    """A name of the language's library; for Python also a module of it where an attribute is used.
    What is no attribute of the module is one of the class that is called the same."""
    if scene.project is not None and scene.project.definitions(name):
        return None
    language, known = scene.source.language.name, library_of(scene.source)
    module = known["names"].get(name)
    if module is not None:
        if language == "java":
            return Wanted(f"{module}.{name}")
        if language == "csharp":
            return _namespace(scene, name, module)
        return Wanted(module) if language == "go" else Wanted(module, name)
    rest = scene.text[at + len(name) : at + len(name) + 64]
    attribute = re.match(r"\.([A-Za-z]\w*)", rest)
    if language != "python" or attribute is None or name not in known["roots"]:
        return None
    own = known["attributes"].get(name)
    return Wanted(name, name if own is not None and attribute[1] not in own else "")
