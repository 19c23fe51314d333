"""A proposal as the protocol's `WorkspaceEdit`, as far as the client understands it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lsprotocol import types

from assistant.errors import RequestError
from lsp.actions.edits import Proposal
from lsp.documents.positions import Encoding, to_units

_ANNOTATION = "underkeel"


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
            advice="Make the file, and ask again",
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
