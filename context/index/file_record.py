"""What the index keeps of one file: its definitions as skeletons, and its chunks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from context.index.open_file import is_notebook, parsed
from context.syntax.chunk import Chunk, chunk_lines, chunks
from context.syntax.document import Source, read
from context.syntax.language import language_for
from context.syntax.secrets import masked
from context.syntax.syntax_tree import Definition, Kind
from context.syntax.text import Encoder, clean, line_start, terms
from context.syntax.trim import Cut, Depth, apply, cuts, is_generated

_CHUNK_TOKENS = 120
_MAX_SKELETON_CHARS = 6000
_MAX_VALUE_CHARS = 240
_MAX_CHUNKS = 4000
_CHARS_A_TOKEN = 3.5


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
