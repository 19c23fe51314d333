"""Turns a document, a cursor, a workspace and a budget into the best prompt that fits. Pure."""

from __future__ import annotations

from context.index.project_index import Index, Progress, Report
from context.index.walk import Limits
from context.prompt.explanation import Explanation, Passage, Topic
from context.prompt.head import Shares
from context.prompt.window import window
from context.syntax.document import Document, TextEdit, broken_by, damage
from context.syntax.syntax_tree import Definition, Kind
from context.types import (
    CursorKind,
    FimLayout,
    Part,
    Prompt,
    Section,
    TokenCounter,
)
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
