"""The Language Server Protocol around a session: messages in, messages out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol, default_converter, lsp_method

from assistant import __version__
from assistant.errors import printable
from lsp.actions import chat_models, feature
from lsp.backend import Backend, Client
from lsp.completion.session import Edit, Session
from lsp.completion.suggestion import Item, Selected, Update
from lsp.document import Encoding
from lsp.editor import Configuration, LoadProgress, Severity, offers_ours
from lsp.handshake import ANSWERED, NAME, PROTOCOL_VERSION
from lsp.next_edit import NextEdits, Offer
from lsp.served_model import State, StatusLine
from lsp.uri import folders_of

_log = logging.getLogger(__name__)

ACCEPTED = "underkeel.accepted"
STATUS = "underkeel.status"
NEXT_EDIT = "textDocument/copilotInlineEdit"  # as Copilot's language server has it
ACCEPT_EDIT = "underkeel.acceptNextEdit"
REJECT_EDIT = "underkeel.rejectNextEdit"

_MOST_DIAGNOSTICS = 50
_LONGEST_MESSAGE = 400
_SEVERITY = {
    Severity.ERROR: types.MessageType.Error,
    Severity.WARNING: types.MessageType.Warning,
    Severity.INFO: types.MessageType.Info,
}
# Every notebook, with all its cells.
_NOTEBOOKS = types.NotebookDocumentSyncOptions(
    notebook_selector=[
        types.NotebookDocumentFilterWithNotebook(
            notebook="*", cells=[types.NotebookCellLanguage(language="*")]
        )
    ]
)


class _Protocol(LanguageServerProtocol):
    """pygls's protocol with our own documents, and what we add to `initialize`."""

    _server: Server

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(
        self, params: types.InitializeParams
    ) -> Generator[Any, Any, types.InitializeResult]:
        result = yield from super().lsp_initialize(params)
        result.capabilities.experimental = {NAME: {"version": PROTOCOL_VERSION}}
        return result

    @lsp_method(types.WORKSPACE_EXECUTE_COMMAND)
    async def lsp_workspace__execute_command(  # type: ignore[override]
        self, params: types.ExecuteCommandParams
    ) -> Any:
        """pygls runs commands in tasks of their own, which `$/cancelRequest` does not reach."""
        handler = self.fm.commands.get(params.command)
        if handler is None:
            raise JsonRpcInvalidParams(f"there is no command {params.command!r}")
        result = handler(*(params.arguments or ()))
        return await result if inspect.isawaitable(result) else result

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        opened = params.text_document
        self._server.session.open(opened.uri, opened.text, opened.version, opened.language_id)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        changed = params.text_document
        edits = [_edit(change) for change in params.content_changes]
        self._server.session.change(changed.uri, changed.version, edits)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        self._server.session.close(params.text_document.uri)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def lsp_notebook_document__did_open(self, params: types.DidOpenNotebookDocumentParams) -> None:
        opened = params.notebook_document
        session = self._server.session
        session.notebooks.opened(opened.uri, _cells(opened.cells))
        for cell in params.cell_text_documents:
            session.open(cell.uri, cell.text, cell.version, cell.language_id)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def lsp_notebook_document__did_change(
        self, params: types.DidChangeNotebookDocumentParams
    ) -> None:
        uri, changes = params.notebook_document.uri, params.change.cells
        session = self._server.session
        if changes is None:
            return
        if changes.structure is not None:
            array = changes.structure.array
            added = _cells(array.cells or ())
            session.notebooks.spliced(uri, array.start, array.delete_count, added)
            for cell in changes.structure.did_open or ():
                session.open(cell.uri, cell.text, cell.version, cell.language_id)
            for closed in changes.structure.did_close or ():
                session.close(closed.uri)
        session.notebooks.changed_kinds(uri, _cells(changes.data or ()))
        for changed in changes.text_content or ():
            edits = [_edit(change) for change in changed.changes]
            session.change(changed.document.uri, changed.document.version, edits)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_SAVE)
    def lsp_notebook_document__did_save(self, params: types.DidSaveNotebookDocumentParams) -> None:
        """The index follows the files, so nothing is left to do."""

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def lsp_notebook_document__did_close(
        self, params: types.DidCloseNotebookDocumentParams
    ) -> None:
        for cell in params.cell_text_documents:
            self._server.session.close(cell.uri)
        self._server.session.notebooks.closed(params.notebook_document.uri)

    def _send_response(
        self, msg_id: str | int, result: Any = None, error: types.ResponseError | None = None
    ) -> None:
        """As of pygls, but `initialize` may have been answered before."""
        if msg_id != ANSWERED:
            super()._send_response(msg_id, result, error)
        elif error is not None:
            text = f"Underkeel cannot read the editor's request to initialize: {error.message}"
            self._server.message(Severity.ERROR, text)


