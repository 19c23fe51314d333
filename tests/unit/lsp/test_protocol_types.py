"""The fast import of lsprotocol's types gives the same classes as the plain one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
from lsprotocol import _hooks, types

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import attrs, sys
from lsp import __main__ as language_server
language_server.load()
from lsprotocol import types
from lsprotocol.converters import get_converter

position = types.Position(1, 2)
assert position == types.Position(line=1, character=2) < types.Position(1, 3)
assert repr(types.Range(position, position)) == "1:2-1:2"
try:
    types.Position("one", 2)
except ValueError:
    pass  # the validators are the class's own
else:
    raise AssertionError
converter = get_converter()
change = converter.structure(
    {"textDocument": {"uri": "file:///a", "version": 1}, "contentChanges": [{"text": "b"}]},
    types.DidChangeTextDocumentParams,
)
assert list(change.content_changes) == [types.TextDocumentContentChangeWholeDocument(text="b")]
assert converter.unstructure(change)["textDocument"]["uri"] == "file:///a"
for name, cls in sorted(types.ALL_TYPES_MAP.items()):
    if isinstance(cls, type) and attrs.has(cls):
        fields = [(f.name, str(f.type), str(f.default)) for f in attrs.fields(cls)]
        print(name, cls.__module__, fields)
"""


def test_every_class_has_the_same_fields() -> None:
    """The start of the language server builds only the classes that it uses."""
    _hooks._resolve_forward_references()
    plain = []
    for name, cls in sorted(types.ALL_TYPES_MAP.items()):
        if isinstance(cls, type) and attrs.has(cls):
            fields = [(one.name, str(one.type), str(one.default)) for one in attrs.fields(cls)]
            plain.append(f"{name} {cls.__module__} {fields}")
    assert len(plain) > 500
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == plain
