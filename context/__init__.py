"""Turns a document, a cursor, a workspace and a budget into the best prompt that fits. Pure."""

from __future__ import annotations

from context.damage import broken_by, damage
from context.document import Document
from context.explain import Explanation, Passage, Topic
from context.index import Index, Progress, Report
from context.outline import Definition, Kind
from context.pack import Shares
from context.types import (
    Cursor,
    CursorKind,
    FimLayout,
    Part,
    Prompt,
    Section,
    TokenCounter,
)
from context.walk import Limits
from context.window import window
from context.workspace import Workspace

__all__ = [
    "Cursor",
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
    "TokenCounter",
    "Topic",
    "Workspace",
    "broken_by",
    "damage",
    "window",
]
