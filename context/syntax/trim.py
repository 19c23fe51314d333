"""Cuts what a model can do without, and leaves a marker that the language allows.

Three depths, each with all of the one before:

1. `LIGHT`: licence headers, imports that nobody uses, the block that starts the program, getters
   and setters, long literals and strings;
2. `DOCS`: docstrings and doc comments down to their first line, other comments to a marker;
3. `BODIES`: bodies of all definitions but those to be kept; signatures stay.

Trimming twice gives the same as once wherever the syntax is sound, and nothing inside `protect` is
touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum

from context.syntax.document import Source
from context.syntax.syntax_tree import Import
from context.syntax.text import line_end, line_start, next_text_line

_MIN_SAVED_CHARS = 12
_LONG_LITERAL_CHARS = 120
_LONG_TEXT_CHARS = 200
_KEPT_TEXT_CHARS = 40
_DOC_LINE_CHARS = 100
_ANY_CASE = re.IGNORECASE
_LICENCE = re.compile(r"copyright|licen[sc]e|spdx|all rights reserved", _ANY_CASE)
_GENERATED = re.compile(
    r"@generated|do not edit|auto-?generated|automatically generated", _ANY_CASE
)
_QUOTED = re.compile(r"^([a-zA-Z]*)(\"\"\"|'''|\"|')")
_NAME = re.compile(r"[^\W\d][\w$]*")


class Depth(IntEnum):
    """How much is cut."""

    NONE = 0
    LIGHT = 1
    DOCS = 2
    BODIES = 3


@dataclass(frozen=True)
class Cut:
    """Characters `start:stop` become `marker`."""

    start: int
    stop: int
    marker: str
    reason: str

    @property
    def saved(self) -> int:
        return self.stop - self.start - len(self.marker)


def is_generated(text: str) -> bool:
    """Whether the first lines say that a program wrote the file."""
    return _GENERATED.search(text[:1500]) is not None


def used_names(text: str) -> set[str]:
    """All identifiers in `text`."""
    return set(_NAME.findall(text))


def cuts(
    source: Source,
    depth: Depth,
    *,
    used: Collection[str] | None = None,
    expected: Collection[str] = (),
    keep: Callable[[int, int], bool] | None = None,
    protect: tuple[int, int] = (0, 0),
) -> list[Cut]:
    """What `trim` cuts, in order, none overlapping another.

    Args:
        used: names whose imports stay; None keeps those used anywhere in the text.
        expected: names whose imports stay in any case, since they may be used soon.
        keep: tells of a body's start and stop whether it stays at depth BODIES.
        protect: characters that stay as they are, with everything that reaches into them.
    """
    if depth is Depth.NONE:
        return []
    found = [*_licence(source), *_boilerplate(source), *_literals(source)]
    if depth >= Depth.DOCS:
        found += _comments(source)
    if depth >= Depth.BODIES or is_generated(source.text):
        found += _bodies(source, keep)
    others = _settled(source, found, protect)
    return _settled(source, [*others, *_imports(source, used, expected, others)], protect)


def _settled(source: Source, found: list[Cut], protect: tuple[int, int]) -> list[Cut]:
    """Outer cuts win over inner ones; dropped is what is protected, what saves nothing, and what
    would put a line comment in front of code."""
    worth = [
        cut
        for cut in found
        if cut.saved >= _MIN_SAVED_CHARS
        and not (cut.start < protect[1] and cut.stop > protect[0])
        and not (
            cut.marker == source.language.cut_marker
            and source.text[cut.stop : line_end(source.text, cut.stop)].strip()
        )
    ]
    return _disjoint(worth)


def apply(text: str, made: Collection[Cut], start: int = 0, stop: int | None = None) -> str:
    """`text[start:stop]` with those cuts that lie wholly inside."""
    stop = len(text) if stop is None else stop
    parts: list[str] = []
    at = start
    for cut in made:
        if cut.start >= at and cut.stop <= stop:
            parts += [text[at : cut.start], cut.marker]
            at = cut.stop
    parts.append(text[at:stop])
    return "".join(parts)


def trim(
    source: Source,
    depth: Depth,
    *,
    used: Collection[str] | None = None,
    keep: Callable[[int, int], bool] | None = None,
    protect: tuple[int, int] = (0, 0),
) -> tuple[str, list[Cut]]:
    """The trimmed text, and what was cut; arguments as for `cuts`."""
    made = cuts(source, depth, used=used, keep=keep, protect=protect)
    return apply(source.text, made), made


def _comment_runs(source: Source, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Comments that follow each other on lines of their own, as one; cut markers are none."""
    runs: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if source.text[start:stop] == source.language.cut_marker:
            continue
        alone = not source.text[line_start(source.text, start) : start].strip()
        if runs and alone and source.text[runs[-1][1] : start].strip() == "":
            gap = source.text.count("\n", runs[-1][1], start)
            before = runs[-1][0]
            joined = not source.text[line_start(source.text, before) : before].strip()
            if gap <= 1 and joined:
                runs[-1] = (before, stop)
                continue
        runs.append((start, stop))
    return runs


