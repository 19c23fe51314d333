"""What a server's failure means, and when a server that fails is left alone. Pure.

The circuit breaker:

closed ── failures in a row ──> open ── its pause is over ──> half open
   ^                              ^                              │
   └────── the one try works ─────┼──────────────────────────────┤
                                  └── it fails: twice the pause ─┘
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

from assistant.errors import (
    ContextFullError,
    OverloadedError,
    RemoteError,
    RequestError,
    UnderkeelError,
)

_TOO_LONG = ("exceed_context_size", "maximum context length", "context_length_exceeded")
_KEY_ADVICE = "Check key_file or key_name under [remote]"


class UnreachableError(RemoteError):
    """The server could not be reached or broke off: another try may succeed.

    Not a kind of its own over the wire: there it is a `RemoteError`. `wait_s` is what the server
    asked to wait.
    """

    wait_s: float = 0.0


class MissingRouteError(RemoteError):
    """The server has no such route. Over the wire a `RemoteError`."""


class UnreadableError(RemoteError):
    """The server's answer is not what was expected. Over the wire a `RemoteError`."""


def failure_in_stream(error: object) -> UnderkeelError:
    """The error that a stream carries instead of a piece: an object of any server's, or a text."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    body = json.dumps({"error": error}).encode()  # there may be half a surrogate pair in it
    if any(mark.encode() in body for mark in _TOO_LONG):
        status = 400
    return refusal(status, body, "")


def refusal(
    status: int, body: bytes, server: str, headers: httpx.Headers | None = None
) -> UnderkeelError:
    """The error that a refusing answer stands for."""
    said = _message(body) or f"status {status}"
    if status in {400, 413, 422} and any(
        mark in said or mark.encode() in body for mark in _TOO_LONG
    ):
        return ContextFullError(
            f"the server refuses the prompt: {said}", subject=server, advice="Shorten the prompt"
        )
    if status in {401, 403}:
        return RemoteError(
            f"the server refuses the key: {said}", subject=server, advice=_KEY_ADVICE
        )
    if status in {404, 405, 501}:
        return MissingRouteError(
            f"the server does not know this: {said}",
            subject=server,
            advice="Check url, kind and model under [remote]",
        )
    if status == 429:
        return OverloadedError(f"the server is busy: {said}", subject=server, advice="Try again")
    if status >= 500:
        error = UnreachableError(
            f"the server fails: {said}", subject=server, advice="Its own log says why"
        )
        error.wait_s = _seconds(headers.get("Retry-After", "") if headers else "")
        return error
    if 300 <= status < 400:
        return RemoteError(
            f"the server points to another address ({status}), which is not followed",
            subject=server,
            advice="Write the address itself: url = ... under [remote]",
        )
    return RequestError(f"the server refuses the request: {said}", subject=server)


def _message(body: bytes) -> str:
    """What an error object says: llama-server's, OpenAI's, vLLM's and FastAPI's shapes."""
    try:
        read = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return " ".join(body[:200].decode("utf-8", "replace").split())
    found = read.get("error", read) if isinstance(read, dict) else read
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or found.get("error_message") or ""
    return str(found)[:300].encode("utf-8", "replace").decode()


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0


class Circuit(StrEnum):
    """Whether the server is asked."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is put up with.

    Attributes:
        failures: so many in a row open the circuit.
        first_pause_s, most_pause_s: it stays open so long; doubled each time a try fails.
    """

    failures: int = 3
    first_pause_s: float = 5.0
    most_pause_s: float = 120.0


@dataclass(slots=True)
class Breaker:
    """The state of one server's circuit. Times are of the caller's monotonic clock."""

    patience: Patience = field(default_factory=Patience)
    failures: int = 0
    pause_s: float = 0.0
    opened_at_s: float = 0.0
    trying: bool = False

    def state(self, now_s: float) -> Circuit:
        """Where it stands."""
        if not self.pause_s:
            return Circuit.CLOSED
        return Circuit.OPEN if self.wait_s(now_s) > 0 else Circuit.HALF_OPEN

    def wait_s(self, now_s: float) -> float:
        """How long until the next try is allowed; 0 where one is."""
        left_s = self.opened_at_s + self.pause_s - now_s
        return min(max(left_s, 0.0), self.pause_s)  # the sum may round up

    def begin(self, now_s: float) -> bool:
        """Whether the server may be asked now. Half open, only one try at a time may."""
        state = self.state(now_s)
        if state is Circuit.OPEN or (state is Circuit.HALF_OPEN and self.trying):
            return False
        self.trying = state is Circuit.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """The server has answered, whatever it said."""
        self.failures, self.pause_s, self.trying = 0, 0.0, False

    def failed(self, now_s: float) -> None:
        """The server could not be reached, broke off, or said that it cannot."""
        self.failures += 1
        self.trying = False
        if self.pause_s:
            if self.wait_s(now_s) <= 0:
                self._open(min(2 * self.pause_s, self.patience.most_pause_s), now_s)
        elif self.failures >= self.patience.failures:
            self._open(self.patience.first_pause_s, now_s)

    def given_up(self) -> None:
        """The caller left before the server answered: that says nothing about the server."""
        self.trying = False

    def _open(self, pause_s: float, now_s: float) -> None:
        self.pause_s, self.opened_at_s = pause_s, now_s


def retry_pause_s(attempt: int, asked_s: float, dice: float) -> float:
    """How long to wait before try `attempt` (1 is the first repetition).

    Args:
        asked_s: what the server asked for (Retry-After); 0 where it did not.
        dice: 0 to 1, so that many clients do not come back at once.
    """
    if asked_s > 0:
        return float(min(asked_s, 30.0))
    return float(min(0.1 * 2**attempt, 5.0)) * (0.5 + dice / 2)
