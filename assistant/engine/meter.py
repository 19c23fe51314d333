"""What a runner has done since its load, in counts and rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from assistant.engine.job import Job
from assistant.engine.speculation import Pace
from assistant.engine.types import EngineStats, StopReason

_SMOOTHING = 0.3


class Meter:
    """Totals since the load, and moving averages of the speed.

    Attributes:
        totals: requests, cancelled, refused, and tokens evaluated (`ahead`: by warm-ups), cached,
            generated.
        prefill_rate, decode_rate: tokens a second; 0 before the first.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.prefill_rate = self.decode_rate = 0.0

    def batch(self, parts: Sequence[tuple[Job, int]], took_s: float, pace: Pace) -> None:
        """A batch has taken `took_s`: for each job in it so many tokens, drafts among them."""
        prompt = sum(count for job, count in parts if not job.generated)
        # What an interrupted job evaluates again is neither prompt nor answer.
        decoding = [(job, count) for job, count in parts if job.generated]
        again = any(count > 1 + len(job.draft.tokens) for job, count in decoding)
        self.totals["evaluated"] += prompt
        self.totals["ahead"] += sum(
            count for job, count in parts if not job.generated and not job.request.max_tokens
        )
        if again:
            return
        if prompt and not decoding:
            self.prefill_rate = _smooth(self.prefill_rate, prompt / took_s)
        elif decoding and not prompt:
            self.decode_rate = _smooth(self.decode_rate, len(decoding) / took_s)
            pace.took(sum(count for _, count in decoding), took_s)

    def stats(self) -> EngineStats:
        """The counters; what there is now is for others to tell."""
        return EngineStats(
            requests=self.totals["requests"],
            cancelled=self.totals["cancelled"],
            refused=self.totals["refused"],
            evaluated_tokens=self.totals["evaluated"],
            ahead_tokens=self.totals["ahead"],
            cached_tokens=self.totals["cached"],
            generated_tokens=self.totals["generated"],
            prefill_tokens_per_s=self.prefill_rate,
            decode_tokens_per_s=self.decode_rate,
        )

    def ended(self, job: Job, reason: StopReason) -> None:
        """A request has been answered."""
        self.totals["requests"] += 1
        self.totals["cached"] += job.cached
        self.totals["cancelled"] += reason is StopReason.CANCELLED


def _smooth(old: float, new: float) -> float:
    return new if not old else old + _SMOOTHING * (new - old)
