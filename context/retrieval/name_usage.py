"""Names without their other half: used but not defined, imported or defined but not used.

The first are missing and may be defined next; the second are likely to be used next.
"""

from __future__ import annotations

import builtins
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import tree_sitter

from context.index.file_record import signature
from context.retrieval import Candidate, Relation, score
from context.syntax.document import Document, Source
from context.syntax.syntax_tree import Definition, Kind, Outline
from context.syntax.text import byte_offset, line_end, line_start
from context.syntax.trim import used_names

_MOST = 3
_REACH_CHARS = 8000  # how far below the cursor is looked
_LONGEST_LINE = 160
_LONGEST_NAME = 40
_GIVEN = frozenset(dir(builtins))  # of Python; in other languages these do no harm
_DECLARE = "for|as|def|class|fn|func|let|var|const|import|global|nonlocal"
_OWNER = re.compile(r"[\w$]*$")
_OWN_NAME = re.compile(r"_{0,2}[^\W\d_A-Z](?!\w*__$)")  # no class, no constant, no `__dict__`
_CONSTRUCTORS = ("__init__", "__new__", "constructor", "initialize")


def missing(document: Document, cursor: int, shown: int) -> list[Candidate]:
    """Lines at or after `shown` with the first uses of such names, as candidates.

    Args:
        cursor: a name counts if nothing binds it in the function around the cursor; or, as a
            member of `self`, nothing in the class around it, and in a constructor nothing in that.
        shown: where the text that the model sees anyway ends; names used before that are left out.
    """
    source = document.shown_source
    if source is None:
        return []
    uses = {**_plain(source, cursor, shown), **_members(source, cursor, shown)}
    found: dict[tuple[int, int], Candidate] = {}
    for name, at in sorted(uses.items(), key=lambda one: one[1])[:_MOST]:
        span = line_start(source.text, at), line_end(source.text, at)
        if span not in found and span[1] - span[0] <= _LONGEST_LINE:
            worth = score(Relation.MISSING, 1.0, 1.0)
            text = source.text[slice(*span)].rstrip()
            found[span] = Candidate(
                document.root, document.path, *span, text, Relation.MISSING, worth, name
            )
    return list(found.values())


def _plain(source: Source, cursor: int, shown: int) -> dict[str, int]:
    """Variables of the function around the cursor, and where each is used first."""
    around = source.outline.enclosing(cursor)
    scopes = [one for one in around if one.kind is Kind.FUNCTION]
    if not scopes:
        return {}
    inner = scopes[-1]
    known = used_names(source.text[scopes[0].start : shown]) | _GIVEN
    known |= {one.name for one in source.outline.definitions}
    known |= {one.local for one in source.outline.imports}
    body = source.text[inner.start : inner.stop]
    return {
        name: at
        for name, at, owner in _undefined_uses(
            source, shown, min(inner.stop, cursor + _REACH_CHARS)
        )
        if owner is None and name not in known and not _binds(body, name)
    }


def _members(source: Source, cursor: int, shown: int) -> dict[str, int]:
    """Members of the class around the cursor, and where each is used first."""
    around = source.outline.enclosing(cursor)
    scopes = [one for one in around if one.kind is Kind.CLASS]
    if not scopes:
        return {}
    inner = scopes[-1]
    # After the last statement of a function one still stands in it, whatever the tree says.
    around = source.outline.enclosing(len(source.text[:cursor].rstrip()))
    setter = next((one for one in around if _constructs(one, inner)), inner)
    known = used_names(source.text[cursor:shown])
    known |= {one.name for one in source.outline.definitions}
    own = source.language.self_names
    return {
        name: at
        for name, at, owner in _undefined_uses(
            source, shown, min(inner.stop, cursor + _REACH_CHARS)
        )
        if owner in own and name not in known and not _sets(source, setter, name)
    }


def _constructs(one: Definition, scope: Definition) -> bool:
    """Whether a function makes the members of a class that it stands in."""
    return one.kind is Kind.FUNCTION and one.name in (*_CONSTRUCTORS, scope.name)


def _binds(text: str, name: str) -> bool:
    """Whether a function's text gives the name a value, by assignment or declaration."""
    word = rf"\b{re.escape(name)}\b"
    assigned = rf"(?<![.\w]){word}\s*(?:[:,][^=\n]{{0,200}})?:?=(?!=)"
    return re.search(rf"{assigned}|\b(?:{_DECLARE})\b[^\n:=]{{0,200}}{word}", text) is not None


def _sets(source: Source, scope: Definition, name: str) -> bool:
    """Whether the text of a class, or of a part of it, gives the member a value."""
    own = "|".join(map(re.escape, source.language.self_names))
    pattern = rf"\b(?:{own})\.{re.escape(name)}\s*(?:[:,][^=\n]{{0,200}})?=(?!=)"
    return re.search(pattern, source.text[scope.start : scope.stop]) is not None


def _undefined_uses(source: Source, start: int, stop: int) -> Iterator[tuple[str, int, str | None]]:
    """First uses in a range, but for calls: the name, where, and whose member it is, if any."""
    root, text = source.tree.root, source.text
    if root is None or start >= stop:
        return
    told = set()
    for node in _leaves(root, byte_offset(text, start), byte_offset(text, stop)):
        at = source.at.char(node.start_byte)
        name = text[at : source.at.char(node.end_byte)]
        owner = None
        if at and text[at - 1] == ".":
            found = _OWNER.search(text[max(0, at - 1 - _LONGEST_NAME) : at - 1])
            owner = found.group() if found is not None else ""
        called = text.startswith("(", at + len(name))
        if _OWN_NAME.match(name) and not called and (name, owner) not in told:
            told.add((name, owner))
            yield name, at, owner


def _leaves(root: tree_sitter.Node, start_byte: int, stop_byte: int) -> Iterator[tree_sitter.Node]:
    """Identifiers within a range of bytes, in order."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.end_byte <= start_byte or node.start_byte >= stop_byte:
            continue
        if node.child_count:
            waiting += reversed(node.children)
        elif node.type.endswith("identifier") and node.start_byte >= start_byte:
            yield node


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
