"""The budgets of the moment, one for each way of using the context."""

from __future__ import annotations

from dataclasses import replace

from assistant.engine.types import EngineStats, Priority
from assistant.memory.budget import BudgetNow, BudgetState, Gauges, Memory, Policy, decide

_EXPLAIN_FLOOR_TOKENS = 512
"""Less than a function and the question about it is no use to anybody."""


class Budgets:
    """Remembers the budget policy's state from look to look.

    Ghost text and what is evaluated ahead for it share a small budget, so that answers are fast;
    explanations may use the context.
    """

    def __init__(self, completion_tokens: int, answer_tokens: int) -> None:
        """`completion_tokens`: what a completion's prompt may hold when nothing is scarce."""
        self._completion_tokens = completion_tokens
        self._answer_tokens = answer_tokens
        self._states = {priority: BudgetState() for priority in Priority}
        self._now: dict[Priority, BudgetNow] = {}
        self._last: tuple[int, Gauges, float] | None = None

    def follow(self, completion_tokens: int, answer_tokens: int) -> None:
        """Other settings hold from the next look on."""
        self._completion_tokens = completion_tokens
        self._answer_tokens = answer_tokens

    def look(
        self,
        n_ctx: int,
        stats: EngineStats | None,
        memories: tuple[Memory, ...],
        now_s: float,
        *,
        idle: bool = False,
        refused: bool = False,
        least_level: int = 0,
    ) -> None:
        """Decide again; `idle`: no request is in flight, whatever `stats` were counted; `refused`:
        an allocation was refused since the last look; `least_level`: no better one is required."""
        cells_free, cells_lent = _cells(n_ctx, stats)
        if idle:
            cells_free, cells_lent = cells_free + cells_lent, 0
        gauges = Gauges(
            cells_free=cells_free,
            cells_lent=cells_lent,
            memories=memories,
            engine_free_share=stats.free_share if stats else 1.0,
            refused=refused,
            least_level=least_level,
        )
        self._decide(n_ctx, gauges, now_s)
        self._last = (n_ctx, gauges, now_s)

    def returned(self) -> None:
        """No request is in flight: the cells they used are free at once, not at the next look."""
        if self._last is not None:
            n_ctx, gauges, now_s = self._last
            free = gauges.cells_free + gauges.cells_lent
            self._last = (n_ctx, replace(gauges, cells_free=free, cells_lent=0), now_s)
            self._decide(*self._last)

    def _decide(self, n_ctx: int, gauges: Gauges, now_s: float) -> None:
        for priority in Priority:
            policy = self._policy(priority, n_ctx)
            state, budget = decide(policy, self._states[priority], gauges, now_s)
            self._states[priority], self._now[priority] = state, budget

    def after(self, priority: Priority, cells: int) -> BudgetNow | None:
        """The budget once a request returns `cells`: its own are free when it ends (case S1)."""
        if self._last is None:
            return None
        n_ctx, gauges, now_s = self._last
        back = min(cells, gauges.cells_lent)
        gauges = replace(
            gauges, cells_free=gauges.cells_free + back, cells_lent=gauges.cells_lent - back
        )
        policy = self._policy(priority, n_ctx)
        return decide(policy, self._states[priority], gauges, now_s)[1]

    def of(self, priority: Priority) -> BudgetNow | None:
        """The budget of requests of that priority; None before the first look."""
        return self._now.get(priority)

    def _policy(self, priority: Priority, n_ctx: int) -> Policy:
        whole = max(n_ctx - self._answer_tokens, 1)
        if priority is Priority.EXPLAIN:
            floor = min(_EXPLAIN_FLOOR_TOKENS, whole)
            return Policy(full_tokens=whole, floor_tokens=floor, answer_tokens=self._answer_tokens)
        full = min(self._completion_tokens, whole)
        return Policy(full_tokens=full, answer_tokens=self._answer_tokens)


def _cells(n_ctx: int, stats: EngineStats | None) -> tuple[int, int]:
    """Cells that are empty or held by sequences that nobody uses now, and those in use."""
    if stats is None:
        return n_ctx, 0
    total = stats.cells_total or n_ctx
    lent = min(sum(slot.tokens for slot in stats.slots if slot.busy), total)
    return total - lent, lent
