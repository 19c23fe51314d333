"""What the index keeps of one file: its definitions as skeletons, and its text in chunks.

Chunks are cut between definitions, and inside large ones between statements. Every character
belongs to exactly one chunk, cuts are at line starts wherever the text has lines, and token counts
are exact.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import tree_sitter

from context.index.open_file import is_notebook, parsed
from context.syntax.document import Source, read
from context.syntax.language import Language, language_for
from context.syntax.secrets import masked
from context.syntax.syntax_tree import Definition, Kind, Outline
from context.syntax.text import Encoder, clean, line_start, next_text_line, pieces, terms
from context.syntax.trim import Cut, Depth, apply, cuts, is_generated

_CHUNK_TOKENS = 120
_MAX_SKELETON_CHARS = 6000
_MAX_VALUE_CHARS = 240
_MAX_CHUNKS = 4000
_CHARS_A_TOKEN = 3.5
_SMALL_SHARE = 4  # neighbours under a quarter of the limit are joined
_MAX_DEPTH = 200  # of the tree, when looking for statements


class _Estimate:
    """Sizes chunks without a vocabulary; what goes into a prompt is counted exactly then."""

    def encode(self, text: str) -> list[int]:
        return [0] * self.count(text)

    def count(self, text: str) -> int:
        return int(len(text) / _CHARS_A_TOKEN) + 1


_ESTIMATE = Encoder(_Estimate())


@dataclass(frozen=True)
class Entry:
    """A definition as the index knows it.

    Attributes:
        parent: position of the definition around it in the file's entries, or -1.
        text: its skeleton: signature, for a class with those of its members.
        start, stop: characters in the file.
    """

    name: str
    kind: str
    parent: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Passage:
    """A chunk as the index knows it; `terms` is what search sees.

    Attributes:
        imports: whether most of it brings in names: it is like code only where imports are written.
    """

    start: int
    stop: int
    text: str
    signature: str
    terms: str
    imports: bool = False


@dataclass(frozen=True)
class Digest:
    """A file, digested."""

    language: str
    generated: bool
    entries: Sequence[Entry]
    passages: Sequence[Passage]


def digest(path: str, text: str) -> Digest:
    """Digest a file. What looks like a key is masked first, so no index ever holds one."""
    language_id = ""
    if is_notebook(path):
        notebook = parsed(text)
        if notebook is None:
            return Digest("", False, (), ())
        text, language_id = notebook.text, notebook.language_id
    text = masked(clean(text))
    language = language_for(path, text, language_id)
    if language is None:
        return Digest("", False, (), _line_passages(text))
    source = read(text, language)
    if source.tree.root is None:
        return Digest(language.name, False, (), _line_passages(text))
    generated = is_generated(text)
    return Digest(language.name, generated, entries(source), () if generated else _passages(source))


def entries(source: Source) -> tuple[Entry, ...]:
    """All definitions of a source as skeletons."""
    made = cuts(source, Depth.BODIES)
    return tuple(
        Entry(one.name, one.kind, one.parent, _skeleton(source, one, made), one.start, one.stop)
        for one in source.outline.definitions
    )


def _skeleton(source: Source, one: Definition, made: list[Cut]) -> str:
    text = source.text
    start = line_start(text, one.start)
    if text[start : one.start].strip():
        start = one.start
    if one.kind is Kind.VALUE:
        return text[start : min(one.stop, start + _MAX_VALUE_CHARS)].rstrip()
    first = bisect_left(made, start, key=lambda cut: cut.start)
    last = bisect_left(made, one.stop, key=lambda cut: cut.start)
    return apply(text, made[first:last], start, one.stop)[:_MAX_SKELETON_CHARS].rstrip()


def _passages(source: Source) -> tuple[Passage, ...]:
    found = chunks(source, _ESTIMATE, _CHUNK_TOKENS)[:_MAX_CHUNKS]
    return tuple(
        Passage(one.start, one.stop, text, one.signature, terms(text), _is_imports(source, one))
        for one in found
        if (text := source.text[one.start : one.stop]).strip()
    )


def _is_imports(source: Source, chunk: Chunk) -> bool:
    imports = source.outline.imports
    first = bisect_left(imports, chunk.start, key=lambda one: one.start)
    last = bisect_left(imports, chunk.stop, key=lambda one: one.start)
    statements = {(one.start, one.stop) for one in imports[max(0, first - 1) : last]}
    chars = sum(
        max(0, min(stop, chunk.stop) - max(start, chunk.start)) for start, stop in statements
    )
    return 2 * chars > len(source.text[chunk.start : chunk.stop].strip())


def _line_passages(text: str) -> tuple[Passage, ...]:
    found = chunk_lines(text, _ESTIMATE, _CHUNK_TOKENS)[:_MAX_CHUNKS]
    return tuple(
        Passage(one.start, one.stop, part, "", terms(part))
        for one in found
        if (part := text[one.start : one.stop]).strip()
    )


@dataclass(frozen=True)
class Chunk:
    """Characters `start:stop` of a file.

    Attributes:
        tokens: exactly what the text takes as a section of a prompt.
        names: definitions that begin in it.
        signature: first lines of the definitions around its start that begin before it, so that
            one knows where a chunk from the middle of a class belongs.
    """

    start: int
    stop: int
    tokens: int
    names: tuple[str, ...] = ()
    signature: str = ""


def signature(text: str, definition: Definition, language: Language | None = None) -> str:
    """A definition without its body; with the language's marker in its place where it is given."""
    if definition.body is None or definition.kind is Kind.VALUE:
        return text[definition.start : definition.stop].rstrip()
    head = text[definition.start : definition.body[0]].rstrip()
    if language is None:
        return head
    between = "\n" + " " * 4 if language.body_marker.startswith((".", "#", "-")) else " "
    return head + between + language.body_marker


