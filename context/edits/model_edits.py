"""Next edits by a model: prompts in its family's format, and the edit in its answer. Pure.

A prompt shows the last changes and a region around the cursor, and asks for the region as it will
be. The region is part of the prompt, so it is also the draft of the answer: the engine verifies its
unchanged lines in batches. The lines around the region are chosen in steps of `_STEP_LINES`, so
most of a prompt stays the same while the cursor moves.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from context.edits import EditKind, NextEdit, Scene
from context.edits.history import Hunk, between, reverted
from context.syntax.secrets import HIDDEN, masked, masked_runs
from context.syntax.syntax_tree import ancestors
from context.syntax.text import common_ends, rewritten

GENERIC = "generic"
"""The family for models that were not trained for next edits."""

_STEP_LINES = 20
_DIFF_CONTEXT = 2
_LONGEST_CHANGE = 24
_LONGEST_REGION = 40
_LONGEST_LINE = 400
_NEAR = 5
_MOST_PROBLEMS = 3
_LONGEST_PROBLEM = 160
_TAILS = frozenset(("break", "continue", "return", "throw", "end"))
_SETTLED_LINES = 2
_SETTLED_CHARS = 12
"""In these lines together, so that blank lines and closing brackets alone settle nothing."""


@dataclass(frozen=True)
class Format:
    """How a family is prompted; see `formats.toml` for the meaning of each value."""

    name: str
    names: tuple[str, ...]
    above: int
    below: int
    changes: int
    context: int
    cursor: str
    change: str
    prompt: str
    ends: tuple[str, ...]
    confidence: float
    thresholds: Mapping[str, float]
    begins: tuple[str, ...] = ()
    unchanged: str = ""
    syntax: bool = False
    marker: str = ""
    blocks: tuple[int, ...] = ()
    file_start: str = ""


@dataclass(frozen=True)
class EditPrompt:
    """A prompt and what is needed to read its answer.

    Attributes:
        text: the whole prompt. Between the places in `plain` it is the format's own text, in which
            control tokens count as such.
        plain: ranges of `text` that come from files.
        first: the region's first line, from 0.
        lines: the region's lines, without ends.
        stop: texts that end the answer.
        starts: where the blocks start that the family marks, and the end of the last one, in lines
            of the region; empty for other families.
    """

    format: Format
    text: str
    plain: tuple[tuple[int, int], ...]
    first: int
    lines: tuple[str, ...]
    stop: tuple[str, ...]
    starts: tuple[int, ...] = ()

    @property
    def region(self) -> str:
        return "".join(line + "\n" for line in self.lines)

    def parts(self, special: Mapping[str, int]) -> list[int | str]:
        """The prompt as ids of control tokens and plain texts, in turn.

        Args:
            special: id of each control token's text; a token that is not in it is plain text.
        """
        tokens = sorted((one for one in special if one and one in self.text), key=len, reverse=True)
        found: list[int | str] = []
        start = 0
        for match in re.finditer("|".join(map(re.escape, tokens)), self.text) if tokens else ():
            if any(first <= match.start() < stop for first, stop in self.plain):
                continue
            if start < match.start():
                found.append(self.text[start : match.start()])
            found.append(special[match[0]])
            start = match.end()
        return [*found, self.text[start:]] if start < len(self.text) else found

    def ids(
        self,
        start: Sequence[int],
        special: Mapping[str, int],
        encode: Callable[[str], Sequence[int]],
    ) -> list[int]:
        """The prompt as token ids, after those that every prompt of the model starts with."""
        ids = list(start)
        for part in self.parts(special):
            ids += [part] if isinstance(part, int) else encode(part)
        return ids


@dataclass(frozen=True)
class AnswerToken:
    """A token of an answer, as far as the engine reports it: its UTF-8 and log probability."""

    data: bytes
    logprob: float


@dataclass
class Answer:
    """An answer while it is generated.

    Attributes:
        tokens: those that were generated, where the engine reports them.
        settled: the first change is over: some lines after it are as they were. The rest of the
            region is taken as it is, and nothing more has to be generated.
    """

    prompt: EditPrompt
    text: str = ""
    tokens: list[AnswerToken] = field(default_factory=list)
    settled: bool = False

    def add(self, text: str, tokens: Sequence[AnswerToken] = ()) -> bool:
        """Add what was generated; whether the answer is settled now."""
        self.text += text
        self.tokens += tokens
        if "\n" in text and not self.settled:
            whole = _settled(self.prompt, self.text)
            if whole is not None:
                self.text, self.settled = whole, True
        return self.settled


@dataclass
class _Writer:
    """A text that is put together, with the places that come from files."""

    parts: list[str] = field(default_factory=list)
    plain: list[tuple[int, int]] = field(default_factory=list)
    length: int = 0

    def add(self, text: str, *, plain: bool) -> None:
        if plain and text:
            self.plain.append((self.length, self.length + len(text)))
        self.parts.append(text)
        self.length += len(text)

    def fill(self, template: str, values: Mapping[str, str], nested: Mapping[str, _Writer]) -> None:
        """Add a template with its fields filled in, by files' texts or by what was written."""
        for number, part in enumerate(_split(template)):
            if number % 2 == 0:
                self.add(part, plain=False)
            elif part in nested:
                other = nested[part]
                self.plain += [(self.length + a, self.length + b) for a, b in other.plain]
                self.add("".join(other.parts), plain=False)
            else:
                self.add(values[part], plain=True)


