"""The ladder: the planned ways to give memory back, what each frees and costs. Pure.

Every rung is a whole shape of the service, made from the plan before it is needed, so that its
bytes are known. Each gives up what the ones above it gave up, and more. One goes down to the first
rung that suffices, never by way of others, and up again as far as the memory that is free then
allows, once the editor is idle.

The KV cache is allocated whole when a context is made, so the first two rungs free cells, not
bytes. Cells run short, or the budget falls while a margin is still half there: then shorter prompts
suffice (`trim`), and where not even those leave idle sequences their cells, doing without these
(`drop`). Both are taken at once, cost no pause, and end as soon as the need has ended; nothing is
recreated. Where a device's bytes run short they are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from assistant.llama import LoadSpec

TRIM = "trim"
"""The rung of shorter prompts: the budget is below its full step."""

DROP = "drop"
"""The rung where idle sequences are forgotten, the oldest first, as others need their cells."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One shape of the service.

    Attributes:
        name: stable, for settings and statistics.
        gives_up: what this shape lacks that the rung above has, for a person.
        spec: how it is loaded; None where nothing is.
        holds: bytes that this shape takes of each device.
        keeps: bytes of each device that the worker still has after it came from a rung that used
            the device: the driver's context, until the process ends.
        pause_s: how long going here from the rung above is expected to take.
        reload: whether the weights are read again, not only the context recreated.
    """

    name: str
    gives_up: str
    spec: LoadSpec | None
    holds: Mapping[str, int]
    pause_s: float = 0.0
    reload: bool = False
    keeps: Mapping[str, int] = field(default_factory=dict)

    def bytes_on(self, device: str) -> int:
        """What the worker has of a device here, after a rung that used it."""
        return self.holds.get(device, 0) + self.keeps.get(device, 0)


@dataclass(frozen=True, slots=True)
class Rules:
    """When to move.

    Attributes:
        act_share: go down where less than this share of a margin is free.
        climb_share: after going up at least this share must be free; the distance between the two
            is what keeps noise from moving anything.
        idle_s: the editor must be quiet for so long before going up.
        hold_s: ... and the last move so long ago; doubled for each fall soon after a climb.
        refused_s: what was refused is not tried again for so long; doubled each time.
        forbidden: names of rungs that are never used.
        pinned: the name of the only rung to use; empty for none.
    """

    act_share: float = 0.5
    climb_share: float = 0.9
    idle_s: float = 10.0
    hold_s: float = 30.0
    refused_s: float = 60.0
    most_hold_s: float = 600.0
    forbidden: frozenset[str] = frozenset()
    pinned: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the moves are decided on.

    Attributes:
        free_bytes, margin_bytes: by device.
        level: of the budget, 0 for the full one; `level_reason` says why it is not.
        dropped_s: since an idle sequence had last to be forgotten because the KV cache is full.
        idle_s: since the last request.
    """

    free_bytes: Mapping[str, int]
    margin_bytes: Mapping[str, int]
    level: int = 0
    level_reason: str = ""
    dropped_s: float = float("inf")
    idle_s: float = 0.0

    def share(self, device: str, extra: int = 0) -> float:
        margin = self.margin_bytes.get(device, 0)
        left = self.free_bytes.get(device, 0) + extra
        return left / margin if margin > 0 else (float("inf") if left >= 0 else -1.0)


@dataclass(frozen=True, slots=True)
class LadderPosition:
    """The rung in use, and what is remembered of the moves.

    `hold_s` is how long to wait before the next climb; it grows with falls after climbs. What is
    above `ceiling` was refused, whatever drivers reported as free: it is not tried again for
    `ceiling_s`, until `ceiling_until_s`, unless there is more on a device than `had_bytes` of then,
    ours included.
    """

    rung: int = 0
    since_s: float = float("-inf")
    climbed: bool = False
    hold_s: float = 0.0
    ceiling: int = 0
    ceiling_until_s: float = float("-inf")
    ceiling_s: float = 0.0
    had_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """Go to `rung`, because of `reason` (for a person). `costless`: nothing is recreated."""

    rung: int
    reason: str
    costless: bool = False


