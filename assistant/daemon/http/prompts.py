"""From a request's text to the token ids of its prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from assistant.daemon.engine_supervisor import EngineSupervisor
from assistant.daemon.http import chat_template, tool_calls
from assistant.daemon.http.chat_template import Conversation, conversation
from assistant.daemon.http.request_schemas import (
    ChatBody,
    ExtraBody,
    InfillBody,
    TokenizeBody,
    ToolChoice,
    prompt_parts,
)
from assistant.daemon.http.tool_calls import Family, grammar
from assistant.daemon.http.tool_calls.parser import AnswerParser
from assistant.engine.types import Constraint, Counting, ModelInfo
from assistant.errors import ModelError, RequestError
from assistant.models import families, token_estimate, vocabulary
from assistant.models.token_estimate import EngineEncoded, Estimate
from assistant.wire import PromptBody
from context import CursorKind, FimLayout, Part, Section, TokenCounter, window
from context.prompt.window import assemble, repo_section_overhead
from context.syntax import text as token_counting


@dataclass(frozen=True)
class Encoded:
    """A prompt as the engine wants it, the token ids that end its answer, and what was left out.

    `turns`: the conversation, where the engine's server writes it itself; the ids only count it.
    `of_text`: it can be encoded for any model; who sends token ids meant one.
    `parser`: makes what separates the answer's parts; None where an answer is only text.
    `constraint`: what the answer has to match, besides what the request says itself.
    `visible_tokens`: control tokens that the parser has to see.
    `stop_texts`: texts that end the answer, besides those of the request.
    """

    ids: list[int]
    stop_tokens: tuple[int, ...] = ()
    cut: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    of_text: bool = True
    parser: Callable[[], AnswerParser] | None = None
    visible_tokens: tuple[int, ...] = ()
    constraint: Constraint | None = None
    stop_texts: tuple[str, ...] = ()


def encoded(prompt: PromptBody) -> Encoded | None:
    """A prompt of token ids, which are taken as they are; None where it holds text to encode."""
    ids: list[int] = []
    for part in prompt_parts(prompt):
        if isinstance(part, str):
            return None
        ids += part
    return Encoded(ids, of_text=False) if ids else None


class Encoder:
    """Encodes prompts for the model that `supervisor` serves."""

    def __init__(self, supervisor: EngineSupervisor) -> None:
        self._supervisor = supervisor
        self._visible: dict[tuple[str, str, float], tuple[int, ...]] = {}

    async def text(self, prompt: PromptBody, model: ModelInfo, *, plain: bool = False) -> Encoded:
        """As llama-server does: a text alone may hold control tokens and gets its BOS; texts among
        token ids are plain, and the ids are taken as they are. `plain`: a text alone is plain too.
        """
        parts = prompt_parts(prompt)
        alone = len(parts) == 1 and not plain
        ids = await self._ids(parts, special=alone)
        if alone and isinstance(parts[0], str):
            ids = _with_bos(ids, model)
        return Encoded(ids, of_text=all(isinstance(part, str) for part in parts))

    async def chat(self, body: ChatBody, model: ModelInfo) -> Encoded:
        """A conversation in the model's own template."""
        choice = body.may_call()
        if model.writes_chat and not model.chat_template:
            if choice.functions:
                raise RequestError(
                    "tools are not served: the remote server writes conversations itself",
                    subject=model.server,
                )
            turns = tuple((message.role, message.text()) for message in body.messages)
            text = "\n".join(text for _, text in turns)
            return Encoded(await self._supervisor.tokenise(text), turns=turns)
        template = _template(model, tools=bool(choice.functions))
        family = tool_calls.family_of(template)
        takes_tools = tool_calls.takes_tools(template)
        said = conversation(body, choice, family, takes_tools=takes_tools)
        bos = await self._supervisor.detokenise([model.bos]) if model.bos >= 0 else ""
        loop = asyncio.get_running_loop()
        render = partial(_render, template, said, model, bos)
        pieces = await loop.run_in_executor(chat_template.EXECUTOR, render)
        ids: list[int] = []
        for piece in pieces:
            ids += await self._supervisor.tokenise(piece, special=True)
        ids = _with_bos(ids, model)
        answer = family.answer(template, pieces[-1] if pieces else "")
        separate = answer.separate and body.reasoning_format != "none"
        tools = {one.name: one.parameters for one in choice.functions}
        if not tools and not separate and family.style != "harmony":
            return Encoded(ids)
        return Encoded(
            ids,
            parser=partial(
                AnswerParser, family, tools, reasoning=answer.reasoning, separate=separate
            ),
            visible_tokens=await self._tokens_of(family, model),
            constraint=_tool_constraint(family, choice, model, reasoning=answer.reasoning),
        )

    async def _tokens_of(self, family: Family, model: ModelInfo) -> tuple[int, ...]:
        """The control tokens of `model` that show how its answer is built."""
        # Another load may be of another file under the same path (case S9).
        key = (family.name, model.path or model.name, model.load_ms)
        if key not in self._visible:
            found = []
            for text in (*family.control, *family.reasoning):
                ids = await self._supervisor.tokenise(text, special=True)
                found += ids if len(ids) == 1 else []
            self._visible = {key: tuple(found)}
        return self._visible[key]

    async def infill(self, body: InfillBody, model: ModelInfo, room_tokens: int) -> Encoded:
        """A place in a file to fill, in the layout of the model's family, or as a marked hole."""
        made = await asyncio.to_thread(infill_prompt, body, model, room_tokens)
        ids = await self._ids(made.parts)
        return Encoded(ids, made.stop_tokens, made.cut, stop_texts=made.stop_texts)

    async def tokens(self, body: TokenizeBody, model: ModelInfo) -> list[int]:
        """POST /tokenize."""
        parts = prompt_parts(body.content) if body.content else []
        ids = await self._ids(parts, special=body.parse_special)
        return _with_bos(ids, model) if body.add_special else ids

    async def _ids(
        self, parts: Sequence[str | Sequence[int]], *, special: bool = False
    ) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids += (
                await self._supervisor.tokenise(part, special=special)
                if isinstance(part, str)
                else part
            )
        return ids