class Server(LanguageServer):
    """The language server. It is the `Editor` of its session.

    Attributes:
        session: the documents and the work on them.
        actions: explanations and edits, once they are registered.
        next_edits: the same for next edits.
        left: the client has asked for the shutdown, as it should before it leaves.
    """

    def __init__(self, connect: Callable[[], Client] | None = None) -> None:
        super().__init__(
            NAME,
            __version__,
            protocol_cls=_Protocol,
            converter_factory=default_converter,
            notebook_document_sync=_NOTEBOOKS,
        )
        self.left = False
        self.status_line = StatusLine(self.send_status)
        self.configuration = Configuration()
        self.session = Session(Backend(self, connect))
        self.actions: feature.Actions | None = None
        self.next_edits: NextEdits | None = None
        self._progress: LoadProgress | None = None

    def message(self, severity: Severity, text: str) -> None:
        # Names and errors in it come from files and servers; VS Code makes links of [...](...).
        shown = printable(text, lines=True).replace("](", "] (")
        self.window_show_message(types.ShowMessageParams(type=_SEVERITY[severity], message=shown))
        if severity is Severity.ERROR:
            self.status_line.set(State.ERROR, text)

    def loading(self, stage: str, share: float) -> None:
        if self._progress is None:
            self._progress = LoadProgress(self)
        self._progress.report(stage, share)
        self.status_line.set(State.LOADING, stage, progress=share)

    def loaded(self) -> None:
        if self._progress is not None:
            self._progress.end()

    def serving(self, *, busy: bool, **facts: Any) -> None:
        if self.status_line.now["state"] != State.OFF:
            if problem := self.session.prompts.problem:
                facts["message"] = "; ".join(filter(None, (facts.get("message"), problem)))
            self.status_line.set(State.BUSY if busy else State.READY, **facts)

    def send_status(self, status: Mapping[str, Any]) -> None:
        """Report the state to the editor, if it has requested that."""
        if offers_ours(self.client_capabilities.experimental, "status"):
            self.protocol.notify("underkeel/status", dict(status))

    def send_update(self, update: Update) -> None:
        """A suggestion has grown; see editors/PROTOCOL.md."""
        line, character = update.position
        params = {
            "textDocument": {"uri": update.uri, "version": update.version},
            "position": {"line": line, "character": character},
            "item": _item(update.item),
            "complete": update.complete,
        }
        self.protocol.notify("underkeel/completionUpdate", params)

    def report_server_error(self, error: Exception, source: Any) -> None:  # noqa: ARG002
        """A message could not be handled. It may hold code, so only its kind is logged."""
        _log.error("a message from the editor could not be handled: %s", type(error).__name__)


def create(connect: Callable[[], Client] | None = None) -> Server:
    """A server with everything that it understands; `connect` replaces the daemon in tests."""
    server = Server(connect)
    _life(server)
    _completion(server)
    _commands(server)
    server.actions = feature.register(server, server, server.session)
    chat_models.register(server, server.session.backend)
    server.next_edits = _next_edits(server)
    _accounts(server)
    return server


def _life(server: Server) -> None:
    options: list[Any] = []

    @server.feature(types.INITIALIZE)
    def initialise(params: types.InitializeParams) -> None:
        server.session.encoding = Encoding(server.workspace.position_encoding or Encoding.UTF16)
        options.append(params.initialization_options)
        if offers_ours(params.capabilities.experimental, "completionUpdate"):
            server.session.on_update = server.send_update

    @server.feature(types.INITIALIZED)
    def initialised(_params: types.InitializedParams) -> None:
        configure(options[-1] if options else None)

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    def configuration_changed(params: types.DidChangeConfigurationParams) -> None:
        if isinstance(params.settings, Mapping) and NAME in params.settings:
            configure(params.settings)  # else it is about other servers

    @server.feature(types.SHUTDOWN)
    async def shut_down(_params: None) -> None:
        server.left = True
        await server.session.aclose()

    @server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    def folders_changed(_params: types.DidChangeWorkspaceFoldersParams) -> None:
        server.session.configure(server.session.settings, roots())

    def roots() -> list[Path]:
        # The folders' own URIs: the keys of pygls' table are decoded already.
        uris = [folder.uri for folder in server.workspace.folders.values()]
        return folders_of(uris or [server.workspace.root_uri or ""])

    def configure(raw: Any) -> None:
        settings, problems = server.configuration.read(raw)
        for problem in problems:
            server.message(Severity.WARNING, f"Underkeel: {problem}")
        server.session.configure(settings.completion, roots())
        server.session.tally.enabled = settings.statistics.enabled
        if server.actions is not None:
            server.actions.settings = settings.actions
        if server.next_edits is not None:
            server.next_edits.settings = settings.next_edits
        server.status_line.switch(on=settings.completion.enabled)


def _completion(server: Server) -> None:
    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline_completion(
        params: types.InlineCompletionParams,
    ) -> types.InlineCompletionList:
        info = params.context.selected_completion_info
        items = await server.session.suggest(
            params.text_document.uri,
            (params.position.line, params.position.character),
            invoked=params.context.trigger_kind is types.InlineCompletionTriggerKind.Invoked,
            selected=_selected(info) if info else None,
        )
        return types.InlineCompletionList(items=[_item(item) for item in items])


