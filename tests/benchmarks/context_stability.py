"""How much of a prompt stays byte-identical, from its beginning, while one types and jumps.

    python tests/benchmarks/context_stability.py

Real functions of real files are deleted and typed again a character at a time; after each the
cursor jumps to the next place in the file. Counted is the common beginning of consecutive prompts
as a share of the newer one: what an engine with one sequence need not evaluate again. Keystrokes
at which the head is built again count as typing, with what little stays.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

import context
from assistant import paths
from assistant.models import families, vocabulary
from context.prompt import FimLayout
from context.syntax.text import CursorKind

SITE = Path(httpx.__file__).resolve().parents[1]
FILES = (
    "httpx/_client.py", "starlette/routing.py", "click/core.py", "rich/console.py",
    "jinja2/compiler.py", "pygls/server.py", "uvicorn/config.py", "anyio/_backends/_asyncio.py",
)  # fmt: skip
PLACES = 6
MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
RESULT = Path(__file__).with_name("results") / "context_stability.json"


def functions(text: str) -> list[tuple[int, int]]:
    """Character spans of function bodies of 4 to 30 lines."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, last = node.body[0].lineno - 1, node.end_lineno or 0
            if 4 <= last - first <= 30 and first > node.lineno - 1:
                found.append((starts[first], starts[last] - 1))
    return found


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def copied(target: Path) -> Path:
    """A copy of the packages. The environment is ignored by git, so its files are not indexed."""
    for package in {file.partition("/")[0] for file in FILES}:
        shutil.copytree(
            SITE / package, target / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return target


def replay(
    site: Path, path: str, layout: FimLayout, words: Any, budget: int, rest: bool
) -> dict[str, Any]:
    """Type `PLACES` functions of a file again, one after the other."""
    workspace = context.Workspace([site / path.partition("/")[0]], words, layout, words.special)
    workspace.index.refresh()
    text = (site / path).read_text(encoding="utf-8")
    rng = random.Random(path)
    document = workspace.open(site / path, text)
    typing, jumps, reasons = [0, 0], [0, 0], Counter[str]()
    last: tuple[int, ...] = ()
    for start, stop in rng.sample(functions(text), PLACES):
        body = text[start:stop]
        document.replace(text[:start] + text[stop:])
        at = len(text[:start].encode("utf-8"))
        for step, char in enumerate(("", *body)):
            document.edit(at, at, char)
            at += len(char.encode("utf-8"))
            ids = workspace.prompt(document, at, budget).ids
            into = jumps if step == 0 else typing
            if last:
                into[0] += common(last, ids)
                into[1] += len(ids)
            reasons[workspace.head_reason(document).name] += 1
            last = ids
            if step == 0 and rest:  # the cursor rests a moment before one types
                last = workspace.prompt(document, at, budget, rest=True).ids
        document.replace(text)
    return {"typing": typing, "jumps": jumps, "reasons": dict(reasons)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", default="512,1024,2048")
    options = parser.parse_args()
    words = vocabulary.load(paths.models_dir() / MODEL)
    layout = families.layout_for(words)
    assert layout is not None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        site = copied(Path(folder).resolve())
        for budget in map(int, options.budgets.split(",")):
            for rest in (False, True):
                made = [replay(site, path, layout, words, budget, rest) for path in FILES]
                rows.append({"budget": budget, "rests_after_jump": rest, **summed(made)})
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "model": MODEL,
        "layout": layout.order[CursorKind.LINE_START], "files": FILES, "places_a_file": PLACES,
        "rows": rows,
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def summed(made: list[dict[str, Any]]) -> dict[str, Any]:
    reasons = sum((Counter(one["reasons"]) for one in made), Counter[str]())
    shares = {
        f"{name}_percent": round(
            100 * sum(one[name][0] for one in made) / sum(one[name][1] for one in made), 2
        )
        for name in ("typing", "jumps")
    }
    each = sorted(round(100 * one["jumps"][0] / one["jumps"][1], 1) for one in made)
    return {**shares, "jumps_percent_by_file": each, "heads": dict(reasons)}


if __name__ == "__main__":
    main()
