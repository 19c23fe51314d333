"""What the language server knows of the served model and of the daemon's state.

The model's tokens, layout and limits; and the state that the editor's status line shows (see
editors/PROTOCOL.md). The state is requested after each answer and at intervals while the user
works, never while the user is idle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from assistant.engine.types import Counting, ModelInfo
from assistant.errors import UnderkeelError, VocabularyError
from assistant.wire import BudgetNow, PromptBody, Status
from context import FimLayout, TokenCounter
from context.syntax.text import Encoder

_LEAST_S = 1.0
_EVERY_S = 5.0
_AWAKE_S = 600.0
"""After so long without a request nobody looks at the status line."""
_WRITE_LEAST_S = 0.5
_HOST = "CPU"


@dataclass(frozen=True)
class Fim:
    """How to write a fill-in-the-middle prompt as token ids.

    Attributes:
        counter: the model's own tokens; remembers what it has encoded.
        special: id of each special token's text.
        control: texts that must not show in an answer.
        start: ids that every prompt begins with (BOS, where the model wants one).
        parts: where `counter` only estimates what the engine will count, turns its ids into control
            tokens and texts.
    """

    layout: FimLayout
    counter: TokenCounter
    special: Mapping[str, int]
    control: tuple[str, ...] = ()
    start: tuple[int, ...] = ()
    parts: Callable[[Iterable[int]], list[int | str]] | None = None

    def body(self, ids: Sequence[int]) -> PromptBody:
        """A prompt as it is sent: its ids, or texts that the engine encodes."""
        if self.parts is None:
            return tuple(ids)
        return (*ids[: len(self.start)], *self.parts(ids[len(self.start) :]))


@dataclass(frozen=True)
class Served:
    """What the daemon serves.

    Attributes:
        fim: how to write prompts for it.
        budget: the prompt tokens allowed, as reported last; None if the daemon reports none.
        explain_budget: the same for explanations and edits.
    """

    info: ModelInfo
    fim: Fim
    budget: BudgetNow | None = None
    explain_budget: BudgetNow | None = None

    @classmethod
    def of(
        cls, info: ModelInfo, budget: BudgetNow | None, explain_budget: BudgetNow | None = None
    ) -> Served:
        """Read the vocabulary of the model's file; takes a second or so the first time.

        Where there is none, as for a server that only takes texts, tokens are estimated; also where
        only the engine can encode texts.

        Raises:
            VocabularyError: the model's file holds no vocabulary, or it completes no text.
        """
        return cls(info=info, fim=_fim(info), budget=budget, explain_budget=explain_budget)

    def with_info(self, info: ModelInfo) -> Served:
        """The same model with another context."""
        return replace(self, info=info)

    def with_budget(self, budget: BudgetNow | None) -> Served:
        return replace(self, budget=budget) if budget is not None else self

    def with_explain_budget(self, budget: BudgetNow | None) -> Served:
        return replace(self, explain_budget=budget) if budget is not None else self

    def prompt_tokens(self, wanted: int, answer_tokens: int) -> int:
        """The most tokens that a prompt may have now, of the `wanted` ones."""
        return self._within(self.budget, wanted, answer_tokens)

    def explain_tokens(self, wanted: int, answer_tokens: int) -> int:
        """The same for the messages of an explanation or an edit."""
        return self._within(self.explain_budget, wanted, answer_tokens)

    def _within(self, budget: BudgetNow | None, wanted: int, answer_tokens: int) -> int:
        limits = [wanted]
        if self.info.n_ctx:
            limits.append(self.info.n_ctx - answer_tokens)
        if budget is not None:
            limits.append(budget.tokens)
        return max(min(limits), 0)


# Tokenisers are imported with the first vocabulary: the answer to `initialize` waits for none.


def _fim(info: ModelInfo) -> Fim:
    from assistant.models import families, token_estimate

    if info.counting is Counting.ESTIMATE:
        return estimated_fim(info.family or info.name)
    if not info.vocabulary_path:
        raise _unusable(info, "it says no file whose vocabulary could be read")
    words = token_estimate.load(Path(info.vocabulary_path))
    layout = families.layout_named(info.family) if info.family else families.layout_for(words)
    if layout is None or not words.special.keys() >= set(layout.tokens.values()):
        raise _unusable(info, "it does not complete text")
    return Fim(
        layout=layout,
        counter=Encoder(words),
        special=words.special,
        control=tuple(words.control),
        start=(words.bos,) if words.add_bos and words.bos >= 0 else (),
        parts=words.parts if isinstance(words, token_estimate.EngineEncoded) else None,
    )


def estimated_fim(family: str = "") -> Fim:
    """Where a model's tokens are not known: the family by name, and upper bounds as counts."""
    from assistant.models import families, token_estimate

    layout = families.layout_named(family)
    words = token_estimate.Estimate()
    return Fim(
        layout=layout,
        counter=Encoder(words),
        special=words.special,
        control=tuple(words.special),
    )