@cache
def formats() -> Mapping[str, Format]:
    """The formats of all families, by name."""
    text = resources.files(__package__).joinpath("formats.toml").read_text("utf-8")
    return MappingProxyType({name: _format(name, one) for name, one in tomllib.loads(text).items()})


def format_for(model: str) -> Format | None:
    """The format that a model was trained on, by its name; None for one without next edits."""
    name = model.lower().replace("_", "-").replace(" ", "-")
    for one in formats().values():
        if any(part.replace("_", "-") in name for part in one.names):
            return one
    return None


def prompt_for(
    scene: Scene, form: Format, budget_tokens: int, count: Callable[[str], int]
) -> EditPrompt | None:
    """The prompt for a scene, at most `budget_tokens` long.

    None where nothing was edited, where the region holds a secret or overlong lines, and where not
    even the region with one change fits.
    """
    hunks = [hunk for hunk in scene.hunks if not hunk.stale][-form.changes :]
    if not hunks:
        return None
    shown = scene.document.shown_text.split("\n")
    if len(shown) != len(scene.lines):
        return None
    first, stop = _region(scene, form)
    lines = tuple(shown[first:stop])
    if any(HIDDEN in line or len(line) > _LONGEST_LINE for line in lines):
        return None
    context = form.context
    while True:
        prompt = _written(scene, form, hunks, shown, region=(first, stop), context=context)
        if count(prompt.text) <= budget_tokens:
            return prompt
        if context:
            context //= 2
        elif len(hunks) > 1:
            hunks = hunks[1:]
        else:
            return None


def edit_in(prompt: EditPrompt, answer: str, scene: Scene) -> NextEdit | None:
    """The edit that a whole answer stands for; None where it changes nothing or cannot be read."""
    found = _new_lines(prompt, answer)
    if found is None:
        return None
    made = between(prompt.lines, found)
    if made is None:
        return None
    at, old, new = made
    if new:
        new = tuple(rewritten("\n".join(new), "\n".join(old)).split("\n"))
        if new == old:
            return None
    first = prompt.first + at
    start = scene.starts[first] if first < len(scene.starts) else len(scene.text)
    if old:
        stop = scene.starts[first + len(old) - 1] + len(old[-1])
        if new:
            return NextEdit(start, stop, "\n".join(new), EditKind.MODEL)
        if stop < len(scene.text):
            return NextEdit(start, stop + 1, "", EditKind.MODEL)
        return NextEdit(max(start - 1, 0), stop, "", EditKind.MODEL)
    if first < len(scene.starts):
        return NextEdit(start, start, "".join(line + "\n" for line in new), EditKind.MODEL)
    return NextEdit(start, start, "".join("\n" + line for line in new), EditKind.MODEL)


