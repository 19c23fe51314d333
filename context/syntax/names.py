"""Identifiers: which ones stand near a cursor, and how they are split into words for search."""

from __future__ import annotations

import re
from functools import lru_cache

_NAME = re.compile(r"[^\W\d][\w$]*")
# Each word is tried once, from its start: without the look-behind a long word costs its square.
_MEMBER = re.compile(r"(?<![\w$])([^\W\d][\w$]*+)\s*+(?:\.|::|->|:)\s*+(?=([^\W\d][\w$]*+))")
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")
_HALF_DISTANCE_LINES = 8
_MAX_TERMS = 40
_LONGEST_NAME = 200


def near_names(before: str, after: str) -> dict[str, float]:
    """Weight of each identifier around a cursor: the nearest occurrence counts.

    1 on the cursor's line, half of it 8 lines away before it; after it, half as much from the
    start. Formula: 0.5 ** (lines / 8), times 0.5 after the cursor.
    """
    weights: dict[str, float] = {}
    for lines, factor in ((reversed(before.split("\n")), 1.0), (iter(after.split("\n")), 0.5)):
        for distance, line in enumerate(lines):
            weight = factor * 0.5 ** (distance / _HALF_DISTANCE_LINES)
            for name in _NAME.findall(line[:2000]):
                if weights.get(name, 0.0) < weight:
                    weights[name] = weight
    return weights


def members(text: str) -> dict[str, set[str]]:
    """For each `a.b` (also `a::b`, `a->b`, `a:b`) in the text: the members `b` of `a`."""
    found: dict[str, set[str]] = {}
    for owner, member in _MEMBER.findall(text):
        found.setdefault(owner, set()).add(member)
    return found


def words(name: str) -> list[str]:
    """`heightAt`, `height_at`, `HEIGHT_AT` -> height, at."""
    return [word.lower() for word in _WORDS.findall(name)]


def terms(text: str) -> str:
    """What the search index holds for a text: its identifiers and their words, blank-separated."""
    names = (name[:_LONGEST_NAME] for name in _NAME.findall(text))
    return " ".join(found for name in names if (found := _terms_of(name)))


@lru_cache(maxsize=1 << 14)
def _terms_of(name: str) -> str:
    parts = words(name)
    found = [part for part in parts if len(part) > 1]
    if len(parts) > 1:
        found.append("".join(parts))
    return " ".join(found)


def query_terms(weights: dict[str, float]) -> list[str]:
    """Search terms for weighted identifiers, the heaviest first, at most 40."""
    scored: dict[str, float] = {}
    for name, weight in weights.items():
        parts = words(name)
        for term in (*parts, "".join(parts)):
            if len(term) > 2:
                scored[term] = max(scored.get(term, 0.0), weight)
    return [term for term, _ in sorted(scored.items(), key=lambda one: -one[1])][:_MAX_TERMS]


def shingles(text: str) -> set[str]:
    """Lines without blanks, to compare texts by."""
    return {line for line in map(str.strip, text.split("\n")) if len(line) > 3}


def similarity(one: set[str], other: set[str]) -> float:
    """Share of common lines: twice the common ones over all, 0 to 1."""
    total = len(one) + len(other)
    return 2 * len(one & other) / total if total else 0.0