def _unusable(info: ModelInfo, why: str) -> VocabularyError:
    return VocabularyError(
        f"the model cannot be used for ghost text: {why}",
        subject=info.name,
        advice="Serve another one: underkeel models",
    )


def facts_of(status: Status) -> dict[str, Any]:
    """The fields of the protocol's `Status` (editors/PROTOCOL.md); None removes one."""
    gpus = [device for device in status.devices if device.name != _HOST]
    stats, rung = status.stats, status.rung
    free = sum(0 if gpu.lost else gpu.free_bytes for gpu in gpus)
    seen = stats.cached_tokens + stats.evaluated_tokens if stats else 0
    return {
        "model": status.model.name if status.model else None,
        "budget": told(status.budget),
        "vram": {"usedBytes": sum(gpu.total_bytes for gpu in gpus) - free, "freeBytes": free}
        if gpus
        else None,
        "kv": {"usedTokens": stats.cells_used, "totalTokens": stats.cells_total} if stats else None,
        "tokensPerSecond": round(stats.decode_tokens_per_s, 1) or None if stats else None,
        "cacheHits": round(stats.cached_tokens / seen, 3) if stats and seen else None,
        "ladder": {"rung": rung.name, "gaveUp": rung.says, "reason": rung.reason}
        if rung and rung.index
        else None,
        "message": _in_words(status),
    }


def told(budget: BudgetNow | None) -> dict[str, Any] | None:
    """A budget as the protocol has it."""
    if budget is None:
        return None
    return {"tokens": budget.tokens, "level": budget.level, "reason": budget.reason}


def _in_words(status: Status) -> str:
    """Why the service is less than it could be; empty where it is not.

    Of the rung of shorter prompts the budget says it all.
    """
    said = []
    rung = status.rung
    if rung is not None and rung.index and rung.says and rung.name != "trim":
        why = f" ({rung.reason})" if rung.reason else ""
        said.append(f"without {rung.says}{why}")
    if status.budget is not None and status.budget.level:
        said.append(f"prompts of {status.budget.tokens} tokens: {status.budget.reason}")
    return "; ".join(said)


class Health:
    """Requests the status at intervals while the user works, and passes it on."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Status]],
        tell: Callable[[Status], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._tell = tell
        self._clock = clock
        self._worked_s = clock()
        self._poke = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def worked(self) -> None:
        """A request started or ended: the status is of interest now."""
        self._worked_s = self._clock()
        self._poke.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while self._clock() - self._worked_s < _AWAKE_S:
            self._poke.clear()
            try:
                self._tell(await self._ask())
            except UnderkeelError:
                return  # the next answer starts it again
            await asyncio.sleep(_LEAST_S)
            try:
                await asyncio.wait_for(self._poke.wait(), _EVERY_S - _LEAST_S)
            except TimeoutError:
                continue


class State(StrEnum):
    """The state of the assistant, in the protocol's words."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    ERROR = "error"
    OFF = "off"


class StatusLine:
    """Sends the state when it has changed, and at most twice a second."""

    def __init__(
        self, send: Callable[[Mapping[str, Any]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._clock = clock
        self._now: dict[str, Any] = {"state": State.STARTING.value, "message": ""}
        self._sent: dict[str, Any] = {}
        self._sent_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def now(self) -> Mapping[str, Any]:
        """The state as the protocol's `Status`."""
        return self._now

    def switch(self, *, on: bool) -> None:
        """Completion was switched on or off."""
        off = self._now["state"] == State.OFF
        if off == on:
            self.set(State.STARTING if on else State.OFF)

    def set(self, state: State, message: str = "", **fields: Any) -> None:
        """Change the state. Fields that are not named stay; None removes one."""
        changed = {**self._now, "progress": None, **fields}
        changed |= {"state": state.value, "message": message}
        self._now = {name: value for name, value in changed.items() if value is not None}
        if self._timer is None:
            wait_s = max(self._sent_at + _WRITE_LEAST_S - self._clock(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._now != self._sent:
            self._sent = dict(self._now)
            self._sent_at = self._clock()
            self._send(self._sent)