def chunks(source: Source, encoder: Encoder, max_tokens: int = 200) -> list[Chunk]:
    """All chunks of a source in order; `chunk_lines` where it has no tree."""
    root = source.tree.root
    if root is None or not source.outline.definitions:
        return chunk_lines(source.text, encoder, max_tokens, source.outline)
    strong = _definition_starts(source)
    weak = _statement_starts(source, root, max_tokens * 3)
    spans = _joined(list(_split(source.text, strong, weak, encoder, max_tokens)), max_tokens)
    return [_chunk(source.text, source.outline, start, stop, n) for start, stop, n, _ in spans]


def chunk_lines(
    text: str, encoder: Encoder, max_tokens: int = 200, outline: Outline | None = None
) -> list[Chunk]:
    """Chunks of a text without syntax: whole pieces, as many as fit."""
    spans = _fill(text, (0, len(text)), [], encoder, max_tokens)
    return [_chunk(text, outline or Outline(), start, stop, n) for start, stop, n in spans]


def _chunk(text: str, outline: Outline, start: int, stop: int, tokens: int) -> Chunk:
    definitions, starts = outline.definitions, outline.starts
    first, last = bisect_left(starts, start), bisect_left(starts, stop)
    names = tuple(one.name for one in definitions[first:last])
    around: list[str] = []
    at = first - 1
    while at >= 0:
        one = definitions[at]
        if one.stop > start and one.body is not None:
            around.append(signature(text, one)[:300])
            at = one.parent
        else:
            at = at - 1 if one.parent < 0 or one.stop <= start else one.parent
            if one.parent >= 0 and definitions[one.parent].stop <= start:
                at = one.parent
    return Chunk(start, stop, tokens, names, "\n".join(reversed(around)))


def _definition_starts(source: Source) -> list[int]:
    """Where definitions (their comments included) begin and end, at line starts; values do not."""
    cuts = {0, len(source.text)}
    for one in source.outline.definitions:
        if one.kind is Kind.VALUE or one.body is None:
            continue
        lead = line_start(source.text, one.lead)
        if not source.text[lead : one.lead].strip():
            cuts.add(lead)
        after = source.text.find("\n", one.stop)
        if after >= 0 and not source.text[one.stop : after].strip(" \t\r;,"):
            cuts.add(next_text_line(source.text, after + 1))
    return sorted(cuts)


def _statement_starts(source: Source, root: tree_sitter.Node, large_chars: int) -> list[int]:
    """Line starts at which a node of a large node's children begins."""
    at = source.at
    cuts: set[int] = set()
    pending = [(root, 0)]
    while pending:
        node, depth = pending.pop()
        for child in node.children:
            start = at.char(child.start_byte)
            begin = line_start(source.text, start)
            if not source.text[begin:start].strip():
                cuts.add(begin)
            if child.end_byte - child.start_byte > large_chars and depth < _MAX_DEPTH:
                pending.append((child, depth + 1))
    return sorted(cuts)


def _split(
    text: str, strong: list[int], weak: list[int], encoder: Encoder, max_tokens: int
) -> Iterator[tuple[int, int, int, bool]]:
    """Spans with their tokens; the last item tells whether it is a whole unit."""
    for start, stop in pairwise(strong):
        tokens = encoder.text_count(text[start:stop])
        if tokens <= max_tokens:
            yield start, stop, tokens, True
            continue
        inner = weak[bisect_right(weak, start) : bisect_left(weak, stop)]
        for first, last, count in _fill(text, (start, stop), inner, encoder, max_tokens):
            yield first, last, count, False


def _fill(
    text: str, span: tuple[int, int], cuts: list[int], encoder: Encoder, max_tokens: int
) -> list[tuple[int, int, int]]:
    """Cut a span of `text` so that each part fits, at `cuts` where possible, else at pieces."""
    start, stop = span
    spans: list[tuple[int, int, int]] = []
    wanted = set(cuts)
    begin, good, tokens, good_tokens = start, start, 0, 0
    at = start
    for piece in pieces(text[start:stop]):
        count = encoder.count(piece)
        if at in wanted or (not cuts and at > start):
            good, good_tokens = at, tokens
        if tokens + count > max_tokens and at > begin:
            if good <= begin:
                good, good_tokens = at, tokens
            spans.append((begin, good, good_tokens))
            begin, tokens, good_tokens = good, tokens - good_tokens, 0
            if tokens + count > max_tokens and at > begin:
                spans.append((begin, at, tokens))
                begin, good, tokens = at, at, 0
        tokens += count
        at += len(piece)
    if begin < stop:
        spans.append((begin, stop, tokens))
    return spans


def _joined(
    spans: list[tuple[int, int, int, bool]], max_tokens: int
) -> list[tuple[int, int, int, bool]]:
    """Join small neighbours: whole units of little size, as one-line functions and constants."""
    small = max_tokens // _SMALL_SHARE
    joined: list[tuple[int, int, int, bool]] = []
    for start, stop, tokens, whole in spans:
        if joined:
            before = joined[-1]
            fits = before[2] + tokens <= max_tokens
            if fits and whole and before[3] and (before[2] <= small or tokens <= small):
                joined[-1] = (before[0], stop, before[2] + tokens, True)
                continue
        joined.append((start, stop, tokens, whole))
    return joined