def _with_bos(ids: list[int], model: ModelInfo) -> list[int]:
    """A prompt that begins with the model's BOS, if it has one, once (case S21)."""
    needed = model.add_bos and model.bos >= 0 and ids[:1] != [model.bos]
    return [model.bos, *ids] if needed else ids


def _tool_constraint(
    family: Family, choice: ToolChoice, model: ModelInfo, *, reasoning: bool
) -> Constraint | None:
    """Keeps tool calls to their schemas, where the engine is on this machine.

    Raises:
        RequestError: a remote server answers, which cannot be kept to the choice.
    """
    if not choice.functions:
        return None
    if model.server:
        if choice.required:
            raise RequestError(
                "not supported by a remote server: a tool_choice that requires a call",
                subject=model.server,
                advice='Send "auto", or serve the model on this machine',
            )
        return None
    tools = {one.name: one.parameters for one in choice.functions}
    return grammar.of_tools(
        family, tools, required=choice.required, parallel=choice.parallel, reasoning=reasoning
    )


def _template(model: ModelInfo, *, tools: bool) -> str:
    """The model's template for a conversation, with tools or without.

    Raises:
        RequestError: it has one for conversations with tools only.
    """
    if tools and model.tool_template:
        return model.tool_template
    if model.tool_template and not model.chat_template:
        raise RequestError(
            "this model has a chat template for conversations with tools only",
            subject=model.name,
            advice="Send tools with the messages, or use /completion",
        )
    return model.chat_template