def _licence(source: Source) -> list[Cut]:
    """The first comments of the file, where they speak of a licence."""
    spans = source.spans("comments", "comment")
    runs = _comment_runs(source, [span for span in spans if span[0] < 4000])
    for start, stop in runs[:2]:
        head = [line.strip() for line in source.text[:start].split("\n")]
        first = ("#!", "<?php", source.language.cut_marker)
        if any(line and not line.startswith(first) for line in head):
            break
        if source.text.startswith("#!", start):
            start = line_end(source.text, start)  # noqa: PLW2901 - the shebang stays
        if _LICENCE.search(source.text, start, stop):
            marker = source.language.cut_marker
            return [Cut(start, stop, marker, "licence header")] if start < stop else []
    return []


def licence_end(source: Source) -> int:
    """Where the line after the licence header begins; 0 where there is no header."""
    found = _licence(source)
    return next_text_line(source.text, line_end(source.text, found[0].stop)) if found else 0


def _imports(
    source: Source,
    used: Collection[str] | None,
    expected: Collection[str],
    others: list[Cut],
) -> list[Cut]:
    """Each run of statements that bring in only unused names becomes one marker line."""
    statements: dict[tuple[int, int], list[Import]] = {}
    for one in source.outline.imports:
        statements.setdefault((one.start, one.stop), []).append(one)
    if used is None:
        gone = [Cut(start, stop, "", "") for start, stop in statements]
        used = used_names(apply(source.text, _disjoint([*others, *gone])))
    runs: list[tuple[int, int]] = []
    for (start, stop), imports in sorted(statements.items()):
        if any(not one.local or one.local in used or one.local in expected for one in imports):
            continue
        rest = line_end(source.text, stop)
        if source.text[stop:rest].lstrip(" \t;").startswith(source.language.line_comment):
            stop = rest - source.text.endswith("\n", stop, rest)  # noqa: PLW2901
        adjacent = runs and not source.text[runs[-1][1] : start].strip(" \t\r\n;")
        if adjacent and source.text.count("\n", runs[-1][1], start) <= 1:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    marker = source.language.cut_marker
    return [Cut(start, stop, marker, "imports not used near the cursor") for start, stop in runs]


def _disjoint(made: list[Cut]) -> list[Cut]:
    kept: list[Cut] = []
    for cut in sorted(made, key=lambda one: (one.start, -one.stop, len(one.marker))):
        if not kept or cut.start >= kept[-1].stop:
            kept.append(cut)
    return kept


def _boilerplate(source: Source) -> list[Cut]:
    marker = source.language.body_marker
    reasons = (("main", "start of the program"), ("accessor", "getter or setter"))
    return [
        Cut(start, stop, marker, reason)
        for capture, reason in reasons
        for start, stop in source.spans("boilerplate", capture)
    ]


def _literals(source: Source) -> list[Cut]:
    bodies = source.spans("bodies", "body")
    found = []
    for start, stop in source.spans("bodies", "literal"):
        if stop - start < _LONG_LITERAL_CHARS:
            continue
        holds_code = any(start <= body[0] and body[1] <= stop for body in bodies)
        opened = next(
            (i for i in range(start, min(start + 8, stop)) if source.text[i] in "[{("), -1
        )
        if opened >= 0 and source.text[stop - 1] in "]})" and not holds_code:
            cut = Cut(opened + 1, stop - 1, source.language.literal_marker, "long literal")
            found.append(cut)
    for start, stop in source.spans("bodies", "text"):
        if stop - start >= _LONG_TEXT_CHARS:
            kept = start + _KEPT_TEXT_CHARS
            while kept > start and "\\" in source.text[max(start, kept - 10) : kept]:
                kept -= 1
            found.append(Cut(kept, stop, "...", "long string"))
    return found


def _comments(source: Source) -> list[Cut]:
    found = []
    marker = source.language.cut_marker
    comments = source.spans("comments", "comment")
    for start, stop in _comment_runs(source, comments):
        if not source.text.startswith(("#!", "<?php"), start):
            found.append(Cut(start, stop, marker, "comment"))
    for start, stop in _comment_runs(source, source.spans("comments", "doc")):
        found.append(Cut(start, stop, _short_doc(source.text[start:stop], marker), "doc"))
    return found


def _short_doc(doc: str, marker: str) -> str:
    """The first line of a docstring or doc comment, still a whole one."""
    quoted = _QUOTED.match(doc)
    lines = [line.strip(" \t*/!'\"\r\\") for line in doc[:2000].splitlines()]
    first = next((line for line in lines if line), "...")
    if len(first) > _DOC_LINE_CHARS:
        first = "..."
    if quoted:
        body = doc[quoted.end() :].split("\n", 1)[0].strip("\"' ") if first != "..." else first
        return f"{quoted.group(1)}{quoted.group(2)}{body or first}{quoted.group(2)}"
    if doc.startswith("/*"):
        return f"/** {first} */"
    line = doc.split("\n", 1)[0].rstrip()
    return line if 3 < len(line) <= _DOC_LINE_CHARS else marker


def _bodies(source: Source, keep: Callable[[int, int], bool] | None) -> list[Cut]:
    marker = source.language.body_marker
    return [
        Cut(start, stop, marker, "body")
        for start, stop in source.spans("bodies", "body")
        if keep is None or not keep(start, stop)
    ]
