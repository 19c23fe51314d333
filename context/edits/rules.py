"""All rules together: the edits that follow without a model, the surest kind first."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from context.edits import imports, renames, siblings, signatures
from context.edits.types import EditKind, NextEdit, Scene

_RULES: MappingProxyType[EditKind, Callable[[Scene], list[NextEdit]]] = MappingProxyType(
    {
        EditKind.RENAME: renames.find,
        EditKind.SIGNATURE: signatures.find,
        EditKind.SIBLING: siblings.find,
        EditKind.IMPORT: imports.find,
    }
)


def find(scene: Scene) -> list[NextEdit]:
    """Edits that follow from what was edited, best first; of one kind only."""
    if not scene.hunks:
        return []
    for rule in _RULES.values():
        found = rule(scene)
        if found:
            return found
    return []
