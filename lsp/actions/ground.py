"""What stands at a range, as far as it decides which actions are offered."""

from __future__ import annotations

from context import Document
from lsp.actions import documenting, place, testing
from lsp.actions.offer import Ground
from lsp.actions.scene import Scene
from lsp.language import language
from lsp.prompts import path_of

_BLANKS = " \t*/-#!<>"


def ground_of(document: Document, scene: Scene) -> Ground:
    """Parses the document, as far as it has changed."""
    definition = place.definition_at(document, scene)
    region = place.selected(scene)
    block = scene.block(region.first, region.stop)
    path = path_of(scene.uri)
    testable = (
        path is not None and testing.custom_of(document) is not None and not testing.is_test(path)
    )
    return Ground(
        selection=scene.start < scene.stop,
        definition=definition.name if definition is not None else "",
        documentable=documenting.style_of(document) is not None,
        testable=testable,
        instruction=_instruction(block, scene.language),
        blank=not block.strip(),
    )


def _instruction(block: str, language_id: str) -> str:
    """What the comment says that the lines begin with."""
    found: list[str] = []
    for line in block.split("\n"):
        if not line.strip() and not found:
            continue
        if not language(language_id).is_comment(line):
            break
        found.append(line.strip(_BLANKS))
    return " ".join(found).strip()
