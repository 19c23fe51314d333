"""The tools that the model may call: their schemas, their arguments, and what a call would do.

A call is first planned, which reads and computes and changes nothing, then allowed, then run. What
is wrong with a call is an error that the model can act on: it names the parameter and the remedy.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from assistant.agent.conversation import ToolCall, ToolResult
from assistant.agent.workspace import ToolError

MAX_ARGUMENT_CHARS = 400_000

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
# What models call these parameters instead.
_ALIASES = {
    "path": ("file", "filename", "file_path", "filepath", "file_name", "folder", "directory"),
    "old": ("old_string", "old_text", "old_str", "search", "find"),
    "new": ("new_string", "new_text", "new_str", "replace", "replacement"),
    "text": ("content", "contents", "file_text", "code"),
    "pattern": ("query", "regex_pattern", "text", "search"),
    "command": ("cmd", "bash", "shell"),
    "first": ("start", "start_line", "line_start", "from", "offset"),
    "last": ("end", "end_line", "line_end"),
    "to": ("destination", "new_path", "target"),
    "name": ("symbol", "identifier"),
    "patch": ("diff",),
    "items": ("plan", "todos", "entries", "steps"),
    "what": ("command", "subcommand", "action"),
    "question": ("text", "message", "prompt"),
}
_TOOL_ALIASES = {
    "read": "read_file",
    "open_file": "read_file",
    "cat": "read_file",
    "list_dir": "list_folder",
    "list_directory": "list_folder",
    "ls": "list_folder",
    "glob": "find_files",
    "grep": "search_text",
    "search": "search_text",
    "edit_file": "replace_text",
    "edit": "replace_text",
    "str_replace": "replace_text",
    "write_file": "create_file",
    "bash": "run_command",
    "shell": "run_command",
    "execute_command": "run_command",
    "run": "run_command",
    "patch": "apply_patch",
}


class Access(StrEnum):
    """What a call does to the workspace, for the permissions."""

    READ = "read"
    EDIT = "edit"
    REMOVE = "remove"
    COMMAND = "command"
    TALK = "talk"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        kind: ACP's kind of a tool call.
        core: offered where the budget is small, too.
        schema: JSON Schema of its arguments.
    """

    name: str
    description: str
    kind: str
    core: bool
    schema: Mapping[str, Any]

    @property
    def wire(self) -> dict[str, Any]:
        """As OpenAI's `tools` has it."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    key: value
                    for key, value in self.schema.items()
                    if key != "additionalProperties"
                },
            },
        }


@dataclass(frozen=True)
class Diff:
    """A file before and after; None where there is none."""

    path: Path
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Outcome:
    """What a call returned; see `ToolResult`.

    Attributes:
        plan: the items of a plan, as (text, status), where it was updated.
    """

    text: str
    outline: str = ""
    line: str = ""
    changed: bool = False
    failed: bool = False
    plan: tuple[tuple[str, str], ...] | None = None

    def result(self, call_id: str) -> ToolResult:
        return ToolResult(
            call_id=call_id,
            text=self.text,
            outline=self.outline,
            line=self.line,
            failed=self.failed,
            changed=self.changed,
        )


@dataclass(frozen=True)
class Planned:
    """A call that is ready to run once it is allowed.

    Attributes:
        title: one line for the user.
        paths: files concerned; `line` (from 1) where in the first of them.
        command: the command line, for `Access.COMMAND`.
        diffs: what would change, shown before it is made.
        warning: what the user should know, such as a broken syntax.
    """

    tool: str
    kind: str
    access: Access
    title: str
    run: Callable[[], Awaitable[Outcome]]
    paths: tuple[Path, ...] = ()
    line: int | None = None
    command: str = ""
    diffs: tuple[Diff, ...] = ()
    warning: str = ""


@cache
def tools() -> Mapping[str, Tool]:
    """All built-in tools by name, in the order of the table."""
    text = resources.files("assistant.agent").joinpath("tools.toml").read_text("utf-8")
    found = {}
    for name, row in tomllib.loads(text).items():
        parameters = row["parameters"]
        schema = {
            "type": "object",
            "properties": {key.rstrip("?"): value for key, value in parameters.items()},
            "required": [key for key in parameters if not key.endswith("?")],
            "additionalProperties": False,
        }
        found[name] = Tool(name, row["description"], row["kind"], row["core"], schema)
    return found


def offered(known: Mapping[str, Tool], *, small: bool) -> list[Tool]:
    """The tools to offer; only the core where the budget is small."""
    return [tool for tool in known.values() if tool.core or not small]


def named(name: str, known: Mapping[str, Tool]) -> Tool:
    """The tool that a model means.

    Raises:
        ToolError: there is none of that name.
    """
    short = name.strip().removeprefix("functions.").removeprefix("default_api.")
    tool = known.get(short) or known.get(_TOOL_ALIASES.get(short.lower(), ""))
    if tool is None:
        raise ToolError(f"There is no tool {name[:80]!r}. The tools are: {', '.join(known)}.")
    return tool


def arguments_of(call: ToolCall, tool: Tool) -> dict[str, Any]:
    """The checked arguments of a call.

    Harmless slips are accepted: another common name for a parameter, a number or a truth value
    written as a text, null for a parameter that is optional, a JSON text inside of a JSON text.

    Raises:
        ToolError: it names what is wrong and what is expected.
    """
    if len(call.arguments) > MAX_ARGUMENT_CHARS:
        raise ToolError("The arguments are too long. Make several smaller calls.")
    try:
        given = json.loads(call.arguments or "{}")
        if isinstance(given, str):
            given = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise ToolError(
            f"The arguments of {tool.name} are not valid JSON ({error}). {_expected(tool)}"
        ) from error
    if not isinstance(given, dict):
        raise ToolError(f"The arguments of {tool.name} are not a JSON object. {_expected(tool)}")
    properties: Mapping[str, Any] = tool.schema.get("properties", {})
    required: Sequence[str] = tool.schema.get("required", ())
    if not properties:
        return given
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = key if key in properties else _meant(key, properties, given)
        if name is None:
            raise ToolError(f"{tool.name} has no parameter {key[:80]!r}. {_expected(tool)}")
        if value is None and name not in required:
            continue
        found[name] = _checked(tool.name, name, value, properties[name])
    for name in required:
        if name not in found:
            raise ToolError(f"{tool.name} needs the parameter {name!r}. {_expected(tool)}")
    return found


def _meant(key: str, properties: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    return next(
        (
            name
            for name in properties
            if name not in given and key.lower() in _ALIASES.get(name, ())
        ),
        None,
    )


def _checked(tool: str, name: str, value: Any, schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "")
    if not isinstance(kind, str) or kind not in _TYPES:
        return value
    if isinstance(value, str) and kind != "string":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = {"True": True, "False": False}.get(value, value)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind == "string" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = "\n".join(value)
    right = isinstance(value, _TYPES[kind]) and not (kind == "integer" and isinstance(value, bool))
    if not right:
        raise ToolError(f"{name!r} of {tool} must be of type {kind}.")
    if "enum" in schema and value not in schema["enum"]:
        raise ToolError(f"{name!r} of {tool} must be one of: {', '.join(schema['enum'])}.")
    if kind == "integer":
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ToolError(f"{name!r} of {tool} must be at least {low or 0}"
                            + (f" and at most {high}." if high is not None else "."))  # fmt: skip
    if kind == "array":
        if len(value) > schema.get("maxItems", 1000):
            raise ToolError(f"{name!r} of {tool} has too many items.")
        items = schema.get("items", {})
        return [_checked(tool, name, one, items) for one in value]
    if kind == "object":
        for key in schema.get("required", ()):
            if key not in value:
                raise ToolError(f"Each item of {name!r} of {tool} needs {key!r}.")
        inner = schema.get("properties", {})
        return {key: _checked(tool, key, one, inner.get(key, {})) for key, one in value.items()}
    return value


def _expected(tool: Tool) -> str:
    required = tool.schema.get("required", ())
    parts = [
        f"{name} ({schema.get('type', 'any')}{'' if name in required else ', optional'})"
        for name, schema in tool.schema.get("properties", {}).items()
    ]
    return f"Its parameters: {', '.join(parts) or 'none'}."
