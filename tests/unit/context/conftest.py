"""A token counter with real-looking tokens and no vocabulary, and a FIM layout to go with it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from toy_counter import FastCounter, ToyCounter

from context.prompt import FimLayout, Part
from context.syntax.text import CursorKind


@pytest.fixture
def counter() -> ToyCounter:
    return ToyCounter()


OPEN_PREFIX_LAST = (
    Part.PREFIX_TOKEN,
    Part.REPO,
    Part.FAR_PREFIX,
    Part.SUFFIX_TOKEN,
    Part.SUFFIX,
    Part.MIDDLE_TOKEN,
    Part.PREFIX,
)
DOCUMENTED = (
    Part.PREFIX_TOKEN,
    Part.REPO,
    Part.PREFIX,
    Part.SUFFIX_TOKEN,
    Part.SUFFIX,
    Part.MIDDLE_TOKEN,
)
TOKENS = {Part.PREFIX_TOKEN: "<pre>", Part.SUFFIX_TOKEN: "<suf>", Part.MIDDLE_TOKEN: "<mid>"}
LAYOUT = FimLayout(
    family="toy",
    tokens=TOKENS,
    order={CursorKind.LINE_START: OPEN_PREFIX_LAST, CursorKind.MID_LINE: OPEN_PREFIX_LAST},
    stop=("<eot>",),
)
MIXED = FimLayout(
    family="mixed",
    tokens=TOKENS,
    order={CursorKind.LINE_START: OPEN_PREFIX_LAST, CursorKind.MID_LINE: DOCUMENTED},
)
CONTROL = {"<pre>": 1, "<suf>": 2, "<mid>": 3, "<eot>": 4}


@pytest.fixture
def layout() -> FimLayout:
    return LAYOUT


@pytest.fixture
def control() -> dict[str, int]:
    return dict(CONTROL)


@pytest.fixture
def mixed_layout() -> FimLayout:
    """One order at the start of a line, another in the middle of one."""
    return MIXED


FIXTURES = Path(__file__).with_name("fixtures")
UPDATE_GOLDEN = bool(os.environ.get("UPDATE_GOLDEN"))


@pytest.fixture
def fast_counter() -> FastCounter:
    return FastCounter()


def main_fixture(language: str) -> Path:
    """The file of a language's fixture that the cursor stands in; the others are imported."""
    files = [p for p in (FIXTURES / language).iterdir() if p.is_file()]
    (found,) = [p for p in files if p.stem.lower() in ("harbour", "berth")]
    return found


@pytest.fixture
def main_file() -> Callable[[str], Path]:
    return main_fixture


_SITE = Path(httpx.__file__).resolve().parents[1]
_REPOSITORY = Path(__file__).resolve().parents[3]
# Where real files of a language are, how their names end, and how many of them are taken.
_REAL = (
    (_SITE, (".py",), 60),
    (_SITE, (".h", ".c", ".cpp", ".cxx"), 16),
    (_SITE, (".lua",), 8),
    (_SITE, (".js", ".sh"), 6),
    (_REPOSITORY / "editors", (".ts", ".lua", ".mjs"), 12),
)


@pytest.fixture(scope="session")
def real_sources() -> list[tuple[str, str]]:
    """Paths and texts of real files: what is installed or part of this project, and the fixtures
    of all languages, which are also there several times over, to be larger."""
    rng = random.Random(11)
    chosen: list[Path] = []
    for folder, endings, count in _REAL:
        paths = (
            p for p in folder.rglob("*") if p.suffix in endings and "node_modules" not in p.parts
        )
        fit = sorted(p for p in paths if 500 < p.stat().st_size < 40_000)
        chosen += rng.sample(fit, min(count, len(fit)))
    written = [p for p in sorted(FIXTURES.rglob("*")) if p.is_file() and "golden" not in p.parts]
    texts = {p: p.read_text(encoding="utf-8", errors="replace") for p in (*chosen, *written)}
    larger = [(str(p), texts[p] * 5) for p in written]
    return [(str(p), text) for p, text in texts.items()] + larger


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compares a text with the golden file of that name; UPDATE_GOLDEN=1 writes it again."""

    def check(name: str, text: str) -> None:
        path = FIXTURES / name
        if UPDATE_GOLDEN:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{name} is missing: run with UPDATE_GOLDEN=1 and read what it wrote"
        assert text == path.read_text(encoding="utf-8")

    return check