def _commands(server: Server) -> None:
    @server.command(ACCEPTED)
    def accepted(*arguments: Any) -> None:
        first = arguments[0] if arguments else None
        if isinstance(first, dict):
            server.session.accepted(str(first.get("id", "")))

    @server.command(STATUS)
    def status(*_: Any) -> Any:
        return dict(server.status_line.now)

    @server.feature("textDocument/didShowCompletion")
    def shown(params: Any) -> None:
        server.session.shown(_id_of(params))

    @server.feature("textDocument/didPartiallyAcceptCompletion")
    def partly_accepted(params: Any) -> None:
        units = getattr(params, "acceptedLength", None)
        if isinstance(units, float) and units.is_integer():
            units = int(units)
        server.session.accepted(_id_of(params), units if isinstance(units, int) else 0)


def _next_edits(server: Server) -> NextEdits:
    """The messages and commands of next edits; see editors/PROTOCOL.md."""
    edits = NextEdits(server.session)

    @server.feature(NEXT_EDIT)
    async def next_edit(params: Any) -> dict[str, Any]:
        place = _edit_place(params)
        if place is None:
            return {"edits": []}
        ours = offers_ours(server.client_capabilities.experimental, "status")
        found = await edits.find(*place, problems=_problems(params), shown=not ours)
        return {"edits": [_edit_message(one) for one in found]}

    @server.feature("textDocument/didShowInlineEdit")
    def shown(params: Any) -> None:
        item = getattr(params, "item", params)
        edits.shown(_id_in(getattr(getattr(item, "command", None), "arguments", None)))

    @server.feature("textDocument/didFocus")
    def focused(params: Any) -> None:
        edits.focused = str(getattr(getattr(params, "textDocument", None), "uri", ""))

    @server.command(ACCEPT_EDIT)
    def accepted(*arguments: Any) -> None:
        edits.accepted(_id_in(arguments))

    @server.command(REJECT_EDIT)
    def rejected(*arguments: Any) -> None:
        edits.rejected(_id_in(arguments))

    return edits


def _accounts(server: Server) -> None:
    """What clients of Copilot's language server ask before they use it: there is no account."""

    @server.feature("checkStatus")
    def check_status(_params: Any) -> dict[str, str]:
        return {"status": "OK", "user": NAME}

    @server.feature("signIn")
    def sign_in(_params: Any) -> dict[str, str]:
        return {"status": "AlreadySignedIn", "user": NAME}

    @server.feature("signOut")
    def sign_out(_params: Any) -> dict[str, str]:
        return {"status": "NotSignedIn"}

    @server.feature("setEditorInfo")
    def set_editor_info(_params: Any) -> str:
        return "OK"

    @server.feature("getVersion")
    def get_version(_params: Any) -> dict[str, str]:
        return {"version": __version__}


def _edit(change: types.TextDocumentContentChangeEvent) -> Edit:
    if isinstance(change, types.TextDocumentContentChangePartial):
        return Edit(change.text, _pair(change.range.start), _pair(change.range.end))
    return Edit(change.text)


def _cells(cells: Iterable[types.NotebookCell]) -> list[tuple[str, bool]]:
    return [(cell.document, cell.kind is types.NotebookCellKind.Code) for cell in cells]


def _selected(info: types.SelectedCompletionInfo) -> Selected:
    return Selected(_pair(info.range.start), _pair(info.range.end), info.text)


def _item(item: Item) -> types.InlineCompletionItem:
    start, end = (
        types.Position(line=line, character=units) for line, units in (item.start, item.end)
    )
    return types.InlineCompletionItem(
        insert_text=item.text,
        range=types.Range(start=start, end=end),
        command=types.Command(title="Accepted", command=ACCEPTED, arguments=[{"id": item.id}]),
    )


def _pair(position: types.Position) -> tuple[int, int]:
    return position.line, position.character


def _id_of(params: Any) -> str:
    """The id in the command of an item that the client sends back; empty if there is none."""
    try:
        return str(params.item.command.arguments[0].id)
    except (AttributeError, IndexError, TypeError):
        return ""


def _edit_place(params: Any) -> tuple[str, int | None, tuple[int, int]] | None:
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


def _edit_message(offer: Offer) -> dict[str, Any]:
    (line, character), (stop_line, stop_character) = offer.start, offer.end
    return {
        "text": offer.text,
        "range": {
            "start": {"line": line, "character": character},
            "end": {"line": stop_line, "character": stop_character},
        },
        "textDocument": {"uri": offer.uri, "version": offer.version},
        "command": {"title": "Accept", "command": ACCEPT_EDIT, "arguments": [{"id": offer.id}]},
    }


def _id_in(arguments: Any) -> str:
    """The id in the arguments of a command, as a mapping or as an object."""
    try:
        first = arguments[0]
    except (IndexError, KeyError, TypeError):
        return ""
    found = first.get("id", "") if isinstance(first, Mapping) else getattr(first, "id", "")
    return str(found)
