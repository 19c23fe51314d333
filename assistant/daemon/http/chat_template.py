"""Renders a conversation, messages and tools as plain data, with the model's own chat template.

The data is as in Hugging Face's `apply_chat_template` (transformers): the arguments of a call are
an object, tools are OpenAI's. For a template without tools they are described in the system
message, and calls and results are written as text.

The template is part of a GGUF, so it is foreign code: it runs in jinja2's sandbox, in a child
process with limits (`template_child`). The messages are guarded: a control token written in one
remains text, and cannot end the turn or speak for another role.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from assistant.daemon.http.request_schemas import (
    ChatBody,
    FunctionBody,
    MessageBody,
    ToolCallBody,
    ToolChoice,
)
from assistant.daemon.http.tool_calls import Family
from assistant.errors import RequestError

EXECUTOR = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chat-template")
"""Runs `render`: a slow template delays other conversations, never probes or planning."""

_LONGEST_TEMPLATE_CHARS = 256 * 1024
# Of a rendering. The interpreter alone maps about 100 MB.
_MOST_BYTES = 512 << 20
_CPU_S = 2
_WALL_S = 10.0
# What a template may write besides the conversation itself, and how often it may repeat that.
_MOST_EXTRA_CHARS = 1 << 20
_MOST_REPEATS = 4
# Splits a control token in two; both sides are encoded separately. One of Unicode's
# noncharacters, which no interchanged text contains (The Unicode Standard, section 23.7).
_SEAM = "\ufdd0"
# Where the vocabulary is unknown: the brackets that model families write control tokens in.
_LIKELY_CONTROL = re.compile(r"<[|/]?[^<>\s]{1,40}[|]?>|\[/?[A-Z_]{3,40}\]")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    control: Collection[str] = (),
    bos: str = "",
    eos: str = "",
    special: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """The prompt in pieces, to be encoded one by one and joined. Blocks: call it in `EXECUTOR`.

    If the last message is the assistant's, its turn is left open, so that the answer continues it
    (as llama-server does).

    Args:
        messages: with `role` and `content`, and whatever else the template may read.
        tools: OpenAI's tool objects, for a template that writes them.
        control: texts of the model's control tokens; likely ones are guessed where it is empty.
        special: texts of other special tokens by the names that templates use ("pad_token").
        options: more variables for the template, e.g. `enable_thinking`.

    Raises:
        RequestError: there is no template, it fails, exceeds a limit, or refuses the conversation.
    """
    if not template:
        raise RequestError(
            "this model has no chat template",
            advice="Use /completion, or serve an instruction-tuned model",
        )
    if len(template) > _LONGEST_TEMPLATE_CHARS:
        raise RequestError(f"the chat template has {len(template)} characters, far too many")
    guarded = [_guarded(message, control) for message in messages]
    last = messages[-1]
    continued = last["role"] == "assistant" and not last.get("tool_calls")
    opening = guarded.pop()["content"] or "" if continued else ""
    # As transformers' `apply_chat_template` passes them: a template may test for None.
    variables: dict[str, Any] = {"documents": None, **(special or {})}
    variables |= dict(options or {}) | {
        "messages": guarded,
        "tools": _guarded(tools, control) if tools else None,
        "add_generation_prompt": True,
        "bos_token": bos,
        "eos_token": eos,
    }
    text = _CHILD.render(template, variables)
    return [piece for piece in (text + opening).split(_SEAM) if piece]


def _guarded(value: Any, control: Collection[str]) -> Any:
    """`value` with every text in it guarded, the names of members too.

    Raises:
        RequestError: it is nested too deeply.
    """
    try:
        return _guarded_at(value, control)
    except RecursionError as error:
        raise RequestError("the conversation is nested too deeply") from error


def _guarded_at(value: Any, control: Collection[str]) -> Any:
    if isinstance(value, str):
        return _guard(value, control)
    if isinstance(value, Mapping):
        return {_guard(str(k), control): _guarded_at(v, control) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded_at(item, control) for item in value]
    return value


def _guard(text: str, control: Collection[str]) -> str:
    """`text` with a seam inside each control token that is written in it."""
    text = text.replace(_SEAM, "\ufffd")
    pattern = _pattern(frozenset(control)) if control else _LIKELY_CONTROL
    return pattern.sub(lambda match: match[0][:1] + _SEAM + match[0][1:], text)


@lru_cache(maxsize=4)
def _pattern(control: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, control), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


class _Child:
    """The rendering process: started when first needed, reused, replaced when it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """Raises RequestError."""
        request = {
            "template": template,
            "variables": variables,
            "most_bytes": _MOST_BYTES,
            "cpu_s": _CPU_S,
        }
        try:
            size = len(json.dumps(variables, ensure_ascii=False))
            request["most_chars"] = _MOST_EXTRA_CHARS + _MOST_REPEATS * size
            body = json.dumps(request).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"the conversation cannot be rendered ({error})") from error
        with self._lock:
            reply = self._exchange(body)
        if "text" in reply:
            return reply["text"]
        if "refused" in reply:
            raise RequestError(f"the chat template refuses the conversation: {reply['refused']}")
        raise RequestError(
            f"the chat template fails ({reply.get('failed', 'no reply')})",
            advice="Use /completion with this model",
        )

    def _exchange(self, body: bytes) -> dict[str, str]:
        from assistant.daemon.http.template_child import LENGTH  # imports jinja2

        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(_WALL_S, process.kill)
        timer.start()
        try:
            process.stdin.write(LENGTH.pack(len(body)) + body)
            process.stdin.flush()
            head = process.stdout.read(LENGTH.size)
            data = process.stdout.read(LENGTH.unpack(head)[0]) if head else b""
            reply: dict[str, str] = json.loads(data) if data else {}
        except (OSError, ValueError, struct.error):
            reply = {}
        finally:
            timer.cancel()
        # After a failure its memory may be fragmented or nearly used up.
        if not reply or "memory" in reply.get("failed", ""):
            self._end(process)
        return reply or {"failed": "it needs too much memory or time"}

    def _running(self) -> subprocess.Popen[bytes]:
        process = self._process
        if process is None or process.poll() is not None:
            if process is not None:
                self._end(process)
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "assistant.daemon.http.template_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