def choose(
    ladder: Sequence[Rung],
    position: LadderPosition,
    situation: Situation,
    now_s: float,
    rules: Rules = Rules(),
) -> Move | None:
    """The next move; None to stay."""
    allowed = tuple(i for i, rung in enumerate(ladder) if _allowed(rung, rules))
    if not allowed:
        return None
    if rules.pinned or position.rung not in allowed:
        target = min(allowed, key=lambda i: (abs(i - position.rung), -i))
        same = ladder[target].spec == ladder[position.rung].spec
        params = Move(target, "an operator set it", costless=same)
        return None if target == position.rung else params
    view = _View(ladder, position, situation, allowed, rules)
    if short := [name for name in view.held if situation.share(name) < rules.act_share]:
        return _down(view, short)
    if ladder[position.rung].spec == ladder[0].spec:
        return _by_cells(view)
    return _up(view, now_s)


def moved(
    position: LadderPosition, move: Move, now_s: float, rules: Rules = Rules()
) -> LadderPosition:
    """The position after a move. A move that costs nothing keeps what is remembered."""
    if move.costless:
        return replace(position, rung=move.rung)
    down = move.rung > position.rung
    hold = position.hold_s or rules.hold_s
    if down and position.climbed:
        hold = min(hold * 2, rules.most_hold_s)
    elif not down and move.rung == 0 and now_s - position.since_s > rules.most_hold_s:
        hold = rules.hold_s
    return replace(position, rung=move.rung, since_s=now_s, climbed=not down, hold_s=hold)


def fallen(
    position: LadderPosition,
    rung: int,
    had_bytes: Mapping[str, int],
    now_s: float,
    rules: Rules = Rules(),
) -> LadderPosition:
    """The position on `rung` after a refusal or a death.

    Args:
        had_bytes: by device, what was free or ours when it happened.
    """
    hold = position.hold_s or rules.hold_s
    lately = now_s - position.ceiling_until_s < rules.most_hold_s
    ceiling_s = min(2 * position.ceiling_s, rules.most_hold_s) if lately else rules.refused_s
    return LadderPosition(
        rung=rung,
        since_s=now_s,
        hold_s=min(hold * 2, rules.most_hold_s) if position.climbed else hold,
        ceiling=rung,
        ceiling_until_s=now_s + ceiling_s,
        ceiling_s=ceiling_s,
        had_bytes=dict(had_bytes),
    )


def first_fit(
    ladder: Sequence[Rung],
    free_bytes: Mapping[str, int],
    margin_bytes: Mapping[str, int],
    rules: Rules = Rules(),
) -> int:
    """The highest rung to load where nothing is loaded now; the last that serves if none fits.

    Args:
        free_bytes: what is free of each device, with nothing of ours on it.
    """
    serving = [i for i, rung in enumerate(ladder) if rung.spec is not None]
    allowed = [i for i in serving if _allowed(ladder[i], rules)] or serving
    for wanted in (rules.climb_share, rules.act_share, 0.0):
        for index in allowed:
            holds = ladder[index].holds
            if all(
                free_bytes.get(name, 0) - held >= wanted * margin_bytes.get(name, 0)
                for name, held in holds.items()
                if held
            ):
                return index
    return allowed[-1] if allowed else 0


def safer(ladder: Sequence[Rung], rung: int, rules: Rules = Rules()) -> int | None:
    """The next rung down that loads something else, as after a death; None where there is none."""
    for index in range(rung + 1, len(ladder)):
        spec = ladder[index].spec
        if spec is not None and spec != ladder[rung].spec and _allowed(ladder[index], rules):
            return index
    return None


def _allowed(rung: Rung, rules: Rules) -> bool:
    return rung.name not in rules.forbidden and rules.pinned in {"", rung.name}


