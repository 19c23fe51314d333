"""`python -m lsp`: the language server on stdin and stdout.

Its log on stderr never holds the user's code: pygls logs message bodies, all of
them at INFO, and at ERROR those that it could not handle. So of its records only the template and
the kind of the exception are written.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from lsp import handshake

_FIELDS = "__attrs_attrs__"  # what `attrs.has` and `attrs.fields` look for
_MODULE = "lsprotocol.types"


class _Declared(type):
    """The type of a class that may not be complete yet."""

    _define: Callable[[type], type] | None

    def __getattr__(cls, name: str) -> Any:
        if name == _FIELDS and cls.__dict__.get("_define") is not None:
            _complete(cls)
            return cls.__dict__[_FIELDS]
        raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        if cls.__dict__.get("_define") is not None:
            _complete(cls)
        return super().__call__(*args, **fields)


def load() -> None:
    """Import `lsprotocol.types` fast, unless it was imported before.

    lsprotocol declares some 550 classes with `attrs.define`, which writes and compiles their
    methods. That takes most of a language server's start, and a session uses about 120 of them.
    During the import `attrs.define` only notes its arguments; a class is completed, with the same
    arguments, when it is first called or its attributes are requested.
    """
    if _MODULE in sys.modules:
        return
    import attrs

    define = attrs.define

    def declare(cls: type | None = None, **options: Any) -> Any:
        if cls is None:
            return lambda one: declare(one, **options)
        body = {
            name: value
            for name, value in cls.__dict__.items()
            if name not in {"__dict__", "__weakref__"}
        }
        # With slots, attrs would make another class of it.
        body["_define"] = staticmethod(lambda one: define(one, **{**options, "slots": False}))
        return _Declared(cls.__name__, cls.__bases__, body)

    attrs.define = declare  # type: ignore[assignment]
    try:
        import lsprotocol.types
    finally:
        attrs.define = define
    from lsprotocol import _hooks

    # It would resolve the annotations of all classes; `_complete` does that for each.
    _hooks._resolved_forward_references = True
    assert lsprotocol.types.ALL_TYPES_MAP


def _complete(cls: Any) -> None:
    import attrs
    from lsprotocol import types

    define, cls._define = cls._define, None
    define(cls)
    attrs.resolve_types(cls, dict(types.ALL_TYPES_MAP), {})


def configure(level: int | None = None) -> None:
    """Send our log to stderr from `level` on, and warnings of pygls without what they are about.

    Args:
        level: of `logging`; None for warnings.
    """
    import logging

    class WithoutBodies(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            kind = record.exc_info[0] if record.exc_info else None
            return f"{record.levelname} {record.name}: {record.msg}" + (
                f" ({kind.__name__})" if kind else ""
            )

    level = logging.WARNING if level is None else level
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    quiet = logging.StreamHandler()
    quiet.setFormatter(WithoutBodies())
    for name in ("pygls", "asyncio", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers = [quiet]
        logger.propagate = False
        logger.setLevel(logging.WARNING)


def main() -> None:
    """Serve one editor until it leaves. The exit code is 1 if it left without a shutdown."""
    # Thousands of objects are made while modules are imported, and none of them is garbage.
    gc.disable()
    left = False
    # An editor that goes with an answer unread fails the write, and then the closing of it.
    with (
        contextlib.suppress(ConnectionError),
        os.fdopen(os.dup(sys.stdout.fileno()), "wb") as channel,
    ):
        # Whatever else prints must not end up between the messages.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        left = _serve(channel)
    sys.exit(0 if left else 1)


def _serve(channel: BinaryIO) -> bool:
    """Whether the editor sent a shutdown before it left."""
    source = handshake.answer(sys.stdin.buffer, channel)
    from assistant.errors import hide_library_warnings

    hide_library_warnings()
    configure()
    load()
    from lsp import server

    gc.enable()
    gc.freeze()
    language_server = server.create()
    language_server.start_io(stdin=cast("BinaryIO", source), stdout=channel)
    return language_server.left


if __name__ == "__main__":
    main()