def confidence(found: Answer) -> float:
    """The geometric mean of the probabilities of the tokens that differ from the region, 0 to 1.

    Where a part of the region was deleted, the token after it counts. The format's own value where
    the engine reports no tokens.
    """
    prompt, tokens = found.prompt, found.tokens
    if not tokens:
        return prompt.format.confidence
    generated = b"".join(one.data for one in tokens)
    for mark in prompt.stop:
        generated = generated.split(mark.encode(), 1)[0]
    answer = generated.decode("latin-1")  # a character for each byte
    head, kept, tail = _kept(prompt, answer, whole=not found.settled)
    before = "".join(line + "\n" for line in prompt.lines[:head]).encode()
    if found.settled:
        new = _region_in(prompt, found.text).encode()
    else:
        after = "".join(line + "\n" for line in prompt.lines[tail:]).encode()
        new = before + b"".join(generated[a:b] for a, b in kept) + after
    new = new.rstrip(b"\n")
    start, end = common_ends(prompt.region.encode().rstrip(b"\n"), new)
    first = _place_in(kept, start - len(before))
    last = max(_place_in(kept, max(len(new) - end, start + 1) - len(before)), first + 1)
    changed, at = [], 0
    for one in tokens:
        if at < last and at + len(one.data) > first:
            changed.append(one.logprob)
        at += len(one.data)
    changed = changed or [tokens[-1].logprob]
    return min(1.0, math.exp(sum(changed) / len(changed)))


def _place_in(kept: Sequence[tuple[int, int]], offset: int) -> int:
    """Where an offset in the kept parts of an answer is in the answer."""
    for start, stop in kept:
        if offset <= stop - start:
            return start + max(offset, 0)
        offset -= stop - start
    return (kept[-1][1] if kept else 0) + offset


def answer_tokens(prompt: EditPrompt, count: Callable[[str], int]) -> int:
    """The longest answer to wait for: the region and as much again, and the marks around it."""
    return 2 * count(prompt.region) + 32


