"""A document at one version with a range of it, a proposed edit of it, and both in the protocol's
form: the arguments of a command and a `WorkspaceEdit`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from lsprotocol import types

from assistant.errors import RequestError
from lsp.document import Document, Encoding, Place, one_line_end, to_units

Position = tuple[int, int]
"""A client position: line and units, both from 0."""

Span = tuple[Position, Position]


@dataclass(frozen=True)
class DocumentRange:
    """A document and a range of it. Every line ends with `\\n`, also where the document uses CRLF.

    Attributes:
        start, stop: the range, in characters of `text`; equal for a cursor.
        line_end: the line end of the document.
    """

    uri: str
    version: int
    language: str
    text: str
    start: int = 0
    stop: int = 0
    line_end: str = "\n"

    @cached_property
    def lines(self) -> list[str]:
        """The lines without their ends; the last one is empty where the text ends with an end."""
        return self.text.split("\n")

    @cached_property
    def starts(self) -> list[int]:
        """Where each line begins."""
        return list(accumulate((len(line) + 1 for line in self.lines[:-1]), initial=0))

    @property
    def span_bytes(self) -> tuple[int, int]:
        """The range in bytes of UTF-8."""
        return len(self.text[: self.start].encode()), len(self.text[: self.stop].encode())

    def block(self, first: int, stop: int) -> str:
        """The lines from `first` up to and without `stop`, each with an end."""
        return "".join(f"{line}\n" for line in self.lines[first:stop])


def document_range_of(document: Document, start: Position, end: Position) -> DocumentRange:
    """The current text of a document with a range; `start` and `end` may be swapped."""
    document_range = DocumentRange(
        uri=document.uri,
        version=document.version,
        language=document.language,
        text=one_line_end(document.text),
        line_end="\r\n" if document.line(0).endswith("\r\n") else "\n",
    )
    first, last = sorted((document.place(*start), document.place(*end)))
    return replace(
        document_range, start=_offset(document_range, first), stop=_offset(document_range, last)
    )


def _offset(document_range: DocumentRange, place: Place) -> int:
    return min(document_range.starts[place.line] + place.column, len(document_range.text))


def name_of(uri: str) -> str:
    """The file's name for a prompt or a title."""
    return PurePosixPath(unquote(urlsplit(uri).path)).name or "untitled"


@dataclass(frozen=True)
class RangeArgument:
    """A range of a document, as the client counts."""

    uri: str
    span: Span


def command_argument(arguments: tuple[Any, ...]) -> Mapping[str, Any]:
    """The one object that our commands take.

    Raises:
        RequestError: there is none.
    """
    if not arguments or not isinstance(arguments[0], Mapping):
        raise RequestError("the command's argument is missing", advice="See editors/PROTOCOL.md")
    return arguments[0]


def range_argument(raw: Mapping[str, Any], *, ranged: bool = True) -> RangeArgument:
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
    return RangeArgument(uri, pairs)


def text_argument(raw: Mapping[str, Any], name: str) -> str:
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


_ANNOTATION = "underkeel"


@dataclass(frozen=True)
class Change:
    """Lines `first` up to and without `stop` of a text become `lines`; all counted from 0."""

    first: int
    stop: int
    lines: tuple[str, ...]


def difference(old: list[str], first: int, stop: int, lines: list[str]) -> Change | None:
    """The change of `old[first:stop]` to `lines`, without the lines at both ends that stay.

    Returns:
        None where nothing changes.
    """
    before = old[first:stop]
    head = 0
    while head < min(len(before), len(lines)) and before[head] == lines[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(lines)) - head and before[-1 - tail] == lines[-1 - tail]:
        tail += 1
    made = Change(first + head, stop - tail, tuple(lines[head : len(lines) - tail]))
    return None if made.first == made.stop and not made.lines else made


def rebased(change: Change, old: list[str], new: list[str]) -> Change | None:
    """The same change for a text that was edited above or below it since.

    Returns:
        None if the changed lines, or lines next to them, were edited.
    """
    if old == new:
        return change
    head = _common(old, new)
    if change.stop < head:
        return change
    tail = _common(old[::-1], new[::-1])
    if change.first > len(old) - tail:
        by = len(new) - len(old)
        return replace(change, first=change.first + by, stop=change.stop + by)
    return None


def applied(change: Change, lines: list[str]) -> list[str]:
    """The lines of a text after the change."""
    return [*lines[: change.first], *change.lines, *lines[change.stop :]]


def syntax_errors(change: Change, path: str, lines: list[str]) -> tuple[int, ...]:
    """The lines, counted from 0, at which the change would break the syntax of the file."""
    from context import broken_by

    return broken_by(path, "\n".join(lines), "\n".join(applied(change, lines)))


