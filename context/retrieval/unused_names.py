"""What a file has made ready and uses nowhere yet, so that it is likely to come next: names that it
imports, and helpers and constants that were written before what calls for them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from context.retrieval.rank import Candidate, Relation, score
from context.syntax.chunk import signature
from context.syntax.document import Document
from context.syntax.outline import Definition, Kind, Outline
from context.syntax.parsed_text import Source
from context.syntax.text import line_start

_FEW = 6
_MANY = 300
_MOST_SHOWN = 4
_LONGEST_TEXT = 500_000
_LONGEST_SHOWN = 400
_FOR_OTHERS = ("@", "[", "export ", "pub ", "public ")  # how such a definition begins
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_WORD = re.compile(r"\w+")
_GIVEN_NAME = re.compile(r"__\w+__$|main$|test")  # the language, or a tool, calls these


def unused_definitions(text: str, outline: Outline) -> frozenset[str]:
    """Functions and values that `text` defines and uses nowhere.

    Left out is what others may use: members that are not private, what is exported or has a
    decorator (which may register it), and where public ones are many, these.
    """
    times = Counter(_WORD.findall(text[:_LONGEST_TEXT]))
    definitions = outline.definitions
    in_functions: set[int] = set()
    found = set()
    for at, one in enumerate(definitions):
        if one.parent >= 0 and (
            one.parent in in_functions or definitions[one.parent].kind is Kind.FUNCTION
        ):
            in_functions.add(at)
        elif times[one.name] == 1 and _may_wait(text, one):
            found.add(one.name)
    if len(found) > _FEW:
        found = {name for name in found if name.startswith("_")}
    return frozenset(found) if len(found) <= _FEW else frozenset()


def _may_wait(text: str, one: Definition) -> bool:
    return (
        one.kind in {Kind.FUNCTION, Kind.VALUE}
        and (one.parent < 0 or one.name.startswith("_"))
        and not _GIVEN_NAME.match(one.name)
        and not text.startswith(_FOR_OTHERS, one.start)
    )


def waiting(
    document: Document, unused: AbstractSet[str], cursor: int, shown: tuple[int, int]
) -> list[Candidate]:
    """The unused definitions outside of `shown`, as candidates: the nearest, with signatures."""
    source = document.shown_source
    if source is None:
        return []
    text = source.text
    outside = [
        one
        for one in source.outline.definitions
        if one.name in unused and not shown[0] <= one.start < shown[1]
    ]
    found = []
    for one in sorted(outside, key=lambda one: abs(one.start - cursor))[:_MOST_SHOWN]:
        start = line_start(text, one.start)
        indent = text[start : one.start] if text[start : one.start].isspace() else ""
        told = indent + _told(source, one)
        worth = score(Relation.WAITING, 1.0, 1.0)
        span = start, one.stop
        found.append(
            Candidate(
                document.root, document.path, *span, told, Relation.WAITING, worth, name=one.name
            )
        )
    return found


def _told(source: Source, one: Definition) -> str:
    """The signature of a function; of a value its first line, and what is opened there closed."""
    if one.kind is Kind.FUNCTION:
        return signature(source.text, one, source.language)[:_LONGEST_SHOWN]
    first = source.text[one.start : one.stop].split("\n", 1)[0].rstrip()[:_LONGEST_SHOWN]
    closer = _CLOSERS.get(first[-1:], "")
    return first + (source.language.literal_marker + closer if closer else "")


def unused_imports(text: str, outline: Outline) -> frozenset[str]:
    """Names that `text` imports and uses nowhere; none where they are many, as in a file that only
    passes names on."""
    names = {one.local for one in outline.imports if one.local}
    if len(names) > _MANY:
        return frozenset()  # each is searched for; in such a file nobody can tell what comes next
    spans = sorted({(one.start, one.stop) for one in outline.imports})
    found = set()
    for name in names:
        if text.count(name) <= _FEW and all(_in_import(spans, at) for at in _uses(text, name)):
            found.add(name)
    return frozenset(found) if len(found) <= _FEW else frozenset()


def _uses(text: str, name: str) -> Iterator[int]:
    """Where `name` stands as a word of its own. A search for plain text is a hundred times faster
    than one by a pattern, and files are long."""
    at = text.find(name)
    while at >= 0:
        around = text[max(0, at - 1) : at], text[at + len(name) : at + len(name) + 1]
        if not any(char.isalnum() or char == "_" for char in around):
            yield at
        at = text.find(name, at + 1)


def _in_import(spans: Sequence[tuple[int, int]], at: int) -> bool:
    """Whether an offset is in one of the statements, which are in order."""
    last = bisect_right(spans, at, key=lambda span: span[0])
    return any(start <= at < stop for start, stop in spans[max(0, last - 2) : last])