def _written(
    scene: Scene,
    form: Format,
    hunks: Sequence[Hunk],
    shown: Sequence[str],
    *,
    region: tuple[int, int],
    context: int,
) -> EditPrompt:
    """The prompt with at most `context` lines around the region."""
    first, stop = region
    lines = tuple(shown[first:stop])
    half = context // 2
    top = max(0, (first - half) // _STEP_LINES * _STEP_LINES) if context else first
    bottom = min(len(shown), -(-(stop + half) // _STEP_LINES) * _STEP_LINES) if context else stop
    ticks = "`````" if any("```" in line for line in shown[top:bottom]) else "```"
    cursor_line = scene.line_of(scene.cursor) - first
    column = scene.cursor - scene.starts[scene.line_of(scene.cursor)]
    marked = list(lines)
    if form.cursor and 0 <= cursor_line < len(marked):
        line = marked[cursor_line]
        marked[cursor_line] = line[:column] + form.cursor + line[column:]
    before = reverted(scene.lines, hunks[-1:])
    change = hunks[-1]
    grown = len(change.old) - len(change.new) if first <= change.first < stop else 0
    original = before[first : stop + grown] if before is not None else list(scene.lines[first:stop])
    path = scene.document.shown_path
    changes = _Writer()
    for hunk in hunks:
        changes.fill(form.change, _change(path, hunk, shown), {})
    values = {
        "path": path,
        "line": str(first + 1),
        "stop": str(stop),
        "file": _text(shown[top:bottom]),
        "before": _text(shown[top:first]),
        "after": _text(shown[stop:bottom]),
        "original": masked(_text(original)),
        "region": _text(lines),
        "marked": _text(marked),
        "problems": _problems(scene, region),
        "fence": ticks,
    }
    starts = _block_starts(lines, *form.blocks) if form.blocks else ()
    blocks = _Writer()
    for number, start in enumerate(starts, 1):
        blocks.add(form.marker.replace("{}", str(number)), plain=False)
        block_stop = starts[number] if number < len(starts) else start
        blocks.add(_text(marked[start:block_stop]), plain=True)
    head = _Writer()
    head.add(form.file_start if not top else "", plain=False)
    writer = _Writer()
    writer.fill(form.prompt, values, {"changes": changes, "blocks": blocks, "head": head})
    ends = tuple(end.replace("{fence}", ticks) for end in form.ends)
    plain = tuple(writer.plain)
    return EditPrompt(form, "".join(writer.parts), plain, first, lines, ends, starts)


def _block_starts(lines: Sequence[str], least: int, most: int) -> tuple[int, ...]:
    """Where a region is cut into blocks, and its end: after blank lines once a block has `least`
    lines, and in any case after `most`; a block does not begin with what ends the one before."""
    found = [0]
    at = 1
    while at < len(lines):
        count = at - found[-1]
        after_blank = bool(lines[at].strip()) and not lines[at - 1].strip()
        near = range(at, min(at + _NEAR, len(lines)))
        place = next((one for one in near if _begins_block(lines[one])), at)
        parted = count >= least and after_blank and len(lines) - place >= least
        if parted or count >= most:
            found.append(place)
            at = place
        at += 1
    return (*found, len(lines))


def _begins_block(line: str) -> bool:
    text = line.strip()
    return bool(text) and text[0] not in ")]}" and text.rstrip(";") not in _TAILS


def _kept(
    prompt: EditPrompt, answer: str, *, whole: bool
) -> tuple[int, list[tuple[int, int]], int]:
    """The parts of an answer that are lines: how many lines of the region stand before them, the
    ranges of `answer`, and from which line of the region on it goes on after them.

    Args:
        whole: the answer has ended: its last mark says where it stops.
    """
    form, count = prompt.format, len(prompt.lines)
    pattern = re.escape(form.marker).replace(r"\{\}", r"(\d{1,3})")
    marks = list(re.finditer(pattern, answer)) if form.marker else []
    if not marks:
        return 0, [(len(_begin(form, answer)), len(answer))], count
    numbers = [int(mark[1]) for mark in marks]
    if not all(1 <= number <= len(prompt.starts) for number in numbers):
        return count, [], count
    first, last = (prompt.starts[numbers[at] - 1] for at in (0, -1))
    at = marks[0].end()
    if answer[at : at + 1] == "\n" and (first == count or prompt.lines[first].strip()):
        at += 1  # the region has no blank line there
    kept = []
    for mark in marks[1:]:
        kept.append((at, mark.start()))
        at = mark.end()
    if not whole or len(marks) == 1:
        return first, [*kept, (at, len(answer))], count
    return (first, kept, last) if first < last else (count, [], count)


def _region_in(prompt: EditPrompt, answer: str, *, whole: bool = True) -> str:
    """The region as an answer has it, without what encloses it and marks its blocks."""
    first, kept, last = _kept(prompt, answer, whole=whole)
    before, after = prompt.lines[:first], prompt.lines[last:]
    text = "".join(answer[start:stop] for start, stop in kept)
    return "".join(f"{line}\n" for line in before) + text + "".join(f"{line}\n" for line in after)


def _problems(scene: Scene, region: tuple[int, int]) -> str:
    """What the editor reports near the region, the nearest first; empty for nothing."""
    first, stop = region
    line = scene.line_of(scene.cursor)
    near = [one for one in scene.problems if first - _NEAR <= one.line < stop + _NEAR]
    near.sort(key=lambda one: abs(one.line - line))
    rows = [
        f"line {one.line + 1}: {' '.join(one.message.split())[:_LONGEST_PROBLEM]}"
        for one in near[:_MOST_PROBLEMS]
    ]
    return masked("Problems that the editor reports:\n" + _text(rows) + "\n") if rows else ""


def _change(path: str, hunk: Hunk, shown: Sequence[str]) -> dict[str, str]:
    """What a change looked like: as a unified hunk, and as the lines before and after."""
    start = max(0, hunk.first - _DIFF_CONTEXT)
    end = min(len(shown), hunk.stop + _DIFF_CONTEXT)
    head, tail = list(shown[start : hunk.first]), list(shown[hunk.stop : end])
    old = masked("\n".join(hunk.old[:_LONGEST_CHANGE])).split("\n") if hunk.old else []
    new = masked("\n".join(hunk.new[:_LONGEST_CHANGE])).split("\n") if hunk.new else []
    around = len(head) + len(tail)
    count_old, count_new = around + len(old), around + len(new)
    rows = [f"@@ -{start + 1},{count_old} +{start + 1},{count_new} @@"]
    rows += [" " + line for line in head]
    rows += ["-" + line for line in old] + ["+" + line for line in new]
    rows += [" " + line for line in tail]
    return {
        "path": path,
        "diff": _text(rows),
        "old": _text([*head, *old, *tail]),
        "new": _text([*head, *new, *tail]),
    }


def _region(scene: Scene, form: Format) -> tuple[int, int]:
    """First line of the region and the line after it."""
    line = scene.line_of(scene.cursor)
    first = max(0, line - form.above)
    last = len(scene.lines)
    if not scene.lines[-1] and line < last - 1:
        last -= 1  # what follows the last line end is no line
    stop = min(last, line + form.below + 1)
    root = scene.source.tree.root
    if not form.syntax or root is None:
        return first, stop
    node = root.descendant_for_point_range((line, 0), (line, 0))
    for parent in list(ancestors(node))[:-1] if node is not None else ():
        if parent.end_point.row - parent.start_point.row >= _LONGEST_REGION:
            break
        node = parent
    if node is None or node.end_point.row - node.start_point.row >= _LONGEST_REGION:
        return first, stop
    return min(first, node.start_point.row), max(
        stop, min(node.end_point.row + 1, len(scene.lines))
    )


def _new_lines(prompt: EditPrompt, answer: str) -> list[str] | None:
    """The region's new lines in an answer."""
    form = prompt.format
    text = answer.replace("\r\n", "\n")
    for end in prompt.stop:
        text = text.split(end, 1)[0]
    text = _region_in(prompt, text)
    if form.cursor:
        text = text.replace(form.cursor, "")
    if form.unchanged and text.strip() == form.unchanged:
        return None
    lines = text.removesuffix("\n").split("\n")
    empty = len(lines) == 1 and not lines[0].strip()
    return None if empty and len(prompt.lines) > 1 else lines


def _settled(prompt: EditPrompt, answer: str) -> str | None:
    """The whole answer, once `_SETTLED_LINES` lines after its first change are as they were; None
    before that."""
    form = prompt.format
    begin = _begin(form, answer)
    if form.marker and (not begin or not prompt.lines[0].strip()):
        begin = form.begins[-1]
    made = tuple(_region_in(prompt, answer, whole=False).split("\n")[:-1])
    old = prompt.lines
    first, _ = common_ends(old, made)
    tail = made[-_SETTLED_LINES:]
    if len(made) - first <= _SETTLED_LINES or sum(map(len, map(str.strip, tail))) < _SETTLED_CHARS:
        return None
    for at in range(first, len(old) - _SETTLED_LINES + 1):
        if old[at : at + _SETTLED_LINES] == tail:
            rest = old[at + _SETTLED_LINES :]
            return begin + "".join(line + "\n" for line in (*made, *rest))
    return None


def _begin(form: Format, answer: str) -> str:
    """What stands before the region in an answer."""
    return next((mark for mark in form.begins if answer.startswith(mark)), "")


def _text(lines: Sequence[str]) -> str:
    return masked_runs("".join(line + "\n" for line in lines))


@cache
def _split(template: str) -> tuple[str, ...]:
    """Text and names of fields in turn; the first and the last are text."""
    parts: list[str] = []
    rest = template
    while True:
        before, brace, after = rest.partition("{")
        if not brace:
            return (*parts, before)
        name, _, rest = after.partition("}")
        parts += [before, name]


def _format(name: str, values: Mapping[str, Any]) -> Format:
    known: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in values.items()
    }
    return Format(name=name, **known)
