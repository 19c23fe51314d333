"""Reads what a client sends along with our commands. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lsprotocol import types

from assistant.errors import RequestError
from lsp.actions.document_range import Position

Span = tuple[Position, Position]


@dataclass(frozen=True)
class Place:
    """A range of a document, as the client counts."""

    uri: str
    span: Span


def first_of(arguments: tuple[Any, ...]) -> Mapping[str, Any]:
    """The one object that our commands take.

    Raises:
        RequestError: there is none.
    """
    if not arguments or not isinstance(arguments[0], Mapping):
        raise RequestError("the command's argument is missing", advice="See editors/PROTOCOL.md")
    return arguments[0]


def place_of(raw: Mapping[str, Any], *, ranged: bool = True) -> Place:
    """The document, and the range unless it may be missing.

    Raises:
        RequestError: it is not written as the protocol says.
    """
    try:
        uri = raw["textDocument"]["uri"]
        span = raw["range"] if ranged or "range" in raw else None
        pairs = (_pair(span["start"]), _pair(span["end"])) if span else ((0, 0), (0, 0))
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"the command's argument cannot be read ({error!r})", advice="See editors/PROTOCOL.md"
        ) from error
    if not isinstance(uri, str):
        raise RequestError("the document's URI is not a text", advice="See editors/PROTOCOL.md")
    return Place(uri, pairs)


def text_in(raw: Mapping[str, Any], name: str) -> str:
    """A field that is a text; empty where it is missing or something else."""
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def diagnostic_text(diagnostic: types.Diagnostic | Mapping[str, Any] | None) -> str:
    """What a tool says, with its name, its rule and the line."""
    if diagnostic is None:
        return ""
    if isinstance(diagnostic, Mapping):
        start = (diagnostic.get("range") or {}).get("start") or {}
        source, code = diagnostic.get("source"), diagnostic.get("code")
        message, line = diagnostic.get("message") or "", start.get("line")
    else:
        source, code = diagnostic.source, diagnostic.code
        message, line = diagnostic.message, diagnostic.range.start.line
    if isinstance(message, types.MarkupContent):
        message = message.value
    who = " ".join(str(part) for part in (source, code) if part not in {None, ""})
    where = f"line {line + 1}: " if isinstance(line, int) else ""
    return f"{where}{who}: {message}" if who else f"{where}{message}"


def _pair(raw: Any) -> Position:
    return int(raw["line"]), int(raw["character"])