_CHILD = _Child()


_ROLES = {"developer": "system", "function": "tool"}

_INSTRUCTIONS = """# Tools

You may call one or more functions to help with the request. Their signatures are within \
<tools></tools>:
<tools>
{tools}
</tools>

For each call, write a JSON object with the function's name and arguments within \
<tool_call></tool_call>:
<tool_call>
{{"name": <function name>, "arguments": <object with the arguments>}}
</tool_call>"""


@dataclass(frozen=True)
class Conversation:
    """What a chat template is given.

    Attributes:
        messages: with `role`, `content`, and what tool calls need.
        tools: OpenAI's tool objects; empty where there are none, or the messages describe them.
        options: more variables for the template.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def conversation(
    body: ChatBody, choice: ToolChoice, family: Family, *, takes_tools: bool
) -> Conversation:
    """What the template of a model of `family` is given for `body`.

    Args:
        takes_tools: the template writes tools itself.

    Raises:
        RequestError: a message has a part that is no text.
    """
    options = dict(body.chat_template_kwargs)
    if body.reasoning_effort:
        options.setdefault("reasoning_effort", body.reasoning_effort)
    tools = [_tool(function) for function in choice.functions]
    if takes_tools:
        names = {call.id: call.function.name for m in body.messages for call in m.tool_calls}
        messages = [_native(message, family, names) for message in body.messages]
        return Conversation(messages, tools, options)
    return Conversation(_described(body.messages, tools), [], options)


def _tool(function: FunctionBody) -> dict[str, Any]:
    own = {"name": function.name, "description": function.description}
    parameters = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": own | {"parameters": parameters}}


def _native(message: MessageBody, family: Family, names: dict[str, str]) -> dict[str, Any]:
    role, text = _ROLES.get(message.role, message.role), message.text()
    found: dict[str, Any] = {"role": role, "content": text}
    if message.tool_calls:
        found["tool_calls"] = [_call(call) for call in message.tool_calls]
        if not text and family.null_content:
            found["content"] = None
    if message.reasoning_content:
        found["reasoning_content"] = found["thinking"] = message.reasoning_content
    if role == "tool":
        found["tool_call_id"] = message.tool_call_id
        found["name"] = message.name or names.get(message.tool_call_id, "")
    return found


def _call(call: ToolCallBody) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(call: ToolCallBody) -> Any:
    """The object that the arguments are; text that is no object stays text."""
    arguments = call.function.arguments
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        found = msgspec.json.decode(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _described(
    messages: Sequence[MessageBody], tools: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """For templates that know only system, user and assistant, in turn."""
    found: list[dict[str, Any]] = []
    if tools:
        written = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        found.append({"role": "system", "content": _INSTRUCTIONS.format(tools=written)})
    for message in messages:
        role, text = _ROLES.get(message.role, message.role), message.text()
        for call in message.tool_calls:
            own = {"name": call.function.name, "arguments": _arguments(call)}
            written = json.dumps(own, ensure_ascii=False)
            text += f"{chr(10) if text else ''}<tool_call>\n{written}\n</tool_call>"
        if role == "tool":
            role, text = "user", f"<tool_response>\n{text}\n</tool_response>"
        last = found[-1] if found else {}
        # Several results, or the tools and what the system message says, are one turn.
        results = role == "user" and text.startswith("<tool_response>")
        if last.get("role") == role and (results or (tools and role == "system")):
            order = (text, last["content"]) if role == "system" else (last["content"], text)
            last["content"] = "\n\n".join(order)
        else:
            found.append({"role": role, "content": text})
    return found
