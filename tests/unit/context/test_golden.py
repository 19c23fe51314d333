"""Golden results of every language: outline, trims, chunks, and what is picked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import context
from context import FimLayout, TokenCounter
from context.index.file_record import chunks
from context.syntax.document import Source, read
from context.syntax.language import languages
from context.syntax.text import Encoder
from context.syntax.trim import Depth, trim

NAMES = sorted(languages())


def broken(source: Source) -> bool:
    """Whether the tree of a source has errors."""
    assert source.tree.root is not None
    return source.tree.root.has_error


@pytest.fixture(params=NAMES)
def source(request: pytest.FixtureRequest, main_file: Callable[[str], Path]) -> Any:
    text = main_file(request.param).read_text(encoding="utf-8")
    return read(text, languages()[request.param])


def test_outline(source: Any, golden: Callable[[str, str], None]) -> None:
    lines = []
    for one in source.outline.definitions:
        first = source.text[one.start : one.stop].split("\n", 1)[0]
        depth, parent = 0, one.parent
        while parent >= 0:
            depth, parent = depth + 1, source.outline.definitions[parent].parent
        lines.append(f"{'  ' * depth}{one.kind} {one.name}: {first}")
    lines += [f"import {one.module} | {one.name} | {one.local}" for one in source.outline.imports]
    golden(f"{source.language.name}/golden/outline.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize("depth", [Depth.LIGHT, Depth.DOCS, Depth.BODIES], ids=str)
def test_trim(source: Any, golden: Callable[[str, str], None], depth: Depth) -> None:
    text, cuts = trim(source, depth)
    assert cuts
    golden(f"{source.language.name}/golden/trim_{depth.name.lower()}.txt", text)
    again = read(text, source.language)
    assert not broken(again), "a marker is not legal here"
    assert trim(again, depth)[0] == text, "trimming twice changes more"


def test_chunks(source: Any, golden: Callable[[str, str], None], counter: TokenCounter) -> None:
    found = chunks(source, Encoder(counter), max_tokens=90)
    lines = []
    for one in found:
        signature = " / ".join(one.signature.split("\n")) if one.signature else "-"
        lines.append(f"=== {one.tokens} tokens | {', '.join(one.names) or '-'} | {signature}")
        lines.append(source.text[one.start : one.stop].rstrip("\n"))
    golden(f"{source.language.name}/golden/chunks.txt", "\n".join(lines) + "\n")


CURSORS = {
    "bash": '  tide="$(height',
    "c": "    double tide = height",
    "cpp": "        double tide = tides::",
    "csharp": "            double tide = TideTable.",
    "go": "	tide := tides.",
    "java": "        double tide = Tides.",
    "javascript": "    const tide = height",
    "lua": "  local tide = tides.",
    "php": "        $tide = TideTable::",
    "python": "        tide = height",
    "ruby": "    tide = Tides.",
    "rust": "        let tide = height",
    "tsx": "    const tide = height",
    "typescript": "    const tide = height",
}


@pytest.mark.parametrize("name", NAMES)
def test_pick(
    name: str,
    main_file: Callable[[str], Path],
    golden: Callable[[str, str], None],
    counter: TokenCounter,
    layout: FimLayout,
    control: dict[str, int],
) -> None:
    path = main_file(name)
    workspace = context.Workspace([path.parent], counter, layout, control, excludes=["golden/"])
    workspace.index.refresh()
    text = path.read_text(encoding="utf-8")
    cursor = text.index(CURSORS[name]) + len(CURSORS[name])
    text = text[:cursor] + text[text.index("\n", cursor) :]
    document = workspace.open(path, text)
    prompt = workspace.prompt(document, len(text[:cursor].encode()), 600)
    repo = [one for one in prompt.sections if one.part is context.Part.REPO]
    assert any("eight" in one.text for one in repo), "the imported definition is not shown"
    shown = "".join(f"[{one.reason}]\n{one.text}" for one in repo)
    golden(f"{name}/golden/pick.txt", shown)
