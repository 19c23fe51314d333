"""Asks the served model for the next edit."""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assistant.errors import UnderkeelError

if TYPE_CHECKING:
    from assistant.settings import NextEditSettings
    from context.edits.model_edits import Answer, EditPrompt, Format
    from lsp.daemon.backend import Backend
    from lsp.daemon.model import Fim, Served

_log = logging.getLogger(__name__)

_LEAST_TOKENS = 256
_MOST_ANSWER_TOKENS = 1024
_LIMIT_MS = 20_000


@dataclass(frozen=True)
class EditModel:
    """A model that may be requested to edit now.

    Attributes:
        form: the prompt's format.
        budget_tokens: the longest prompt.
    """

    served: Served
    form: Format
    budget_tokens: int

    @property
    def fim(self) -> Fim:
        return self.served.fim


def edit_model(served: Served | None, settings: NextEditSettings) -> EditModel | None:
    """Whether the served model is to be asked, and how.

    None while no model is loaded (a next edit loads none), while memory is short, so that what is
    left is for typing, and for a model that the settings leave out.
    """
    if served is None or settings.model == "off":
        return None
    if served.budget is not None and served.budget.level:
        return None
    from context.edits import model_edits

    form = model_edits.format_for(served.info.name)
    if form is None and settings.model == "on":
        form = model_edits.formats()[model_edits.GENERIC]
    if form is None:
        return None
    budget_tokens = served.prompt_tokens(settings.context_tokens, _MOST_ANSWER_TOKENS)
    if budget_tokens < min(_LEAST_TOKENS, settings.context_tokens):
        return None
    return EditModel(served, form, budget_tokens)


async def answer(
    backend: Backend, how: EditModel, prompt: EditPrompt, document: str
) -> Answer | None:
    """The model's answer; None where it is cut or the request fails, which is logged only.

    Every other request goes first. Cancelling the call ends the generation.
    """
    from assistant.client import CompletionRequest
    from assistant.engine.types import Priority, StopReason
    from context.edits import model_edits

    fim = how.fim
    ids = prompt.ids(fim.start, fim.special, fim.counter.encode)
    most = min(model_edits.answer_tokens(prompt, fim.counter.count), _MOST_ANSWER_TOKENS)
    request = CompletionRequest(
        prompt=fim.body(ids),
        max_tokens=most,
        temperature=0.0,
        stop=prompt.stop,
        document=document,
        priority=Priority.BACKGROUND,
        time_limit_ms=_LIMIT_MS,
        budget_tokens=how.budget_tokens,
        prompt_model=how.served.info.name,
        n_probs=1,
        exact_drafts=False,
    )
    made = model_edits.Answer(prompt)
    try:
        async with aclosing(backend.complete(request)) as stream:
            async for chunk in stream:
                tokens = [
                    model_edits.AnswerToken(bytes(one.bytes), one.logprob)
                    for one in chunk.completion_probabilities
                ]
                if made.add(chunk.content, tokens):
                    return made
                if chunk.stop and chunk.stop_reason not in {StopReason.EOS, StopReason.STOP_TEXT}:
                    return None
    except UnderkeelError as error:
        _log.info("no next edit from the model, for an error of kind %s", error.code)
        return None
    return made