@dataclass(frozen=True, slots=True)
class _View:
    """All that a move is decided on."""

    ladder: Sequence[Rung]
    position: LadderPosition
    situation: Situation
    allowed: tuple[int, ...]
    rules: Rules

    @property
    def devices(self) -> list[str]:
        return sorted({device for rung in self.ladder for device in rung.holds})

    @property
    def held(self) -> list[str]:
        """The devices that hold something now: what others lack is no concern of ours."""
        here = self.ladder[self.position.rung].holds
        return [name for name in self.devices if here.get(name, 0)]

    def gain(self, there: int, device: str) -> int:
        """Bytes that come free on a device by going to a rung; negative if more is taken."""
        here, target = self.ladder[self.position.rung], self.ladder[there]
        held, keeps = here.holds.get(device, 0), target.keeps.get(device, 0)
        # Only a context that exists is kept, and a worker that started here may have none.
        kept = max(min(keeps, here.bytes_on(device)) - here.keeps.get(device, 0), 0)
        return held - target.holds.get(device, 0) - kept

    def share_after(self, there: int, device: str) -> float:
        return self.situation.share(device, self.gain(there, device))


def _down(view: _View, short: Sequence[str]) -> Move | None:
    """The first rung below that leaves what a climb would want; else the first that ends the need;
    else the one that relieves most. Nothing is unloaded where another rung ends the need.
    """
    rules, situation = view.rules, view.situation
    worst = min(short, key=situation.share)
    reason = f"{worst} has {max(situation.free_bytes.get(worst, 0), 0) >> 20} MiB free"
    below = [index for index in view.allowed if index > view.position.rung]
    serving = [index for index in below if view.ladder[index].spec is not None]
    for wanted in (rules.climb_share, rules.act_share):
        goals = {name: wanted if name in short else rules.act_share for name in view.held}
        for index in serving:
            if all(view.share_after(index, name) >= goal for name, goal in goals.items()):
                return Move(index, reason)
    relieving = [index for index in below if view.gain(index, worst) > 0]
    if not relieving:
        return None
    scarcest = {i: min(view.share_after(i, name) for name in view.devices) for i in relieving}
    return Move(max(relieving, key=scarcest.__getitem__), reason)


def _has_more(view: _View) -> bool:
    """Whether a device has so much more than when a shape was refused that it is worth a try."""
    here = view.ladder[view.position.rung].holds
    return any(
        view.situation.free_bytes.get(name, 0) + here.get(name, 0)
        > had + view.situation.margin_bytes.get(name, 0)
        for name, had in view.position.had_bytes.items()
    )


def _by_cells(view: _View) -> Move | None:
    """Among the rungs that hold what the plan holds: what the budget and the cells ask for now."""
    situation, rules = view.situation, view.rules
    wanted, reason = "", "prompts may be as long as ever, and no cells are wanted"
    if situation.level:
        wanted, reason = TRIM, situation.level_reason
    if situation.dropped_s < rules.hold_s:
        wanted, reason = DROP, "idle sequences were forgotten, since their cells were wanted"
    top = view.ladder[0].spec
    costless = [i for i in view.allowed if view.ladder[i].spec == top]
    named = (i for i, rung in enumerate(view.ladder) if rung.name == wanted)
    most = next(named, 0)
    target = max((i for i in costless if i <= most), default=costless[0])
    return None if target == view.position.rung else Move(target, reason, costless=True)


def _up(view: _View, now_s: float) -> Move | None:
    """As far up as fits, once the editor is idle; at once where nothing is loaded at all."""
    rules, position = view.rules, view.position
    hold_s = position.hold_s or rules.hold_s
    serving = view.ladder[position.rung].spec is not None
    if (serving or hold_s > rules.hold_s) and now_s - position.since_s < hold_s:
        return None
    if serving and view.situation.idle_s < rules.idle_s:
        return None
    above = position.ceiling if now_s < position.ceiling_until_s and not _has_more(view) else 0
    for index in (i for i in view.allowed if above <= i < position.rung):
        shares = [view.share_after(index, name) for name in view.devices]
        if min(shares, default=1.0) >= rules.climb_share:
            return Move(index, "the memory has come back")
    return None
