"""Imports point only down the order of packages, use only public modules, and form no cycles."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the top down: a package may import those after it, never one before it.
ORDER = [
    "lsp",
    "assistant.__main__",
    "assistant.cli",
    "assistant.doctor",
    "assistant.install",
    "assistant.service",
    "assistant.agent",
    "assistant.client",
    "assistant.daemon",
    "assistant.wire",
    "assistant.engine",
    "assistant.models",
    "assistant.memory.planning",
    "assistant.memory.ladder",
    "assistant.memory.model",
    "assistant.memory.gguf",
    "assistant.memory",
    "assistant.llama",
    "assistant.statistics",
    "assistant.settings",
    "assistant.http_client",
    "assistant.http_client",
    "assistant.paths",
    "assistant.errors",
    "assistant",
    "context",
    "context.workspace",
    "context.edits",
    "context.prompt",
    "context.retrieval",
    "context.index",
    "context.syntax",
]

# Packages that must not load these modules.
FORBIDDEN = {
    "lsp": ("llama_cpp", "assistant.daemon", "assistant.cli", "assistant.__main__"),
    "assistant.daemon": ("llama_cpp",),
    "assistant.agent": ("llama_cpp", "assistant.daemon"),
    "assistant.client": ("llama_cpp", "assistant.daemon"),
    "context": ("assistant", "lsp", "llama_cpp"),
}


def package(module: str) -> str:
    matches = [name for name in ORDER if module == name or module.startswith(name + ".")]
    if not matches:
        raise AssertionError(f"{module} is in no package of ORDER")
    return max(matches, key=len)


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in ("assistant", "lsp", "context"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
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
    own = package(module)
    for target in imports(module, modules()[module]):
        if target.split(".")[0] not in {"assistant", "lsp", "context"}:
            continue
        if package(target) == "assistant" and own.startswith("assistant"):
            continue
        assert ORDER.index(package(target)) >= ORDER.index(own), (
            f"{module} imports upwards: {target}"
        )


@pytest.mark.parametrize("module", sorted(modules()))
def test_forbidden_imports(module: str) -> None:
    for target in imports(module, modules()[module]):
        for forbidden in FORBIDDEN.get(package(module), ()):
            assert target != forbidden and not target.startswith(forbidden + "."), (
                f"{module} must not import {target}"
            )


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_its_job(module: str) -> None:
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{module} has no docstring"


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(2, len(parts))]


@cache
def public_modules(init: Path) -> set[str] | None:
    """The names in a package's `__all__`, or None where it has none."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("module", sorted(modules()))
def test_only_public_modules_of_another_package_are_imported(module: str) -> None:
    known = modules()
    for target in imports(module, known[module]) & known.keys():
        for parent in _parents(target):
            if module == parent or module.startswith(parent + "."):
                continue
            public = public_modules(known[parent])
            child = target[len(parent) + 1 :].split(".")[0]
            assert public is None or child in public, (
                f"{module} imports {target}, which {parent} does not list in __all__"
            )


def test_no_modules_import_each_other() -> None:
    known = modules()
    graph = {name: imports(name, path) & known.keys() for name, path in known.items()}
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            raise AssertionError(f"import cycle: {' -> '.join([*path[path.index(name) :], name])}")
        if name not in finished:
            for target in sorted(graph[name]):
                visit(target, [*path, name])
            finished.add(name)

    for name in sorted(known):
        visit(name, [])
