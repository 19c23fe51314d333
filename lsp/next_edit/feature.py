"""Next edits over LSP, with the messages of Copilot's language server; see editors/PROTOCOL.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lsp.next_edit.suggester import NextEdits, Offer

if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer

    from lsp.completion.session import Session

NEXT_EDIT = "textDocument/copilotInlineEdit"
ACCEPT = "underkeel.acceptNextEdit"
REJECT = "underkeel.rejectNextEdit"
_MOST_DIAGNOSTICS = 50
_LONGEST_MESSAGE = 400


def register(server: LanguageServer, session: Session) -> NextEdits:
    """Register the messages and commands of next edits with the server."""
    edits = NextEdits(session)

    @server.feature(NEXT_EDIT)
    async def next_edit(params: Any) -> dict[str, Any]:
        place = _place(params)
        if place is None:
            return {"edits": []}
        found = await edits.find(*place, problems=_problems(params))
        return {"edits": [_message(one) for one in found]}

    @server.feature("textDocument/didShowInlineEdit")
    def shown(params: Any) -> None:
        item = getattr(params, "item", params)
        edits.shown(_id_of(getattr(getattr(item, "command", None), "arguments", None)))

    @server.feature("textDocument/didFocus")
    def focused(params: Any) -> None:
        edits.focused = str(getattr(getattr(params, "textDocument", None), "uri", ""))

    @server.command(ACCEPT)
    def accepted(*arguments: Any) -> None:
        edits.accepted(_id_of(arguments))

    @server.command(REJECT)
    def rejected(*arguments: Any) -> None:
        edits.rejected(_id_of(arguments))

    return edits


def _place(params: Any) -> tuple[str, int | None, tuple[int, int]] | None:
    """URI, version and position of a request; None where they are missing."""
    document, position = getattr(params, "textDocument", None), getattr(params, "position", None)
    uri = getattr(document, "uri", None)
    line, character = getattr(position, "line", None), getattr(position, "character", None)
    if not isinstance(uri, str) or not isinstance(line, int) or not isinstance(character, int):
        return None
    version = getattr(document, "version", None)
    return uri, version if isinstance(version, int) else None, (line, character)


def _problems(params: Any) -> tuple[tuple[int, str], ...]:
    """Line and message of the diagnostics in a request's context; what has another form is left
    out."""
    listed = getattr(getattr(params, "context", None), "diagnostics", None)
    found = []
    for one in listed[:_MOST_DIAGNOSTICS] if isinstance(listed, list | tuple) else ():
        line = getattr(getattr(getattr(one, "range", None), "start", None), "line", None)
        message = getattr(one, "message", None)
        if isinstance(line, int) and isinstance(message, str):
            found.append((line, message[:_LONGEST_MESSAGE]))
    return tuple(found)


def _message(offer: Offer) -> dict[str, Any]:
    (line, character), (stop_line, stop_character) = offer.start, offer.end
    return {
        "text": offer.text,
        "range": {
            "start": {"line": line, "character": character},
            "end": {"line": stop_line, "character": stop_character},
        },
        "textDocument": {"uri": offer.uri, "version": offer.version},
        "command": {"title": "Accept", "command": ACCEPT, "arguments": [{"id": offer.id}]},
    }


def _id_of(arguments: Any) -> str:
    """The id in the arguments of a command, as a mapping or as an object."""
    try:
        first = arguments[0]
    except (IndexError, KeyError, TypeError):
        return ""
    found = first.get("id", "") if isinstance(first, Mapping) else getattr(first, "id", "")
    return str(found)
