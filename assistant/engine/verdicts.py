"""What may be asked of a runner, and what a batch that failed means for those in it. Pure."""

from __future__ import annotations

from assistant.engine.types import GenerateRequest, Priority
from assistant.errors import ContextFullError, EngineError, RefusedError, RequestError
from assistant.llama.context import Verdict


def check(request: GenerateRequest, *, n_vocab: int, room: int) -> None:
    """Whether a request can be answered at all, with `room` cells for its sequence.

    Raises:
        RequestError: it is malformed. ContextFullError: it can never fit.
    """
    if not request.prompt or not all(0 <= token < n_vocab for token in request.prompt):
        raise RequestError("the prompt is empty or holds unknown tokens", subject=request.id)
    if len(request.prompt) + request.max_tokens > room:
        raise ContextFullError(
            f"{len(request.prompt)} prompt tokens and {request.max_tokens} to generate"
            f" do not fit {room} cells",
            subject=request.id,
            advice="Shorten the prompt",
        )


def replaces(new: GenerateRequest, old: GenerateRequest) -> bool:
    """Whether a newer request for the same document makes an older one needless."""
    return (
        new.document == old.document != ""
        and new.priority is old.priority is not Priority.EXPLAIN
        and new.id != old.id
    )


def cause_of(verdict: Verdict) -> EngineError:
    """Why the requests of a batch fail, where nothing could be given up for them."""
    if verdict is Verdict.NO_CELLS:
        return ContextFullError("the KV cache is full", advice="Ask again with a shorter prompt")
    if verdict is Verdict.NO_MEMORY:
        return RefusedError("memory for the computation was refused", advice="Ask again")
    if verdict is Verdict.FAILED:
        return RefusedError("a device failed to compute", advice="Ask again")
    return EngineError(f"llama.cpp failed to evaluate ({verdict.name})", advice="Ask again")
