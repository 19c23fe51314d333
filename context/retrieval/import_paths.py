"""From the text of an import to the paths where its file may lie. Pure; the index looks them up."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from context.syntax.language import Language
from context.syntax.outline import Import


@dataclass(frozen=True)
class Places:
    """Where a module may be.

    Attributes:
        exact: paths relative to the importing file's root, best first.
        endings: paths that may lie anywhere below a root, best first.
        folders: folders (relative, or endings) whose files all belong to the module.
    """

    exact: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def places(language: Language, one: Import, path: str) -> Places:
    """Where the module of an import may be, for a file at `path` (relative to its root)."""
    rules = language.resolve
    folder = posixpath.dirname(path)
    module = one.module
    relative = False
    if rules.relative_dots and module.startswith("."):
        dots = len(module) - len(module.lstrip("."))
        module = module[dots:]
        for _ in range(dots - 1):
            folder = posixpath.dirname(folder)
        relative = True
    elif module.startswith(("./", "../")):
        relative = True
    parts = [part for part in module.split(rules.separator) if part]
    while parts and parts[0] in rules.skip:
        parts = parts[1:]
    bases = ["/".join(parts)]
    if rules.relative_dots and one.name:  # `from package import module`
        bases.append("/".join([*parts, one.name]))
    if rules.parents and len(parts) > 1:  # `use a::b::Item` may be in a.rs
        bases.append("/".join(parts[:-1]))
    if rules.name_in_module or rules.separator == "\\":
        bases.extend("/".join(parts[i:]) for i in range(1, len(parts)))
    exact: list[str] = []
    endings: list[str] = []
    for base in bases:
        for template in rules.templates:
            if not base and template.startswith("{}."):
                continue
            target = posixpath.normpath(template.format(base)).lstrip("/")
            if target.startswith("..") and not relative:
                continue
            exact.append(posixpath.normpath(posixpath.join(folder, target)))
            if not relative and target not in (".", ""):
                exact.append(target)
                endings.append(target)
    folders: tuple[str, ...] = ()
    if rules.folder and parts:
        folders = tuple("/".join(parts[i:]) for i in range(len(parts)))
    return Places(tuple(dict.fromkeys(exact)), tuple(dict.fromkeys(endings)), folders)


def closeness(path: str, other: str) -> float:
    """How near two files are in the tree: 1 in one folder, halved for each step between."""
    one, two = posixpath.dirname(path).split("/"), posixpath.dirname(other).split("/")
    common = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        common += 1
    return float(0.5 ** (len(one) + len(two) - 2 * common))
