"""Turns a document, a cursor, a workspace and a budget into the best prompt that fits. Pure."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from context.index.project_index import Index, Progress, Report
    from context.index.walk import Limits
    from context.prompt import FimLayout, Part, Prompt, Section
    from context.prompt.builder import Explanation, Passage, Topic
    from context.prompt.head import Shares
    from context.prompt.window import window
    from context.syntax.document import Document, TextEdit, broken_by, damage
    from context.syntax.syntax_tree import Definition, Kind
    from context.syntax.text import CursorKind, TokenCounter
    from context.workspace import Workspace

__all__ = [
    "CursorKind",
    "Definition",
    "Document",
    "Explanation",
    "FimLayout",
    "Index",
    "Kind",
    "Limits",
    "Part",
    "Passage",
    "Progress",
    "Prompt",
    "Report",
    "Section",
    "Shares",
    "TextEdit",
    "TokenCounter",
    "Topic",
    "Workspace",
    "broken_by",
    "damage",
    "window",
]


# Imported when first used: the daemon needs two of the modules, and waits for them at its start.
_MODULES = {
    "Index": "index.project_index",
    "Progress": "index.project_index",
    "Report": "index.project_index",
    "Limits": "index.walk",
    "Explanation": "prompt.builder",
    "Passage": "prompt.builder",
    "Topic": "prompt.builder",
    "Shares": "prompt.head",
    "window": "prompt.window",
    "Document": "syntax.document",
    "TextEdit": "syntax.document",
    "broken_by": "syntax.document",
    "damage": "syntax.document",
    "Definition": "syntax.syntax_tree",
    "Kind": "syntax.syntax_tree",
    "CursorKind": "syntax.text",
    "FimLayout": "prompt",
    "Part": "prompt",
    "Prompt": "prompt",
    "Section": "prompt",
    "TokenCounter": "syntax.text",
    "Workspace": "workspace",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'context' has no attribute {name!r}")
    return getattr(importlib.import_module(f"context.{module}"), name)
