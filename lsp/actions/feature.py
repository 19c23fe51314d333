"""Code actions and their commands over LSP; see editors/PROTOCOL.md."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from assistant.errors import AnswerError, RequestError, UnderkeelError
from lsp.actions.document_range import (
    DocumentRange,
    command_argument,
    diagnostic_text,
    range_argument,
    text_argument,
)
from lsp.actions.offer import KINDS, RESOLVED, Diagnostic, Offer, Task, offers
from lsp.editor import Editor, Severity, offers_ours

if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer

    from assistant.settings import ActionSettings
    from lsp.actions.document_range import EditCapabilities, Proposal
    from lsp.actions.edits import Edits
    from lsp.actions.explanations import ExplainCommand
    from lsp.completion.session import Session

EXPLAIN = "underkeel.explain"
EDIT = "underkeel.edit"

_MAX_DIAGNOSTICS = 3


class RequestFailedError(JsonRpcException):
    """The request was right and cannot be fulfilled (LSP 3.17, `RequestFailed`)."""

    CODE = -32803


class Actions:
    """The code actions of one client.

    Attributes:
        settings: the current ones; None before the client is initialised.
    """

    def __init__(self, server: LanguageServer, editor: Editor, session: Session) -> None:
        self.settings: ActionSettings | None = None
        self._server, self._editor, self._session = server, editor, session

    # Imported when first used: `initialize` does not wait for them.

    @cached_property
    def _explain_command(self) -> ExplainCommand:
        from lsp.actions.explanations import ExplainCommand, Explanations

        session = self._session
        explanations = Explanations(session.backend, lambda: session.prompts)
        return ExplainCommand(self._server, self._editor, session, explanations)

    @cached_property
    def _edits(self) -> Edits:
        from lsp.actions.edits import Edits

        session = self._session
        return Edits(session.backend, lambda: session.prompts, session)

    # What the client can do.

    def _streams(self) -> bool:
        """Whether the client is one of our plugins: it shows explanations while they are streamed,
        and asks the user for instructions."""
        return offers_ours(self._server.client_capabilities.experimental, "explanation")

    def _resolves(self) -> bool:
        document = self._server.client_capabilities.text_document
        ability = document.code_action if document else None
        return bool(
            ability
            and ability.data_support
            and ability.resolve_support
            and "edit" in ability.resolve_support.properties
        )

    def _takes_literals(self) -> bool:
        document = self._server.client_capabilities.text_document
        ability = document.code_action if document else None
        return bool(ability and ability.code_action_literal_support)

    # Requests.

    async def offered(
        self, params: types.CodeActionParams
    ) -> list[types.CodeAction | types.Command]:
        """textDocument/codeAction. Sends no request to a model."""
        document_range = self._scene(params.text_document.uri, params.range)
        if document_range is None or self.settings is None or not self.settings.enabled:
            return []
        context = params.context
        diagnostics = [
            Diagnostic(number, diagnostic_text(one))
            for number, one in enumerate(context.diagnostics[:_MAX_DIAGNOSTICS])
        ]
        from lsp.actions.offer import facts_of

        streams = self._streams()
        facts = await self._session.prompts.study(
            document_range.uri,
            document_range.text,
            lambda document: facts_of(document, document_range),
            language_id=document_range.language,
        )
        found = offers(
            facts,
            diagnostics,
            only=context.only or (),
            asks_instruction=streams,
            automatic=context.trigger_kind is types.CodeActionTriggerKind.Automatic,
        )
        made = [self._action(offer, params, document_range) for offer in found]
        if self._takes_literals():
            return list(made)
        return [one.command for one in made if one.command is not None]

    def _action(
        self, offer: Offer, params: types.CodeActionParams, document_range: DocumentRange
    ) -> types.CodeAction:
        place = {"textDocument": {"uri": document_range.uri}, "range": params.range}
        action = types.CodeAction(title=offer.title, kind=offer.kind)
        diagnostic = (
            params.context.diagnostics[offer.diagnostic.number] if offer.diagnostic else None
        )
        if diagnostic is not None:
            action.diagnostics = [diagnostic]
        if offer.task in RESOLVED:
            about = {
                "task": offer.task.value,
                "diagnostic": offer.diagnostic and offer.diagnostic.text,
            }
            if diagnostic is not None:
                place["range"] = diagnostic.range
            if self._resolves() and self._takes_literals():
                action.data = {**place, **about, "version": document_range.version}
            else:
                action.command = _command(offer, EDIT, {**place, **about})
        elif offer.task is Task.EDIT:
            instruction = {"instruction": offer.instruction} if offer.instruction else {}
            action.command = _command(offer, EDIT, place | instruction)
        else:
            kind = _explanation_kind(offer, document_range)
            if diagnostic is not None:
                place |= {"range": diagnostic.range, "diagnostic": diagnostic}
            action.command = _command(offer, EXPLAIN, {**place, "kind": kind})
        return action

    async def resolved(self, action: types.CodeAction) -> types.CodeAction:
        """codeAction/resolve: the model writes the edit."""
        data = action.data
        if action.edit is not None or not isinstance(data, Mapping) or "task" not in data:
            return action
        with ProtocolErrors():
            place = range_argument(data)
            document_range = self._session.document_range(place.uri, *place.span)
            if document_range is None or document_range.version != data.get("version"):
                raise AnswerError("the document has changed", advice="Ask for the actions again")
            proposal = await self._proposal(document_range, data)
            action.edit = self._edit(proposal)
        if proposal.broken and not self._edit_capabilities().asks:
            self._warn(proposal)
        return action

    async def explain(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """`underkeel.explain`."""
        with ProtocolErrors():
            return await self._explain_command.run(raw, self._settings(), streams=self._streams())

    async def edit(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """`underkeel.edit`: proposes the edit and reports whether it was applied."""
        with ProtocolErrors():
            place = range_argument(raw)
            document_range = self._session.document_range(place.uri, *place.span)
            if document_range is None:
                raise RequestError("this document is not open", subject=place.uri)
            proposal = await self._proposal(document_range, raw)
            edit = self._edit(proposal)
        # After a cancellation the client still answers, and pygls needs a task that waits for it.
        return await asyncio.shield(asyncio.ensure_future(self._offer(proposal, edit)))

    async def _proposal(self, document_range: DocumentRange, raw: Mapping[str, Any]) -> Proposal:
        settings, task = self._settings(), raw.get("task") or Task.EDIT
        text = raw.get("diagnostic")
        match task:
            case Task.FIX:
                said = text if isinstance(text, str) else diagnostic_text(text)
                return await self._edits.fixed(document_range, said, settings)
            case Task.DOCUMENT:
                return await self._edits.documented(document_range, settings)
            case Task.TESTS:
                return await self._edits.tested(document_range, settings)
            case Task.EDIT:
                instruction = text_argument(raw, "instruction")
                return await self._edits.instructed(document_range, instruction, settings)
        raise RequestError(f"there is no task {task!r}", advice="See editors/PROTOCOL.md")

    async def _offer(self, proposal: Proposal, edit: types.WorkspaceEdit) -> dict[str, Any]:
        """Have the client show the edit and, if the user agrees, apply it."""
        breaks = f"This {proposal.description}." if proposal.broken else ""
        if not self._edit_capabilities().asks and not await self._agreed(proposal):
            return {"applied": False, "message": breaks or "Not applied."}
        params = types.ApplyWorkspaceEditParams(edit=edit, label=proposal.label)
        try:
            answer = await self._server.workspace_apply_edit_async(params)
        except JsonRpcException as error:
            return {"applied": False, "message": error.message}
        reason = "" if answer.applied else answer.failure_reason or "The editor did not apply it."
        return {"applied": answer.applied, "message": " ".join(filter(None, (breaks, reason)))}

    async def _agreed(self, proposal: Proposal) -> bool:
        """Ask the user, for an editor that would apply the edit without confirmation."""
        request = types.ShowMessageRequestParams(
            type=types.MessageType.Warning if proposal.broken else types.MessageType.Info,
            message=f"Underkeel: {proposal.label}. This {proposal.description}. Apply it?",
            actions=[types.MessageActionItem("Apply"), types.MessageActionItem("Discard")],
        )
        try:
            answer = await self._server.window_show_message_request_async(request)
        except JsonRpcException:
            return False
        return answer is not None and answer.title == "Apply"

    def _edit(self, proposal: Proposal) -> types.WorkspaceEdit:
        from lsp.actions.document_range import workspace_edit

        return workspace_edit(proposal, self._edit_capabilities(), self._session.encoding)

    def _edit_capabilities(self) -> EditCapabilities:
        from lsp.actions.document_range import EditCapabilities

        return EditCapabilities.of(self._server.client_capabilities)

    def _warn(self, proposal: Proposal) -> None:
        text = f"Underkeel: {proposal.label}. This {proposal.description}."
        self._editor.message(Severity.WARNING, text)

    def _scene(self, uri: str, span: types.Range) -> DocumentRange | None:
        start, end = span.start, span.end
        return self._session.document_range(
            uri, (start.line, start.character), (end.line, end.character)
        )

    def _settings(self) -> ActionSettings:
        if self.settings is None or not self.settings.enabled:
            raise RequestError("code actions are switched off", advice="Set actions.enabled")
        return self.settings


def register(server: LanguageServer, editor: Editor, session: Session) -> Actions:
    """Register the code actions and their commands with the server."""
    actions = Actions(server, editor, session)
    options = types.CodeActionOptions(
        code_action_kinds=list(dict.fromkeys(KINDS.values())), resolve_provider=True
    )

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, options)
    async def code_action(
        params: types.CodeActionParams,
    ) -> list[types.CodeAction | types.Command]:
        return await actions.offered(params)

    @server.feature(types.CODE_ACTION_RESOLVE)
    async def resolve(action: types.CodeAction) -> types.CodeAction:
        return await actions.resolved(action)

    @server.command(EXPLAIN)
    async def explain(*given: Any) -> dict[str, Any]:
        with ProtocolErrors():
            raw = command_argument(given)
        return await actions.explain(raw)

    @server.command(EDIT)
    async def edit(*given: Any) -> dict[str, Any]:
        with ProtocolErrors():
            raw = command_argument(given)
        return await actions.edit(raw)

    return actions


class ProtocolErrors:
    """A context that raises our errors as errors of the protocol."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnderkeelError):
            raise RequestFailedError(str(error)) from error


def _command(offer: Offer, name: str, argument: dict[str, Any]) -> types.Command:
    return types.Command(title=offer.title, command=name, arguments=[argument])


def _explanation_kind(offer: Offer, document_range: DocumentRange) -> str:
    from lsp.actions.explanations import Kind

    if offer.task is Task.EXPLAIN_FILE:
        return Kind.FILE.value
    if offer.task is Task.EXPLAIN_ERROR:
        return Kind.DIAGNOSTIC.value
    has_selection = document_range.start < document_range.stop
    return Kind.SELECTION.value if has_selection else Kind.SYMBOL.value
