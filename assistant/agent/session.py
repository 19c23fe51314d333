"""A session at work: the thin shell around the loop. It packs, sends, asks for approval, runs
tools, and stores each finished step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from assistant.agent import conversation, loop
from assistant.agent.commands import plain
from assistant.agent.conversation import (
    Answer,
    Message,
    StoredSession,
    Summary,
    ToolCall,
    ToolResult,
    Turn,
)
from assistant.agent.editing import Editor
from assistant.agent.mcp_servers import MAX_SERVERS, Approvals, Connection, Server, tools_of
from assistant.agent.model import Model
from assistant.agent.packing import (
    SMALL_BUDGET,
    DoesNotFitError,
    Packed,
    message_tokens,
    pack,
    result_tokens,
)
from assistant.agent.permissions import Mode, Rules, Verdict, verdict
from assistant.agent.reading import Reader, clip, expanded, instructions
from assistant.agent.toolbox import Diagnose, Toolbox
from assistant.agent.tools import Access, Outcome, Planned, offered
from assistant.agent.workspace import EditorFiles, Journal, ToolError, Workspace
from assistant.errors import ContextFullError, RequestError, UnderkeelError
from context.syntax.text import CharacterStream, rewritten

_REFUSED = "The user refused this call. Do not make it again; do something else, or ask."
_RETRY_S = (0.2, 1.0, 4.0)
# A tool that has its own limit ends before; this is for one that hangs.
_TOOL_LIMIT_S = 660.0


class Approval(StrEnum):
    """What the user answered."""

    ONCE = "once"
    ALWAYS = "always"
    REJECT = "reject"
    CANCEL = "cancel"


class Frontend(Protocol):
    """Where the user is: shows what happens, and asks for approval."""

    async def text(self, text: str) -> None: ...

    async def thought(self, text: str) -> None: ...

    async def call_started(self, call: ToolCall, planned: Planned | None) -> None: ...

    async def call_ended(
        self, call: ToolCall, planned: Planned | None, outcome: Outcome
    ) -> None: ...

    async def usage(self, used: int, size: int) -> None: ...

    async def approve(self, call: ToolCall, planned: Planned) -> Approval: ...


@dataclass(frozen=True)
class Finished:
    """How a turn ended, and what it cost in tokens."""

    stop: loop.Stop
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    repacks: int = 0


class AgentSession:
    """One session with its workspace, its tools and its permissions.

    Args:
        allowed: prefixes of commands that the user's settings allow.
        excludes: patterns of files that no model sees.
        editor: the files as the client has them; None where only the disk counts.
        servers: MCP servers, of which those are started that the user approves.
    """

    def __init__(
        self,
        stored: StoredSession,
        model: Model,
        *,
        limits: loop.Limits | None = None,
        allowed: Sequence[str] = (),
        excludes: Sequence[str] = (),
        diagnose: Diagnose | None = None,
        editor: EditorFiles | None = None,
        servers: Sequence[Server] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stored = stored
        self.model = model
        roots = [Path(root) for root in stored.record.roots]
        self.workspace = Workspace(roots, excludes=excludes, editor=editor)
        self.editor = Editor(self.workspace, Journal(stored.journal_path))
        self.toolbox = Toolbox(
            self.workspace, Reader(self.workspace, model.encoder, 1000), self.editor, diagnose
        )
        self._limits = limits or loop.Limits()
        self._allowed = Rules.of(allowed)
        self._clock = clock
        self._cancelled = asyncio.Event()
        self._approvals = Approvals(stored.folder.parent / "mcp_approved")
        self._servers = {one.digest: Connection(one) for one in servers[:MAX_SERVERS]}
        self._system = ""
        self._small: bool | None = None
        self._rules_for = 0
        """The budget at which the instructions were written."""
        self._sent: tuple[tuple[Message, ...], int] = ((), 0)
        """The last prompt, and how many steps there were."""

    @property
    def mode(self) -> Mode:
        return Mode(self.stored.record.mode)

    def set_mode(self, mode: Mode) -> None:
        self.stored.record.mode = mode.value
        self.stored.save()

    @property
    def rules(self) -> Rules:
        record = self.stored.record
        return replace(
            self._allowed,
            commands=(*self._allowed.commands, *record.commands),
            exact=frozenset(record.exact),
            tools=frozenset(record.tools),
        )

    def cancel(self) -> None:
        """Stop the turn that runs."""
        self._cancelled.set()

    def undo(self) -> str:
        """Undo all changes of the session; says what was restored."""
        restored, kept = self.editor.journal.undo(self.workspace)
        parts = [f"Restored: {', '.join(sorted(restored))}." if restored else "Nothing to undo."]
        if kept:
            parts.append(f"Changed since, so left alone: {', '.join(sorted(kept))}.")
        return " ".join(parts)

    async def run(self, prompt: str, frontend: Frontend) -> Finished:
        """Work on a prompt until the turn ends.

        Raises:
            RequestError: the prompt is empty, or the session is full.
        """
        try:
            return await self._run(prompt, frontend)
        finally:
            # Not at the start: a cancel may come before the turn runs.
            self._cancelled.clear()

    async def _run(self, prompt: str, frontend: Frontend) -> Finished:
        if not prompt.strip():
            raise RequestError("the prompt is empty", advice="Write what is to be done")
        if prompt.strip() == "/undo":
            await frontend.text(await asyncio.to_thread(self.undo))
            return Finished(loop.Stop(loop.Reason.DONE, ""))
        self.stored.add_prompt(expanded(prompt))
        if not await self._connected(frontend):
            return Finished(loop.Stop(loop.Reason.CANCELLED, "The turn was stopped."))
        started = self._clock()
        state, action = loop.advance(loop.State(limits=self._limits), loop.Started())
        done = Finished(loop.Stop(loop.Reason.DONE, ""))
        while not isinstance(action, loop.Stop):
            event = await self._event(action, state, frontend, started)
            if isinstance(event, loop.Answered):
                done = _added(done, event.answer)
            if isinstance(event, loop.BudgetFell):
                done = replace(done, repacks=done.repacks + 1)
            known = len(state.steps)
            state, action = loop.advance(state, event)
            for step in state.steps[known:]:
                self.stored.add_step(step)
        self.stored.save()
        if action.message and action.reason is not loop.Reason.CANCELLED:
            await frontend.text(f"\n\n{action.message}")
        return replace(done, stop=action, steps=state.answers)

    async def _event(
        self, action: loop.Action, state: loop.State, frontend: Frontend, started: float
    ) -> loop.Event:
        """What an action leads to, within the turn's time and until the user stops it."""
        if self._cancelled.is_set():
            return loop.Cancelled()
        work = asyncio.create_task(self._act(action, state, frontend, started))
        cancelled = asyncio.create_task(self._cancelled.wait())
        limit_s = max(self._limits.time_s - (self._clock() - started), 0.0)
        finished, _ = await asyncio.wait(
            {work, cancelled}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        cancelled.cancel()
        if work in finished:
            return work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        is_stopped = self._cancelled.is_set()
        return loop.Cancelled() if is_stopped else loop.ModelFailed("", self._limits.time_s)

    async def aclose(self) -> None:
        """End the MCP servers; the session stays on disk."""
        await asyncio.gather(*(one.close() for one in self._servers.values()))

    async def _connected(self, frontend: Frontend) -> bool:
        """Start the MCP servers. False where the user stopped the turn meanwhile."""
        if all(one.is_open for one in self._servers.values()):
            return True
        work = asyncio.create_task(self._connect(frontend))
        stop = asyncio.create_task(self._cancelled.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        work.cancel()
        done = await asyncio.gather(work, return_exceptions=True)
        if isinstance(done[0], Exception):
            raise done[0]
        return done[0] is True

    async def _connect(self, frontend: Frontend) -> bool:
        """Start each server that the user has approved or approves now; one that cannot be used is
        reported and left out. False where the user stopped the turn instead."""
        for digest, connection in list(self._servers.items()):
            if connection.is_open:
                continue
            key = f"server:{digest}"
            call = ToolCall(id=f"mcp{digest[:6]}", name="mcp", arguments="{}")
            planned = Planned(
                key, "execute", Access.FOREIGN, connection.server.title, connection.started
            )
            await frontend.call_started(call, planned)
            approval = Approval.ONCE
            if key not in self.rules.tools and not self._approvals.has(connection.server):
                approval = await frontend.approve(call, planned)
            if approval in (Approval.CANCEL, Approval.REJECT):
                outcome = Outcome("Not started: you refused it.", failed=True)
                del self._servers[digest]
            else:
                if approval is Approval.ALWAYS:
                    self._approvals.add(connection.server)
                self._remember(planned)
                outcome = await planned.run()
            await frontend.call_ended(call, planned, outcome)
            if approval is Approval.CANCEL:
                return False
            made = tools_of(connection, self.workspace.shown, self._clip)
            self.toolbox.foreign.update(made if not outcome.failed else {})
        return True

    def _clip(self, text: str) -> str:
        return self.toolbox.reader.clip(text)  # of the budget at that moment

    async def _act(
        self, action: loop.Action, state: loop.State, frontend: Frontend, started: float
    ) -> loop.Event:
        if isinstance(action, loop.AskModel):
            if action.again:
                await asyncio.sleep(_RETRY_S[min(state.failures, len(_RETRY_S)) - 1])
            return await self._ask(frontend, started)
        assert isinstance(action, loop.RunTool)
        result = await self._call(action.call, frontend)
        if result is None:
            return loop.Cancelled()
        return loop.ToolDone(result, self._clock() - started)

    async def _ask(self, frontend: Frontend, started: float) -> loop.Event:
        packed: Packed | None = None
        tools: list[dict[str, object]] = []
        shortfall = ""
        try:
            await self.model.ready()
            packed, tools = self.packed()
        except DoesNotFitError as error:
            shortfall = str(error)
        except UnderkeelError as error:
            return loop.ModelFailed(str(error), self._clock() - started)
        if packed is None or packed.exhausted:
            tokens = await self._summarise(frontend, must=packed is None)
            if tokens is not None:
                return loop.Summarised(tokens, self._clock() - started)
        if packed is None:
            return loop.NoSpace(shortfall)
        await frontend.usage(packed.tokens, self.model.budget_tokens)
        self._sent = packed.messages, len(packed.levels)

        said, thought = _Said(frontend.text), _Said(frontend.thought)
        try:
            answer = await self.model.answer(
                packed.messages, tools, packed.tokens, said.feed, thought.feed
            )
            await thought.finish()
            await said.finish()
        except ContextFullError:
            return loop.BudgetFell(self._clock() - started)
        except RequestError as error:
            return loop.ModelFailed(str(error), self._clock() - started, fatal=True)
        except UnderkeelError as error:
            return loop.ModelFailed(str(error), self._clock() - started)
        answer = msgspec.structs.replace(answer, text=rewritten(answer.text))
        return loop.Answered(answer, self._clock() - started)

    async def _summarise(self, frontend: Frontend, *, must: bool) -> int | None:
        """Put a summary in place of the first part of the conversation.

        Args:
            must: the conversation does not fit without it.

        Returns:
            The tokens that the model took for it; None where there is nothing to sum up yet.
        """
        record, turns = self.stored.record, self.stored.turns
        before = record.summary
        span = conversation.coverable(turns, before)
        if span is None and must and before is not None and before.by_model:
            span = msgspec.structs.replace(before, text="")  # what the model wrote is too long
        elif span is not None and conversation.may_ask(span, before):
            made, tokens = await self._summary_by_model(span)
            if made is not None:
                record.summary = made
                self.stored.save()
                await frontend.text(
                    f"\n\n*The conversation no longer fits: the model summed up its first "
                    f"{made.steps} steps.*\n\n"
                )
                return tokens
        elif not must:
            return None
        if span is None:
            return None
        record.summary = conversation.cut(turns, span, before)
        self.stored.save()
        await frontend.text(
            f"\n\n*The conversation no longer fits: of its first {span.steps} steps and "
            f"{span.turns} requests only the last lines are left, since there is no summary.*\n\n"
        )
        return 0

    async def _summary_by_model(self, span: Summary) -> tuple[Summary | None, int]:
        """A summary by the model, and the tokens that it took; None where it wrote none."""
        encoder, budget = self.model.encoder, self.model.budget_tokens
        tools = self._offered(budget, small=bool(self._small))
        fixed = self.model.extra_tokens + _tool_tokens(tools, encoder.text_count)
        sent, n_steps = self._sent

        def tokens_of(message: Message) -> int:
            return message_tokens(message, encoder.text_count)

        messages, lacking = conversation.prompt_of(sent, budget - fixed, tokens_of)
        if not messages:
            return None, 0
        limit = conversation.summary_tokens(budget)
        counted = fixed + sum(map(tokens_of, messages))
        try:
            answer = await self.model.answer(
                messages, tools, counted, _ignored, _ignored, limit=limit
            )
        except UnderkeelError:
            return None, 0
        tokens = max(answer.prompt_tokens - answer.cached_tokens, 0) + answer.generated_tokens
        text = plain(answer.text).strip()
        if not text or answer.problem:
            return None, tokens
        later = conversation.lines_of(self.stored.turns, n_steps - lacking, span.steps)
        text = clip(text, limit, encoder) + ("\n[cut off here]" if answer.truncated else "")
        return msgspec.structs.replace(span, text=f"{text}\n{later}".strip()), tokens

    def packed(self) -> tuple[Packed, list[dict[str, object]]]:
        """The conversation within the current budget, and the tools to offer.

        Raises:
            DoesNotFitError: the least of it is too much.
        """
        budget = self.model.budget_tokens
        encoder = self.model.encoder
        small = budget < SMALL_BUDGET
        if small is not self._small or budget < self._rules_for // 2:
            self._small, self._rules_for = small, budget
            self._system = instructions(self.workspace, encoder, budget, small=small)
        self.toolbox.reader = Reader(self.workspace, encoder, result_tokens(budget))
        tools = self._offered(budget, small=small)
        written = _tool_tokens(tools, encoder.text_count)
        turns: list[Turn] = self.stored.turns
        packed = pack(
            self._system,
            turns,
            self.stored.record.levels,
            budget,
            encoder.text_count,
            summary=self.stored.record.summary,
            extra_tokens=written + self.model.extra_tokens,
        )
        if packed.repacked:
            self.stored.record.levels = tuple(map(int, packed.levels))
            self.stored.save()
        return packed, tools

    def _offered(self, budget: int, *, small: bool) -> list[dict[str, object]]:
        """The tools to offer; those of MCP servers as far as they take an eighth of the budget."""
        tools, space = [], budget // 8
        for tool in offered(self.toolbox.known, small=small):
            if tool.name in self.toolbox.foreign:
                space -= self.model.encoder.text_count(str(tool.wire))
                if space < 0:
                    continue
            tools.append(tool.wire)
        return tools

    async def _call(self, call: ToolCall, frontend: Frontend) -> ToolResult | None:
        """The result of one call; None where the user stopped the turn instead."""
        planned: Planned | None = None
        try:
            planned = await self.toolbox.plan(call)
            await frontend.call_started(call, planned)
            if self._verdict(planned) is Verdict.ASK:
                approval = await frontend.approve(call, planned)
                if approval is Approval.CANCEL:
                    await frontend.call_ended(call, planned, Outcome("Stopped.", failed=True))
                    return None
                if approval is Approval.REJECT:
                    raise ToolError(_REFUSED)
                if approval is Approval.ALWAYS:
                    self._remember(planned)
            async with asyncio.timeout(_TOOL_LIMIT_S):
                outcome = await planned.run()
        except ToolError as error:
            if planned is None:
                await frontend.call_started(call, None)
            outcome = Outcome(str(error), line=f"{call.name} failed.", failed=True)
        except TimeoutError:
            outcome = Outcome("The tool took too long and was stopped.", failed=True)
        except OSError as error:
            outcome = Outcome(f"The tool failed ({error.strerror}).", failed=True)
        outcome = replace(
            outcome,
            text=plain(outcome.text),
            outline=plain(outcome.outline),
            line=plain(outcome.line),
        )
        await frontend.call_ended(call, planned, outcome)
        return outcome.result(call.id)

    def _verdict(self, planned: Planned) -> Verdict:
        return verdict(
            planned.access,
            self.mode,
            self.rules,
            names=[self.workspace.name(path) for path in planned.paths],
            command=planned.command,
            tool=planned.tool,
        )

    def _remember(self, planned: Planned) -> None:
        record = self.stored.record
        if planned.access is Access.COMMAND:
            made = Rules(record.commands, frozenset(record.exact)).with_command(planned.command)
            record.commands, record.exact = made.commands, tuple(sorted(made.exact))
        elif planned.access is Access.FOREIGN:
            record.tools = tuple(dict.fromkeys((*record.tools, planned.tool)))
        elif self.mode is Mode.ASK and planned.access is Access.EDIT:
            record.mode = Mode.EDIT.value
        self.stored.save()


def _tool_tokens(tools: Sequence[dict[str, object]], count: Callable[[str], int]) -> int:
    return sum(count(str(tool)) for tool in tools)


class _Said:
    """Passes on what a model says as it comes, without unsafe characters."""

    def __init__(self, show: Callable[[str], Awaitable[None]]) -> None:
        self._show = show
        self._characters = CharacterStream()

    async def feed(self, piece: str) -> None:
        if text := self._characters.feed(piece):
            await self._show(text)

    async def finish(self) -> None:
        if text := self._characters.finish():
            await self._show(text)


async def _ignored(_: str) -> None:
    """Takes the text of a summary: a message reports it to the user."""


def _added(done: Finished, answer: Answer) -> Finished:
    return replace(
        done,
        prompt_tokens=done.prompt_tokens + answer.prompt_tokens,
        cached_tokens=done.cached_tokens + answer.cached_tokens,
        generated_tokens=done.generated_tokens + answer.generated_tokens,
    )
