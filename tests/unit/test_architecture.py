"""Imports point only down the order of rooms, and no room is unknown to the order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the top down: a room may import the rooms after it, never one before it.
ORDER = [
    "lsp",
    "assistant.__main__",
    "assistant.cli",
    "assistant.doctor",
    "assistant.service",
    "assistant.client",
    "assistant.daemon",
    "assistant.wire",
    "assistant.engine",
    "assistant.models",
    "assistant.memory",
    "assistant.llama",
    "assistant.statistics",
    "assistant.settings",
    "assistant.address",
    "assistant.paths",
    "assistant.errors",
    "assistant",
    "context",
]

# Rooms that must not load these, whoever imports them.
FORBIDDEN = {
    "lsp": ("llama_cpp", "assistant.daemon", "assistant.cli", "assistant.__main__"),
    "assistant.daemon": ("llama_cpp",),
    "assistant.client": ("llama_cpp", "assistant.daemon"),
    "context": ("assistant", "lsp", "llama_cpp"),
}


def room(module: str) -> str:
    matches = [name for name in ORDER if module == name or module.startswith(name + ".")]
    if not matches:
        raise AssertionError(f"{module} stands in no room of ORDER")
    return max(matches, key=len)


def modules() -> dict[str, Path]:
    found = {}
    for package in ("assistant", "lsp", "context"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = modules()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the direction"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in known else base)
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    own = room(module)
    for target in imports(module, modules()[module]):
        if target.split(".")[0] not in {"assistant", "lsp", "context"}:
            continue
        if room(target) == "assistant" and own.startswith("assistant"):
            continue
        assert ORDER.index(room(target)) >= ORDER.index(own), f"{module} imports upwards: {target}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_forbidden_imports(module: str) -> None:
    for target in imports(module, modules()[module]):
        for forbidden in FORBIDDEN.get(room(module), ()):
            assert target != forbidden and not target.startswith(forbidden + "."), (
                f"{module} must not import {target}"
            )


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_its_job(module: str) -> None:
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{module} has no docstring"
