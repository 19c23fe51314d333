"""Renders a conversation with the model's own chat template.

The template comes out of a GGUF, so it is foreign code: it runs in jinja2's sandbox. What people
and files say is guarded: a control token written in a message stays text, and cannot end the turn
or speak in another's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from assistant.errors import RequestError
from assistant.wire import ChatMessage

_LONGEST_TEMPLATE_CHARS = 256 * 1024
_LARGEST_PRODUCT = 1 << 20
# Splits a control token in two; what stands on either side is encoded by itself. Of Unicode's
# noncharacters, which no text to be interchanged holds (The Unicode Standard, section 23.7).
_SEAM = "\ufdd0"
# Where the vocabulary is not known: the brackets that model families write control tokens in.
_LIKELY_CONTROL = re.compile(r"<[|/]?[^<>\s]{1,40}[|]?>|\[/?[A-Z_]{3,40}\]")


def render(
    template: str,
    messages: Sequence[ChatMessage],
    *,
    control: Collection[str] = (),
    bos: str = "",
    eos: str = "",
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """The prompt in pieces, to be encoded one by one and joined.

    Where the assistant has the last word, its turn is left open, so that the answer goes on with it
    (as llama-server does).

    Args:
        control: texts of the model's control tokens; a guess is made where it is empty.
        options: more variables for the template, e.g. `enable_thinking`.

    Raises:
        RequestError: there is no template, it fails, or it refuses the conversation.
    """
    if not template:
        raise RequestError(
            "this model has no chat template",
            advice="Use /completion, or serve an instruction-tuned model",
        )
    guarded = [
        {"role": message.role, "content": _guard(message.content, control)} for message in messages
    ]
    begun = guarded.pop()["content"] if messages[-1].role == "assistant" else ""
    variables = dict(options or {}) | {
        "messages": guarded,
        "add_generation_prompt": True,
        "bos_token": bos,
        "eos_token": eos,
    }
    try:
        text = _compile(template).render(variables)
    except _RefusedError as error:
        raise RequestError(f"the chat template refuses the conversation: {error}") from error
    except _FAILURES as error:
        raise RequestError(
            f"the chat template fails ({type(error).__name__}: {error})",
            advice="Use /completion with this model",
        ) from error
    return [piece for piece in (text + begun).split(_SEAM) if piece]


class _RefusedError(Exception):
    """Raised by a template through `raise_exception`."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, which bounds `range` but not what `*` and `**` make of small numbers."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        sizes = [len(side) if hasattr(side, "__len__") else side for side in (left, right)]
        if operator == "**" or any(not isinstance(size, int | float) for size in sizes):
            raise SecurityError(f"{operator} is not for templates")
        if abs(sizes[0] * sizes[1]) > _LARGEST_PRODUCT:
            raise SecurityError("a product is too large")
        return super().call_binop(context, operator, left, right)


_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


def _guard(text: str, control: Collection[str]) -> str:
    """`text` with a seam inside each control token that is written in it."""
    text = text.replace(_SEAM, "\ufffd")
    pattern = _pattern(frozenset(control)) if control else _LIKELY_CONTROL
    return pattern.sub(lambda match: match[0][:1] + _SEAM + match[0][1:], text)


@lru_cache(maxsize=4)
def _pattern(control: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, control), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


@lru_cache(maxsize=4)
def _compile(template: str) -> jinja2.Template:
    if len(template) > _LONGEST_TEMPLATE_CHARS:
        raise RequestError(f"the chat template has {len(template)} characters, far too many")
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).astimezone().strftime(form)
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None) -> str:
    # jinja2's own escapes HTML, which a model would read as it stands.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message)
