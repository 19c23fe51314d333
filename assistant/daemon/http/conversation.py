"""A conversation as chat templates take it: messages and tools as plain data. Pure.

As Hugging Face has it (transformers, `apply_chat_template`): the arguments of a call are an object,
tools are OpenAI's. A template that knows no tools has them described in the system message, and
calls and results written as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from assistant.daemon.http.request_schemas import (
    ChatBody,
    FunctionBody,
    MessageBody,
    ToolCallBody,
    ToolChoice,
)
from assistant.daemon.http.tool_calls.families import Family

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
    except (msgspec.DecodeError, RecursionError):
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
