"""The model that is served, as the language server needs to know it: tokens, layout, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assistant.engine.types import Counting, ModelInfo
from assistant.errors import VocabularyError
from assistant.models import families, token_estimate
from assistant.models.token_estimate import EngineEncoded, Estimate
from assistant.wire import BudgetNow, PromptBody
from context import FimLayout, TokenCounter
from context.syntax.text import Encoder


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
        budget: the prompt tokens allowed, as last heard; None where the daemon does not say.
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
        """The same model in another shape."""
        return replace(self, info=info)

    def with_budget(self, budget: BudgetNow | None) -> Served:
        return replace(self, budget=budget) if budget is not None else self

    def with_explain_budget(self, budget: BudgetNow | None) -> Served:
        return replace(self, explain_budget=budget) if budget is not None else self

    def prompt_tokens(self, wanted: int, answer_tokens: int) -> int:
        """The most that a prompt may take now, if it would like to take `wanted`."""
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


def _fim(info: ModelInfo) -> Fim:
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
        parts=words.parts if isinstance(words, EngineEncoded) else None,
    )


def estimated_fim(family: str = "") -> Fim:
    """Where a model's tokens are not known: the family by name, and upper bounds as counts."""
    layout = families.layout_named(family)
    words = Estimate()
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
