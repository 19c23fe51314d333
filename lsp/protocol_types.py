"""Imports lsprotocol's types fast: each class is completed when it is first used.

lsprotocol declares some 550 classes with `attrs.define`, which writes and compiles their methods.
That takes most of a language server's start, and a session uses about 120 of them. While the module
is imported here, `attrs.define` only notes its arguments; the class is completed, with the same
arguments, when it is first called or its attributes are requested.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import attrs

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
    """Import `lsprotocol.types`, unless it was imported before."""
    if _MODULE in sys.modules:
        return
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
    from lsprotocol import types

    define, cls._define = cls._define, None
    define(cls)
    attrs.resolve_types(cls, dict(types.ALL_TYPES_MAP), {})
