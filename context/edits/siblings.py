"""Give similar lines the change that others received.

From two changed lines a pattern is learned: the tokens around the change that both share, with
places where they differ. Lines that fit the pattern get the same change, and tokens that were
copied from a differing place are copied again. What was changed in parameters only is offered in
parameters only, and the reverse. Where a name or value is put in that was not there, two lines are
enough if nothing else was edited in the file, and for lines that were the same as one of them;
otherwise the edit is not sure until a third one is changed. One literal in place of another is put
only into lines that were the same.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import tree_sitter

from context.edits import EditKind, NextEdit, Scene
from context.edits.history import LONGEST_LINE, is_identifier, opcodes, replacements, tokens
from context.edits.names import Binding, Scopes, scopes_of
from context.syntax.syntax_tree import ancestors

_MOST_PAIRS = 24
_FEWEST_FIXED = 3
"""Tokens that both examples share, blanks and punctuation not counted half."""
_MOST_LINES = 20_000
_MOST_OFFERED = 200
_MANY = 2
_ENOUGH = 3
"""Changed lines after which a new name or value is put into lines that are only similar."""
_UNSURE = 0.4
"""How sure that is after two: in releases of packages six of seven are right."""
_SHORTEST_NAME = 2
_CONSTANTS = frozenset(
    ("None", "True", "False", "null", "true", "false", "nil", "undefined", "nullptr", "NULL")
)
_COMMENTS = ("#", "//", "/*", "<!--")

_STATEMENTS = ("statement", "definition", "declaration", "item", "block", "body", "module")
_SCALARS = frozenset(
    ("str", "bytes", "int", "float", "complex", "bool", "string", "number", "boolean", "bigint")
)
_BODIES = ("body", "consequence")
_LOOPS = ("for_", "while_", "do_", "enhanced_for_", "foreach_", "loop_")
_HANDLERS = frozenset(("except_clause", "catch_clause"))

_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_START, _STOP = "\x02", "\x03"


@dataclass(frozen=True)
class Example:
    """A changed line: its tokens before, the range of them that was replaced, and by what.

    Attributes:
        column: where the replaced tokens start in the line.
    """

    line: int
    column: int
    tokens: tuple[str, ...]
    start: int
    stop: int
    new: tuple[str, ...]

    @property
    def text(self) -> str:
        """The line before, without its indent."""
        return "".join(self.tokens[1:-1])

    @property
    def end(self) -> int:
        """The column after what was put in."""
        return self.column + sum(map(len, self.new))


_Place = tuple[int, int, int, str]
"""A line, columns of it, and what they become."""


@dataclass(frozen=True)
class Pattern:
    """What a line must contain, and what part of it becomes.

    Attributes:
        fixed: tokens; None where the examples differ.
        kinds: for each place that differs, what kind of token stands there.
        start, stop: the part that is replaced.
        new: tokens; a number means the token at that place of the match.
    """

    fixed: tuple[str | None, ...]
    kinds: tuple[str, ...]
    start: int
    stop: int
    new: tuple[str | int, ...]


@dataclass(frozen=True)
class _Change:
    """A change that two examples have in common.

    Attributes:
        like: the examples that were lines of the pattern.
    """

    pattern: Pattern
    newest: Example
    other: Example
    like: tuple[Example, ...]

    def edits(
        self, scene: Scene, scopes: Callable[[], Scopes | None], places: Sequence[_Place]
    ) -> list[NextEdit]:
        """The same change in the places that lie ahead, in the order in which to offer them; none
        if lines that look so were left as they are."""
        ahead = [one for one in places if _is_ahead(self.newest, self.other, one[0])]
        passed, pattern = len(places) - len(ahead), self.pattern
        if passed >= (1 if pattern.start == pattern.stop else _MANY * len(self.like)):
            return []
        longest = max(map(len, scene.lines))
        edits = [
            NextEdit(first + start, first + stop, text, EditKind.SIBLING)
            for number, start, stop, text in ahead
            if len(scene.lines[number]) - (stop - start) + len(text) <= longest
            for first in (scene.starts[number],)
        ]
        return [
            edit
            for edit in scene.nearest(edits)[:_MOST_OFFERED]
            if _is_at_hand(scene, scopes(), pattern, self.newest.line, edit)
        ]


def find(scene: Scene) -> list[NextEdit]:
    """The lines that are left to change, in the order in which to offer them."""
    examples = list(_examples(scene))[:_MOST_PAIRS]
    changed = {one.line for one in examples}
    scopes = functools.cache(lambda: scopes_of(scene.source))
    unsure: list[NextEdit] = []
    for newest, other in _pairs(examples):
        pattern = learned(newest, other)
        if pattern is None or not _holds(scene, pattern):
            continue
        like = tuple(one for one in examples if any(_in_line(one.text, pattern)))
        change = _Change(pattern, newest, other, like)
        where = {_position(scene, one.line, one.column, one.end) for one in like}
        fitting = [
            one for one in _matches(scene, pattern, changed) if _position(scene, *one[:3]) in where
        ]
        few = (
            len(like) < _ENOUGH
            and _brings_something_new(newest, pattern)
            and not _only_these_changed(scene, like)
        )
        texts = {one.text for one in like}
        same = [one for one in fitting if scene.lines[one[0]].strip() in texts]
        found = change.edits(scene, scopes, same if few or _is_literal(pattern) else fitting)
        if found:
            return found
        if few and not unsure:
            found = change.edits(scene, scopes, fitting)
            unsure = [replace(edit, confidence=_UNSURE) for edit in found]
    return unsure


def _pairs(examples: Sequence[Example]) -> Iterator[tuple[Example, Example]]:
    """The two newest examples with each older one: only what was done last goes on."""
    for at, newest in enumerate(examples[:2]):
        for other in examples[at + 1 :]:
            yield newest, other


def _position(scene: Scene, line: int, start: int, stop: int) -> tuple[str, ...]:
    """Where columns of a line stand in the syntax: the kinds of the nodes around them and their
    neighbours up to their statement, whether that has several lines without its body, and the kinds
    of the definitions that this is in. The same before and after a change, since only what is
    around it counts."""
    root, text = scene.source.tree.root, scene.lines[line]
    if root is None:
        return ()
    first_column, last_column = len(text) - len(text.lstrip()), len(text.rstrip())
    if stop >= last_column:
        stop = start - 1  # what ends a line has a neighbour on one side only
    elif start <= first_column:
        start = stop + 1
    start, stop = max(start - 1, first_column), min(stop + 1, last_column)
    first, last = (len(text[:column].encode("utf-8", "replace")) for column in (start, stop))
    node = root.descendant_for_point_range((line, first), (line, last))
    found: list[str] = []
    in_statement = True
    for one in (node, *ancestors(node)) if node is not None else ():
        is_definition = one.child_by_field_name("name") and one.child_by_field_name("body")
        if in_statement or is_definition:
            found.append(one.type)
        if in_statement and one.type.endswith(_STATEMENTS):
            in_statement = False
            found += ["in lines"] * (_last_line_of_head(one) > one.start_point[0])
    return tuple(found)


def _last_line_of_head(statement: tree_sitter.Node) -> int:
    """The last line of a statement, without its body if it has one."""
    for field in _BODIES:
        body = statement.child_by_field_name(field)
        before = body.prev_sibling if body is not None else None
        if before is not None:
            return before.end_point[0]
    return statement.end_point[0]


def _examples(scene: Scene) -> Iterator[Example]:
    """Lines that were changed in one place, the newest first."""
    for hunk in reversed(scene.hunks):
        if len(hunk.old) != len(hunk.new):
            continue
        for line, old, new in reversed(list(hunk.pairs())):
            if line < len(scene.lines) and scene.lines[line] == new:
                found = _example(line, old, new)
                if found is not None:
                    yield found


def _example(line: int, old: str, new: str) -> Example | None:
    if max(len(old), len(new)) > LONGEST_LINE:
        return None
    before = [_START, *tokens(old.strip()), _STOP]
    after = [_START, *tokens(new.strip()), _STOP]
    if old.strip() == new.strip():
        return None
    changes = [one for one in opcodes(before, after) if one[0] != "equal"]
    start, stop = changes[0][1], changes[-1][2]
    made = after[changes[0][3] : changes[-1][4]]
    column = len(new) - len(new.lstrip()) + sum(map(len, before[1:start]))
    return Example(line, column, tuple(before), start, stop, tuple(made))


def learned(one: Example, other: Example) -> Pattern | None:
    """The pattern of two examples; None where they are not the same change, or say too little."""
    if one.stop - one.start != other.stop - other.start or one.line == other.line:
        return None
    left = _common(one.tokens[: one.start][::-1], other.tokens[: other.start][::-1])
    right = _common(one.tokens[one.stop :], other.tokens[other.stop :])
    first, last = one.start - left, one.stop + right
    mine = one.tokens[first:last]
    theirs = other.tokens[other.start - left : other.stop + right]
    if any(_kind(a) != _kind(b) for a, b in zip(mine, theirs, strict=True)):
        return None
    fixed = tuple(a if a == b else None for a, b in zip(mine, theirs, strict=True))
    new = _new(one, other, mine, theirs)
    if new is None or _weight(fixed) < _FEWEST_FIXED:
        return None
    gone = "".join(one.tokens[one.start : one.stop]).strip()
    around = fixed if gone else mine
    around = (*around[:left], *around[len(mine) - right :])
    values = [*one.tokens[one.start : one.stop], *one.new]
    if not any(map(_is_word, values)) and not any(map(_is_word, filter(None, around))):
        return None  # one value for another, and no name that both lines have says where
    kinds = tuple(_kind(token) for token in mine)
    start = one.start - first
    pattern = Pattern(fixed, kinds, start, start + one.stop - one.start, new)
    if _is_personal(one, pattern):
        return None
    if not _names_its_call(one, first):
        return None
    if _is_wrapped(one):
        return None
    replaced = pattern.fixed[pattern.start : pattern.stop]
    if None in replaced and not any(isinstance(token, int) for token in new):
        return None  # anything would be overwritten
    return pattern


def _is_wrapped(one: Example) -> bool:
    """Whether all that was replaced is now an argument of a call: whether another value needs the
    call too depends on what it is."""
    old, new = one.tokens[one.start : one.stop], one.new
    return bool(old) and new[-1:] == (")",) and new[-len(old) - 2 :] == ("(", *old, ")")


def _holds(scene: Scene, pattern: Pattern) -> bool:
    """Whether every changed line that the pattern fits became what it says, and what it replaces
    became nothing else anywhere.

    One that became something else shows that what the pattern sees does not decide the change.
    """
    replaced, put = pattern.fixed[pattern.start : pattern.stop], pattern.new
    for hunk in scene.hunks:
        if len(hunk.old) != len(hunk.new):
            continue
        for _, old, new in hunk.pairs():
            if max(len(old), len(new)) > LONGEST_LINE:
                continue
            found = list(_in_line(old, pattern))
            if len(found) == 1:
                start, stop, text = found[0]
                if (old[:start] + text + old[stop:]).strip() != new.strip():
                    return False
            elif len(replaced) == 1 and any(
                one.old == replaced and len(one.new) == 1 and one.new != put
                for one in replacements(old, new)
            ):
                return False
    return True


def _is_ahead(newest: Example, other: Example, line: int) -> bool:
    """Whether a line lies further on in the direction in which the examples were changed. What lies
    behind was passed by without the change."""
    return line > newest.line if newest.line > other.line else line < newest.line


def _is_at_hand(
    scene: Scene, scopes: Scopes | None, pattern: Pattern, example: int, edit: NextEdit
) -> bool:
    """Whether the names that are put in, or stand alone now, mean something in a line too: those of
    a function are bound in the line's function, in no loop that the line is not in, and exceptions
    are caught around it as around an example."""
    root, at = scene.source.tree.root, edit.start
    made = [scene.text[at - 1 : at], *tokens(edit.text)]
    names = {b for a, b in itertools.pairwise(made) if a != "." and is_identifier(b)}
    names |= {one for one in _bared(pattern) if is_identifier(one)}
    if root is None or scopes is None or not names:
        return True
    line = bisect.bisect_right(scene.starts, at) - 1
    if not names & _caught(scene, root, example) <= _caught(scene, root, line):
        return False
    leaf = scopes.leaf_at(at, at)
    if leaf is None:
        return True
    implicit = scene.source.language.implicit_self
    around = {one.id for one in (leaf, *ancestors(leaf))}
    for name in names:
        bound = [one for one in scopes.binds(name) if implicit or not one.member]
        own = [one for one in bound if not one.top_level and not one.member]
        known = (one.scope.id in around and _in_its_loops(scopes, one, around) for one in own)
        if own and len(own) == len(bound) and not any(known):
            return False
    return True


def _in_its_loops(scopes: Scopes, binding: Binding, around: AbstractSet[int]) -> bool:
    """Whether every loop that a binding is in is around a place too: the ids of the nodes there."""
    node = scopes.leaf_at(binding.start, binding.start + len(binding.name))
    for one in ancestors(node) if node is not None else ():
        if one.id == binding.scope.id:
            break
        if one.type.startswith(_LOOPS) and one.id not in around:
            return False
    return True


def _is_literal(pattern: Pattern) -> bool:
    """Whether one literal takes the place of another: it belongs to its line."""
    old = pattern.fixed[pattern.start : pattern.stop]
    both = [*old, *pattern.new]
    return bool(old) and all(
        isinstance(one, str) and _kind(one) in {"constant", "number", "string"} for one in both
    )


def _only_these_changed(scene: Scene, like: Sequence[Example]) -> bool:
    """Whether nothing else was edited: every hunk of the file has one of these examples."""
    return all(any(hunk.first <= one.line < hunk.stop for one in like) for hunk in scene.hunks)


def _brings_something_new(one: Example, pattern: Pattern) -> bool:
    """Whether a change brings in a name or a value that the lines did not have, not only spelled in
    another way."""
    old = one.tokens[one.start : one.stop]
    known = {word.casefold() for token in old for word in (token, *re.findall(r"\w+", token))}
    new = [token for token in pattern.new if isinstance(token, str) and not token.isspace()]
    values = [token for token in new if _kind(token) not in {"other", "constant"}]
    if all(_kind(token) == "constant" for token in new):
        values = new
    return any(value.strip("\"'").casefold() not in known for value in values)


def _bared(pattern: Pattern) -> Iterator[str]:
    """The name that stands alone once its owner is taken away, as `a` when `b.a` becomes `a`."""
    taken = pattern.fixed[pattern.start : pattern.stop]
    after = pattern.fixed[pattern.stop : pattern.stop + 1]
    if not pattern.new and taken and taken[-1] == "." and after and after[0] is not None:
        yield after[0]


def _caught(scene: Scene, root: tree_sitter.Node, line: int) -> set[str]:
    """The names of the exceptions that are handled in a line."""
    text = scene.lines[line]
    point = line, len(text[: len(text) - len(text.lstrip())].encode("utf-8", "replace"))
    leaf = root.descendant_for_point_range(point, point)
    found: set[str] = set()
    for node in (leaf, *ancestors(leaf)) if leaf is not None else ():
        if node.type in _HANDLERS:
            head = scene.lines[node.start_point[0]]
            found.update(token for token in tokens(head) if is_identifier(token))
    return found


def _is_personal(one: Example, pattern: Pattern) -> bool:
    """Whether what is put in usually differs from line to line: a message, a literal that is not
    the value of a keyword, an annotation, a plain type in place of another, a comment, or a name of
    one or two letters."""
    new = [token for token in pattern.new if isinstance(token, str)]
    text = "".join(new).strip()
    if text.startswith((":", "->")):
        return True
    if any(
        _kind(token) == "string" and (" " in token or not _is_value(new, at))
        for at, token in enumerate(new)
    ):
        return True
    code = "".join(part for part in (*one.tokens[: one.stop], *new) if _kind(part) != "string")
    if any(sign in code for sign in _COMMENTS):
        return True
    names = [token for token in (*new, *one.tokens[one.start : one.stop]) if is_identifier(token)]
    if names and _SCALARS.issuperset(names) and None in pattern.fixed:
        return True
    return any(len(name) <= _SHORTEST_NAME for name in names)


def _names_its_call(one: Example, first: int) -> bool:
    """Whether the pattern, which starts at a token, has the function to whose call an argument is
    added; also if none is added, or the call starts in another line."""
    added = "".join(one.new).strip()
    if one.tokens[one.start : one.stop] or not added.startswith(","):
        return True
    depth = 0
    for at in range(one.start - 1, 0, -1):
        depth += (one.tokens[at] in _CLOSING) - (one.tokens[at] in _OPENING)
        if depth < 0:
            return first < at or one.tokens[at] != "(" or not is_identifier(one.tokens[at - 1])
    return True


def _is_value(new: Sequence[str], at: int) -> bool:
    """Whether a token is the value of a keyword, as in `encoding="utf-8"`."""
    return next((one for one in reversed(new[:at]) if not one.isspace()), "") in {"=", ":"}


def _new(
    one: Example, other: Example, mine: Sequence[str], theirs: Sequence[str]
) -> tuple[str | int, ...] | None:
    """What both examples put in, where a differing token is copied from a differing place."""
    if len(one.new) != len(other.new):
        return None
    found: list[str | int] = []
    for a, b in zip(one.new, other.new, strict=True):
        if a == b:
            found.append(a)
            continue
        at = next(
            (i for i, pair in enumerate(zip(mine, theirs, strict=True)) if pair == (a, b)), -1
        )
        if at < 0:
            return None
        found.append(at)
    return tuple(found)


def _is_word(token: str) -> bool:
    return _kind(token) in {"name", "string"}


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many tokens from the start on are alike, or names that differ between such."""
    alike = 0
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a == b:
            alike = at + 1
        elif _kind(a) != _kind(b) or _kind(a) == "other":
            break
    return alike