def _render(template: str, said: Conversation, model: ModelInfo, bos: str) -> list[str]:
    """Reads the vocabulary for its control tokens, if it is one that can be read here."""
    control: Collection[str] = ()
    special = dict(model.special_tokens)
    eos = special.pop("eos_token", "")
    if model.vocabulary_path:
        with suppress(ModelError):
            words = vocabulary.load(model.vocabulary_path)
            control = words.special
            eos = eos or (words.decode([words.eos]) if words.eos >= 0 else "")
    return chat_template.render(
        template,
        said.messages,
        tools=said.tools,
        control=control,
        bos=bos or special.pop("bos_token", ""),
        eos=eos,
        special=special,
        options=said.options,
    )


@dataclass(frozen=True)
class InfillPrompt:
    """The prompt for a place in a file.

    Attributes:
        parts: token ids, and texts where only the engine can encode them.
        stop_tokens, stop_texts: what ends an answer. cut: what was left out of the prompt.
    """

    parts: list[str | list[int]]
    stop_tokens: tuple[int, ...]
    cut: tuple[str, ...]
    stop_texts: tuple[str, ...] = ()


def infill_prompt(body: InfillBody, model: ModelInfo, room_tokens: int) -> InfillPrompt:
    """The layout is the model family's own; without one, the place is a marked hole in a request
    to write what is missing. Other files come first, the newest last, as llama-server has them
    (tools/server/server-common.cpp, `format_prompt_infill`).

    Reads files: call it in a thread.

    Raises:
        RequestError: the model cannot fill in the middle.
        VocabularyError: its file holds no vocabulary.
    """
    words, layout = _filling(model)
    if layout is None:
        raise RequestError(
            "this model cannot fill in the middle",
            subject=model.name,
            advice="Use /completion, or serve a model that can",
        )
    ids, cut = compose(body, layout, words, words.special, room_tokens)
    stop = [words.special[text] for text in layout.stop if text in words.special]
    parts: list[str | list[int]] = [ids]
    if isinstance(words, EngineEncoded):
        parts = [[one] if isinstance(one, int) else one for one in words.parts(ids)]
        stop = [one for one in words.parts(stop) if isinstance(one, int)]
    texts = () if layout.tokens else _hole_stops(layout, words.special, body.input_suffix)
    return InfillPrompt(parts, tuple(stop), cut, texts)


_LEAST_LINE_CHARS = 8


def _hole_stops(layout: FimLayout, special: Collection[str], suffix: str) -> tuple[str, ...]:
    """What ends an answer to a marked hole: the marks, and the line that follows the hole, where
    the model goes on with what it was shown."""
    marks = [text for text in layout.stop if text not in special]
    line = next((line for line in suffix.split("\n")[1:] if line.strip()), "")
    if len(line.strip()) >= _LEAST_LINE_CHARS:
        marks.append(f"\n{line}")
    return tuple(marks)


def can_fill(model: ModelInfo) -> bool:
    """Whether /infill works with it. Reads files: call it in a thread."""
    try:
        _, layout = _filling(model)
    except ModelError:
        return False
    return layout is not None


def _filling(
    model: ModelInfo,
) -> tuple[vocabulary.Vocabulary | Estimate, FimLayout | None]:
    """The vocabulary, and the layout with a suffix: None where none can be written."""
    words, layout = _counted(model)
    if layout is not None and Part.PREFIX_TOKEN not in {*layout.tokens, *layout.ids}:
        layout = (
            families.hole_layout(words)
            if isinstance(words, vocabulary.Vocabulary | EngineEncoded)
            else None
        )
    return words, layout


def _counted(model: ModelInfo) -> tuple[vocabulary.Vocabulary | Estimate, FimLayout | None]:
    if model.counting is Counting.ESTIMATE:
        return Estimate(), families.layout_named(model.family or model.name)
    words = token_estimate.load(model.vocabulary_path)
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
    encoder = token_counting.Encoder.of(counter)
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
    encoder: token_counting.Encoder,
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
