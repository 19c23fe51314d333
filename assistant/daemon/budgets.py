"""The context budget: how many tokens a prompt may have now, and why; one for each way of using the
context. Pure.

The budget is one of a few steps, so that prompts keep their cut points and the cache its prefixes.
It falls at once and climbs one step at a time, each after the memory has been well for a while.

What decides the step is the scarcest of three:

- *memories* (each GPU, host memory): free bytes against the plan's margin, as a share of it. The
  margin is there for what the plan cannot see (pools that grow, other programs), so a margin that
  is being eaten is the sign to ask for less.
- *cells* of the KV cache: a prompt is never promised more than fits together with its answer,
  except for the floor: a prompt so short waits until requests that are being answered give their
  cells back, which serves a person better than a refusal.
- *the engine's own gauge*, for engines that know their cache better than we do.

    step                     full    3/4    1/2    1/4    floor
    falls below it at         75 %   50 %   30 %   15 %      of the margin free
    climbs back onto it at    85 %   60 %   40 %   25 %

The gap between falling and climbing is wider than the noise of what drivers report, so that noise
alone never makes the budget swing. `tests/benchmarks/budget_plot.py` draws a run of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from assistant.engine.types import EngineStats, Priority
from assistant.wire import BudgetNow

_EXPLAIN_FLOOR_TOKENS = 512
"""Less than a function and the question about it is no use to anybody."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the budget follows the headroom.

    Attributes:
        full_tokens: the prompt budget when nothing is scarce.
        floor_tokens: what a useful completion needs; only a cache too small for it goes below.
        answer_tokens: cells kept for the answer beside the prompt.
        steps: share of `full_tokens` at each level; the floor is one level more.
        enter: share of the margin that must be free for each level of `steps`, falling.
        gap: how much more than `enter` must be free to climb back onto a level.
        hold_s: how long it must be so, without a break, for each level climbed.
        engine_healthy_share: free share of the engine's own gauge that counts as a whole margin.
    """

    full_tokens: int
    floor_tokens: int = 128
    answer_tokens: int = 64
    steps: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    enter: tuple[float, ...] = (0.75, 0.5, 0.3, 0.15)
    gap: float = 0.1
    hold_s: float = 5.0
    engine_healthy_share: float = 0.2

    @property
    def floor_level(self) -> int:
        return len(self.steps)

    def tokens(self, level: int) -> int:
        """Tokens of a level: never more at a deeper one, never below the floor."""
        floor = min(self.floor_tokens, self.full_tokens)
        if level >= self.floor_level:
            return floor
        return max(floor, int(self.full_tokens * self.steps[level]))


@dataclass(frozen=True, slots=True)
class Memory:
    """A GPU or host memory: what is free, and what the plan wants to stay free."""

    name: str
    free_bytes: int
    margin_bytes: int

    @property
    def share(self) -> float:
        return self.free_bytes / self.margin_bytes if self.margin_bytes > 0 else float("inf")

    def in_words(self) -> str:
        free, margin = self.free_bytes >> 20, self.margin_bytes >> 20
        return f"{self.name} has {free} MiB free of a {margin} MiB margin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What is free at one moment.

    Attributes:
        cells_free: cells that are empty or held by sequences nobody is using.
        cells_lent: cells of requests that are being answered; they come back.
        engine_free_share: the engine's own gauge, 0 (full) to 1.
        refused: an allocation was refused since the last look.
        least_level: the best level that an operator allows.
    """

    cells_free: int
    cells_lent: int = 0
    memories: tuple[Memory, ...] = ()
    engine_free_share: float = 1.0
    refused: bool = False
    least_level: int = 0


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What is remembered from look to look: the level that memory allows, without the cells.

    `well_since_s` is when the next better level became affordable; None while it is not.
    """

    level: int = 0
    well_since_s: float | None = None


def decide(
    policy: Policy, state: BudgetState, gauges: Gauges, now_s: float
) -> tuple[BudgetState, BudgetNow]:
    """The budget of now. The caller keeps the state and gives it back at the next look."""
    share, why = _scarcest(policy, gauges)
    by_memory = max(_memory_level(policy, share), gauges.least_level)
    if by_memory >= state.level:
        new = BudgetState(level=by_memory)
    else:
        new = _climb(policy, state, share, now_s)
    # Cells come back whole when a request ends, so nothing is waited for there.
    cells_left = max(0, gauges.cells_free - policy.answer_tokens)
    by_cells = _cells_level(policy, cells_left)
    level = max(new.level, by_cells)
    once_returned = max(0, gauges.cells_free + gauges.cells_lent - policy.answer_tokens)
    floor = min(policy.tokens(policy.floor_level), once_returned)
    tokens = min(policy.tokens(level), max(cells_left, floor))
    if (by_cells and by_cells >= new.level) or tokens >= cells_left:
        why = f"the cache has {gauges.cells_free} free cells"
    elif by_memory < new.level:
        why = "memory has just come back"
    elif gauges.least_level == new.level and _memory_level(policy, share) < new.level:
        why = "an operator set it"
    scarce = level > 0 or tokens < policy.full_tokens
    return new, BudgetNow(tokens=tokens, level=level, reason=why if scarce else "")


def _scarcest(policy: Policy, gauges: Gauges) -> tuple[float, str]:
    """The smallest share of a margin, and what it is about."""
    engine = gauges.engine_free_share / policy.engine_healthy_share
    shares = [(engine, f"the engine's cache is {1 - gauges.engine_free_share:.0%} full")]
    shares += [(memory.share, memory.in_words()) for memory in gauges.memories]
    if gauges.refused:
        shares.append((0.0, "an allocation was refused"))
    return min(shares, key=lambda item: item[0])


def _memory_level(policy: Policy, share: float) -> int:
    return sum(1 for least in policy.enter if share < least)


def _cells_level(policy: Policy, cells_left: int) -> int:
    """The first level that fits; the floor's where none does."""
    fitting = (
        level for level in range(policy.floor_level + 1) if policy.tokens(level) <= cells_left
    )
    return next(fitting, policy.floor_level)


def _climb(policy: Policy, state: BudgetState, share: float, now_s: float) -> BudgetState:
    better = state.level - 1
    if share < policy.enter[better] + policy.gap:
        return BudgetState(level=state.level)
    since = now_s if state.well_since_s is None else state.well_since_s
    if now_s - since < policy.hold_s:
        return BudgetState(level=state.level, well_since_s=since)
    return BudgetState(level=better, well_since_s=now_s)


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