def _kind(token: str) -> str:
    if token in _CONSTANTS:
        return "constant"
    if is_identifier(token):
        return "name"
    if token[:1].isdigit():
        return "number"
    return "string" if token[:1] in "'\"" and len(token) > 1 else "other"


def _weight(fixed: Sequence[str | None]) -> float:
    """How much a pattern says: names and literals count 1, signs and line ends a half."""
    total = 0.0
    for token in fixed:
        if token is not None and not token.isspace():
            total += 1.0 if _kind(token) != "other" else 0.5
    return total


def _matches(scene: Scene, pattern: Pattern, changed: set[int]) -> Iterator[_Place]:
    """The place in each line that fits."""
    word = max(
        (one for one in pattern.fixed if one and one not in (_START, _STOP)), key=len, default=""
    )
    for number, line in enumerate(scene.lines[:_MOST_LINES]):
        if number in changed or word not in line or len(line) > LONGEST_LINE:
            continue
        found = list(_in_line(line, pattern))
        if len(found) == 1:
            yield number, *found[0]


def _in_line(line: str, pattern: Pattern) -> Iterator[tuple[int, int, str]]:
    """Columns and new text of each place of a line that fits."""
    indent = len(line) - len(line.lstrip())
    found = [_START, *tokens(line.strip()), _STOP]
    size = len(pattern.fixed)
    for first in range(len(found) - size + 1):
        part = found[first : first + size]
        if not all(
            token == fixed if fixed is not None else _kind(token) == kind
            for token, fixed, kind in zip(part, pattern.fixed, pattern.kinds, strict=True)
        ):
            continue
        new = "".join(one if isinstance(one, str) else part[one] for one in pattern.new)
        old = part[pattern.start : pattern.stop]
        column = indent + sum(map(len, found[1 : first + pattern.start]))
        if first + pattern.start == 0:
            column = indent
        yield column, column + sum(map(len, old)), new
