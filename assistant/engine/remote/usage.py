"""What answers cost: the server's own figures where it tells them, our clock's where not."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from assistant.engine.remote.dialect import Piece
from assistant.engine.types import Delta, Done, EngineStats, GenerateRequest, StopReason, Timings

_WEIGHT = 0.2  # of the newest answer in the moving averages


class Answered:
    """One answer as it comes."""

    def __init__(
        self, request: GenerateRequest, clock: Callable[[], float], started_s: float
    ) -> None:
        self._request = request
        self._clock = clock
        self._started_s = started_s
        self._first_s = 0.0
        self._tokens = 0
        self._timings: Timings | None = None
        self._reason: StopReason | None = None
        self._stop_text = ""

    @property
    def complete(self) -> bool:
        """Whether reason and figures are there: nothing more is worth waiting for."""
        return self._reason is not None and self._timings is not None

    def take(self, piece: Piece) -> StopReason | None:
        """Note a piece; returns the reason if it tells one, or told one before."""
        if not self._first_s and (piece.text or piece.tokens):
            self._first_s = self._clock()
        self._tokens += len(piece.tokens) or bool(piece.text)
        self._timings = piece.timings or self._timings
        self._reason = piece.reason or self._reason
        self._stop_text = piece.stop_text or self._stop_text
        return self._reason

    def said(self, piece: Piece) -> Delta:
        return Delta(id=self._request.id, text=piece.text, tokens=piece.tokens)

    def done(self, reason: StopReason) -> Done:
        """Its end, with what it cost."""
        told, now = self._timings, self._clock()
        if told and not self._request.max_tokens:
            told = replace(told, generated_tokens=0, decode_ms=0.0)
        first = self._first_s or now
        timings = told or Timings(
            prompt_tokens=len(self._request.prompt),
            evaluated_tokens=len(self._request.prompt),
            generated_tokens=self._tokens,
        )
        if not timings.prefill_ms and not timings.decode_ms:
            timings = replace(
                timings,
                prefill_ms=(first - self._started_s) * 1000,
                decode_ms=(now - first) * 1000,
            )
        return Done(
            id=self._request.id,
            reason=reason,
            timings=timings,
            stop_text=self._stop_text if reason is StopReason.STOP_TEXT else "",
        )


class Tally:
    """Totals of all answers since the start."""

    def __init__(self) -> None:
        self._stats = EngineStats()

    def add(self, done: Done) -> None:
        old, new = self._stats, done.timings
        self._stats = replace(
            old,
            requests=old.requests + 1,
            cancelled=old.cancelled + (done.reason is StopReason.CANCELLED),
            evaluated_tokens=old.evaluated_tokens + new.evaluated_tokens,
            cached_tokens=old.cached_tokens + new.cached_tokens,
            generated_tokens=old.generated_tokens + new.generated_tokens,
            prefill_tokens_per_s=_average(
                old.prefill_tokens_per_s, new.evaluated_tokens, new.prefill_ms
            ),
            decode_tokens_per_s=_average(
                old.decode_tokens_per_s, new.generated_tokens, new.decode_ms
            ),
        )

    def stats(self) -> EngineStats:
        return self._stats


def _average(old: float, tokens: int, ms: float) -> float:
    if ms <= 0 or not tokens:
        return old
    new = 1000.0 * tokens / ms
    return new if not old else old + _WEIGHT * (new - old)
