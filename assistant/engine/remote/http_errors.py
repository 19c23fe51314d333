"""What an answer that is none stands for, whichever server gave it. Pure."""

from __future__ import annotations

import httpx
import msgspec

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
            f"the server wants another key: {said}", subject=server, advice=_KEY_ADVICE
        )
    if status == 404:
        return RemoteError(
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
        read = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return " ".join(body[:200].decode("utf-8", "replace").split())
    found = read.get("error", read) if isinstance(read, dict) else read
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or ""
    return str(found)[:300]


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0