def describe(change: Change, broken: tuple[int, ...]) -> str:
    """A description of the change for the user."""
    old, new = change.stop - change.first, len(change.lines)
    if not old:
        size = f"adds {_lines(new)}"
    elif not new:
        size = f"removes {_lines(old)}"
    else:
        size = f"replaces {_lines(old)} with {_lines(new)}"
    if not broken:
        return size
    places = ", ".join(str(line + 1) for line in broken[:3])
    return f"BREAKS THE SYNTAX near line {places}; {size}"


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def _common(one: list[str], other: list[str]) -> int:
    limit = min(len(one), len(other))
    return next((at for at in range(limit) if one[at] != other[at]), limit)


@dataclass(frozen=True)
class Proposal:
    """A change to be shown to the user before it is made.

    Attributes:
        version: of the document that the change fits; None for a file that is not open.
        lines: the document's lines before the change.
        label, description: what it is, in words for a person.
        broken: lines, from 0, at which it would break the file's syntax.
        creates: the file is made by it.
    """

    uri: str
    version: int | None
    lines: Sequence[str]
    change: Change
    label: str
    description: str
    broken: tuple[int, ...] = ()
    line_end: str = "\n"
    creates: bool = False


@dataclass(frozen=True)
class EditCapabilities:
    """What the client can do with an edit.

    Attributes:
        versions: it takes edits of documents in a version (`documentChanges`).
        asks: it shows an edit that needs confirmation before it makes it.
        creates: it makes files.
    """

    versions: bool = False
    asks: bool = False
    creates: bool = False

    @classmethod
    def of(cls, capabilities: types.ClientCapabilities) -> EditCapabilities:
        workspace = capabilities.workspace
        edit = workspace.workspace_edit if workspace else None
        if edit is None:
            return cls()
        operations = edit.resource_operations or ()
        versions = bool(edit.document_changes)
        return cls(
            versions=versions,
            asks=versions and edit.change_annotation_support is not None,
            creates=versions and types.ResourceOperationKind.Create in operations,
        )


def workspace_edit(
    proposal: Proposal, capabilities: EditCapabilities, encoding: Encoding
) -> types.WorkspaceEdit:
    """The edit, with the version it was made for, to be confirmed.

    Raises:
        RequestError: it makes a file, and the client cannot.
    """
    if proposal.creates and not capabilities.creates:
        raise RequestError(
            "this editor makes no files for a language server",
            subject=proposal.uri,
            advice="Create the file, and try again",
        )
    edit = text_edit(proposal, encoding)
    if not capabilities.versions:
        return types.WorkspaceEdit(changes={proposal.uri: [edit]})
    changes: list[Any] = []
    if proposal.creates:
        options = types.CreateFileOptions(overwrite=False, ignore_if_exists=False)
        made = types.CreateFile(uri=proposal.uri, options=options)
        if capabilities.asks:
            made.annotation_id = _ANNOTATION
        changes.append(made)
    document = types.OptionalVersionedTextDocumentIdentifier(
        uri=proposal.uri, version=proposal.version
    )
    if not capabilities.asks:
        changes.append(types.TextDocumentEdit(text_document=document, edits=[edit]))
        return types.WorkspaceEdit(document_changes=changes)
    annotated = types.AnnotatedTextEdit(
        annotation_id=_ANNOTATION, range=edit.range, new_text=edit.new_text
    )
    changes.append(types.TextDocumentEdit(text_document=document, edits=[annotated]))
    annotation = types.ChangeAnnotation(
        label=proposal.label, needs_confirmation=True, description=proposal.description
    )
    return types.WorkspaceEdit(
        document_changes=changes, change_annotations={_ANNOTATION: annotation}
    )


def text_edit(proposal: Proposal, encoding: Encoding) -> types.TextEdit:
    """The change in the client's positions."""
    change, lines = proposal.change, proposal.lines
    new = "".join(f"{line}\n" for line in change.lines)
    if change.stop < len(lines):
        start, end = (change.first, 0), (change.stop, 0)
    else:
        # The last line has no end: what follows the change is the end of the text.
        last = len(lines) - 1
        start, end = (change.first, 0), (last, to_units(lines[last], len(lines[last]), encoding))
        new = new.removesuffix("\n")
        if change.first > last or (change.first and not change.lines):
            before = change.first - 1
            start = (before, to_units(lines[before], len(lines[before]), encoding))
            new = f"\n{new}" if change.lines else ""
    return types.TextEdit(
        range=types.Range(
            start=types.Position(line=start[0], character=start[1]),
            end=types.Position(line=end[0], character=end[1]),
        ),
        new_text=new.replace("\n", proposal.line_end),
    )
