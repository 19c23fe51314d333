"""POST /infill: fill-in-the-middle prompts for clients that send text, not token ids.

The layout is the model family's own, as for the language server. Other files come first, the newest
last, as llama-server has them (tools/server/server-common.cpp, `format_prompt_infill`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assistant.daemon.http.request_schemas import ExtraBody, InfillBody
from assistant.engine.types import Counting, ModelInfo
from assistant.errors import RequestError
from assistant.models import families, vocabulary
from assistant.models.estimate import Estimate
from context import CursorKind, FimLayout, Part, Section, TokenCounter, window
from context.prompt.layout import assemble, repo_section_overhead
from context.syntax.tokens import Encoder


def infill_ids(
    body: InfillBody, model: ModelInfo, room_tokens: int
) -> tuple[list[int], tuple[int, ...], tuple[str, ...]]:
    """The prompt's token ids, the ids that end an answer, and what was left out of the prompt.

    Reads files: call it in a thread.

    Raises:
        RequestError: the model cannot fill in the middle.
        VocabularyError: its vocabulary cannot be read outside the engine.
    """
    words, layout = _counted(model)
    if layout is None or Part.PREFIX_TOKEN not in layout.tokens:
        raise RequestError(
            "this model cannot fill in the middle",
            subject=model.name,
            advice="Use /completion, or serve a model that can",
        )
    stop = tuple(words.special[text] for text in layout.stop if text in words.special)
    ids, cut = compose(body, layout, words, words.special, room_tokens)
    return ids, stop, cut


def _counted(model: ModelInfo) -> tuple[vocabulary.Vocabulary | Estimate, FimLayout | None]:
    if model.counting is Counting.ESTIMATE:
        return Estimate(), families.layout_named(model.family or model.name)
    words = vocabulary.load(model.vocabulary_path)
    layout = families.layout_named(model.family) if model.family else families.layout_for(words)
    return words, layout


def compose(
    body: InfillBody,
    layout: FimLayout,
    counter: TokenCounter,
    control: Mapping[str, int],
    room_tokens: int,
) -> tuple[list[int], tuple[str, ...]]:
    """The prompt's token ids, `room_tokens` at most, and what was left out.

    The current file is served first; other files get what it leaves.

    Raises:
        ValueError: `layout` names a control token that `control` lacks.
    """
    encoder = Encoder.of(counter)
    typed = encoder.text_ids(body.prompt)
    text = body.input_prefix + body.input_suffix
    cursor_byte = len(body.input_prefix.encode("utf-8", "surrogatepass"))
    own = window(text, cursor_byte, layout, encoder, control, room_tokens - len(typed), 0)
    others = _others(
        body.input_extra, layout, own.kind, encoder, room_tokens - len(own.ids) - len(typed)
    )
    _, ids = assemble([*others, *own.sections], layout, own.kind, control, encoder)
    left_out = len(body.input_extra) - len(others)
    files = (f"{left_out} of the files sent along",) if left_out else ()
    return [*ids, *typed], (*own.cut, *files)


def _others(
    extras: Sequence[ExtraBody],
    layout: FimLayout,
    kind: CursorKind,
    encoder: Encoder,
    room_tokens: int,
) -> list[Section]:
    """The chunks of other files that fit, newest chosen first, each whole or not at all."""
    each = repo_section_overhead(layout, kind)
    found: list[Section] = []
    for extra in reversed(extras):
        name = extra.filename or "file"
        text = f"{name}\n{extra.text.removesuffix(chr(10))}\n"
        tokens = encoder.text_count(text)
        if tokens + each > room_tokens:
            break
        room_tokens -= tokens + each
        found.append(Section(Part.REPO, text, tokens, "sent with the request", path=name))
    return found[::-1]
