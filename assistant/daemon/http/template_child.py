"""The process that renders chat templates, which are foreign code: limited in memory, processor
time and output. It reads requests from stdin and writes one reply for each to stdout.

A frame is its length (4 bytes, little endian) and JSON. A request holds `template`, `variables` and
the limits; a reply is {"text": ...}, {"refused": message} or {"failed": message}.

The dialect is Hugging Face's: transformers, src/transformers/utils/chat_template_utils.py,
`_compile_jinja_template`.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from assistant import oom_score

LENGTH = struct.Struct("<I")
_LONGEST_MESSAGE_CHARS = 500


class _RefusedError(Exception):
    """Raised by a template through `raise_exception`."""


class _TooLongError(Exception):
    """The output is longer than the limit."""


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _body(caller: Callable[[], str]) -> str:
        return caller()


class _Sandbox(ImmutableSandboxedEnvironment):
    """Without powers: no template needs them, and one is a single operation without an end."""

    intercepted_binops = frozenset({"**"})

    def call_binop(
        self,
        context: jinja2.runtime.Context,  # noqa: ARG002
        operator: str,
        left: Any,  # noqa: ARG002
        right: Any,  # noqa: ARG002
    ) -> Any:
        raise SecurityError(f"{operator} is not allowed in templates")


@lru_cache(maxsize=4)
def _compile(template: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


class _Arguments(dict[str, Any]):
    """The arguments of a tool call. Some templates read them as an object, others join them to a
    text: then they are their JSON."""

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


def _with_arguments(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        for call in message.get("tool_calls", ()):
            if isinstance(call["function"]["arguments"], dict):
                call["function"]["arguments"] = _Arguments(call["function"]["arguments"])


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own escapes HTML, which a model would read literally."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=tuple(separators) if separators else None,  # type: ignore[arg-type]
        sort_keys=sort_keys,
    )


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _refuse(message: object = "") -> NoReturn:
    raise _RefusedError(str(message))


def _accepted(template: str, variables: dict[str, Any], most_chars: int) -> str:
    """The text. Some templates refuse every system message, as Gemma's: then it is the beginning of
    the first question."""
    try:
        return _with_contents(template, variables, most_chars)
    except _RefusedError as refusal:
        merged = _without_system(variables.get("messages", []))
        if not merged:
            raise
        try:
            return _with_contents(template, variables | {"messages": merged}, most_chars)
        except _RefusedError:
            raise refusal from None


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the first one in the one after it; none where they are no system message
    and a question."""
    if [one["role"] for one in messages[:2]] != ["system", "user"]:
        return []
    system, question, *rest = messages
    texts = [one["content"] for one in (system, question)]
    if not all(isinstance(text, str) for text in texts):
        return []
    return [question | {"content": "\n\n".join(filter(None, texts))}, *rest]


def _with_contents(template: str, variables: dict[str, Any], most_chars: int) -> str:
    """The text with every message's content. Templates of models that also read images may want
    the contents as lists of parts: one that loses the last question, or fails, gets them so."""
    messages = variables.get("messages", [])
    asked = [one["content"] for one in messages if one["role"] == "user"]
    last = next((text for text in reversed(asked) if isinstance(text, str)), "").strip()
    failure: Exception | None = None
    text = ""
    try:
        text = _generated(template, variables, most_chars)
        if last in text:
            return text
    except (_RefusedError, _TooLongError, jinja2.TemplateSyntaxError):
        raise
    except Exception as error:
        failure = error
    parts = [
        one | {"content": [{"type": "text", "text": one["content"]}]}
        if isinstance(one["content"], str)
        else one
        for one in messages
    ]
    with suppress(Exception):
        other = _generated(template, variables | {"messages": parts}, most_chars)
        if last and last in other:
            return other
    if failure is not None:
        raise failure
    return text


def _generated(template: str, variables: dict[str, Any], most_chars: int) -> str:
    parts, length = [], 0
    for part in _compile(template).generate(variables):
        parts.append(part)
        length += len(part)
        if length > most_chars:
            raise _TooLongError
    return "".join(parts)


def render(template: str, variables: dict[str, Any], most_chars: int) -> dict[str, str]:
    """One reply. Everything a template can raise is caught: what remains ends the process."""
    try:
        _with_arguments(variables.get("messages", []))
        return {"text": _accepted(template, variables, most_chars)}
    except _RefusedError as error:
        return {"refused": str(error)[:_LONGEST_MESSAGE_CHARS]}
    except _TooLongError:
        return {"failed": f"its output is longer than {most_chars} characters"}
    except MemoryError:
        return {"failed": "it needs too much memory"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE_CHARS]}


def _limit(most_bytes: int, cpu_s: int) -> None:
    """Limit this process from now on; what the system does not support is left out."""
    try:
        import resource
    except ImportError:  # Windows: the time and output limits of the daemon remain
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft_s = int(used.ru_utime + used.ru_stime) + 1 + cpu_s
    with suppress(OSError, ValueError):
        # The signal at the soft limit ends the process, also within a single operation.
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (soft_s, hard))
    for name, value in [("RLIMIT_AS", most_bytes), ("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0)]:
        with suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (value, value))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until `source` ends."""
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        request = json.loads(source.read(LENGTH.unpack(head)[0]))
        _limit(request["most_bytes"], request["cpu_s"])
        reply = render(request["template"], request["variables"], request["most_chars"])
        body = json.dumps(reply).encode()
        sink.write(LENGTH.pack(len(body)) + body)
        sink.flush()


if __name__ == "__main__":
    oom_score.raise_to(oom_score.WORKER)  # it is started again when needed
    sys.setrecursionlimit(2000)
    serve(sys.stdin.buffer, sys.stdout.buffer)
