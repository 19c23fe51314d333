"""What is served, in the words of the engine's contract."""

from __future__ import annotations

from assistant.engine.types import ModelInfo
from assistant.llama.context import Context
from assistant.llama.model import Model


def described(
    model: Model, context: Context, path: str, *, partial: bool, load_ms: float
) -> ModelInfo:
    """A loaded model with its context.

    Args:
        partial: sequences may be cut anywhere.
    """
    facts = model.facts
    return ModelInfo(
        name=facts.name,
        path=path,
        architecture=facts.architecture,
        n_vocab=facts.n_vocab,
        n_ctx=context.n_cells,
        n_ctx_train=facts.n_ctx_train,
        n_params=facts.n_params,
        size_bytes=facts.size_bytes,
        n_seq_max=context.n_sequences,
        add_bos=facts.add_bos,
        bos=facts.bos,
        chat_template=facts.chat_template,
        reuse="partial" if partial else "append",
        load_ms=load_ms,
        memory=context.memory,
    )
