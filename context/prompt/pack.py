"""Shares out a budget between the sections of a prompt.

Room is what the budget leaves after control tokens and the answer. The suffix and the near prefix
have fixed shares; what the rest of the file and other files do not spend flows on to each other,
then to an outline of what comes later in the file, and then to the suffix. The head (other files,
far prefix) is what stays in the KV cache while one types and jumps; so it takes most of the room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from context.retrieval.rank import Candidate
from context.syntax.document import shown_path
from context.syntax.language import Language
from context.syntax.secrets import masked_runs
from context.syntax.tokens import Encoder
from context.types import FimLayout, Part, Section

_MIN_SCORE = 0.03
_WIDE_SHARE = 0.4  # of the room for other files; what takes more is shown in short


@dataclass(frozen=True)
class Shares:
    """Parts of the room, 0 to 1. `repo` is a limit within the head; the far prefix has the rest.

    Attributes:
        near: most that the near prefix may grow to as one types, before the head is built anew.
        near_at_first: what it has when the head is built. Under a fifth of the room the starter
            model often goes on with the suffix, which stands between far and near prefix.
        near_over_jump: what it has while an old head is kept over a jump; small, so that most of
            the prompt is what was evaluated before.
        suffix: text after the cursor, unless more is left over.
        suffix_over_jump: the same, while an old head is kept over a jump.
        repo: other files.
    """

    near: float = 0.33
    near_at_first: float = 0.24
    near_over_jump: float = 0.07
    suffix: float = 0.12
    suffix_over_jump: float = 0.055
    repo: float = 0.3


@dataclass(frozen=True)
class Rooms:
    """Tokens for each section; what stands around the cursor has less over a jump."""

    repo: int
    far: int
    suffix: int
    near: int
    near_at_first: int
    near_over_jump: int
    suffix_at_least: int
    suffix_over_jump: int


def rooms(
    room_tokens: int,
    shares: Shares,
    *,
    repo_tokens: int,
    far_tokens: int,
    suffix_tokens: int,
    has_repo: bool = True,
) -> Rooms:
    """Share out `room_tokens`, given how much each section could use at most.

    What the near prefix holds at first counts as part of the far prefix's need.
    """
    near = int(room_tokens * shares.near)
    suffix = min(int(room_tokens * shares.suffix), suffix_tokens)
    head = max(0, room_tokens - near - suffix)
    repo = min(repo_tokens, int(room_tokens * shares.repo)) if has_repo else 0
    far = min(far_tokens, head - repo)
    if has_repo:
        repo = min(repo_tokens, head - far)
    left = head - repo - far
    return Rooms(
        repo,
        far,
        suffix + min(left, suffix_tokens - suffix),
        near,
        near_at_first=int(room_tokens * shares.near_at_first),
        near_over_jump=int(room_tokens * shares.near_over_jump),
        suffix_at_least=suffix,
        suffix_over_jump=min(int(room_tokens * shares.suffix_over_jump), suffix),
    )


def repo_sections(
    chosen: Sequence[Candidate],
    room_tokens: int,
    encoder: Encoder,
    *,
    layout: FimLayout,
    each_overhead: int,
    languages: Mapping[str, Language | None],
) -> tuple[list[Section], list[str]]:
    """Candidates, best first, as sections of one file each that take at most `room_tokens`.

    The file with the best candidate stands last, nearest to the code; within a file pieces keep
    the file's order. Each section begins with the path: after a file separator as the family
    writes it, else as a comment.

    Returns:
        The sections, and what was cut, in words.
    """
    by_file: dict[tuple[str, str], list[Candidate]] = {}
    shown: dict[tuple[str, str], Section] = {}
    left_out: list[Candidate] = []
    spent = 0
    for one in chosen:
        key = (one.root, one.path)
        for text in (one.text, one.short):
            wide = one.short and encoder.text_count(text) > room_tokens * _WIDE_SHARE
            if not text.strip() or (text is one.text and wide):
                continue
            pieces = [*by_file.get(key, ()), _with_text(one, text)]
            section = _section(pieces, layout, encoder, languages.get(one.path))
            before = shown[key].tokens if key in shown else -each_overhead
            if spent + section.tokens - before <= room_tokens:
                spent += section.tokens - before
                by_file[key], shown[key] = pieces, section
                break
        else:
            left_out.append(one)
    ordered = [shown[key] for key in reversed(list(shown))]
    cut = [f"{one.reason} ({one.path})" for one in left_out[:5]]
    if len(left_out) > len(cut):
        cut.append(f"{len(left_out) - len(cut)} more pieces of other files")
    return ordered, cut


def worth_showing(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose score says that they may help at all."""
    return [one for one in candidates if one.score >= _MIN_SCORE]


def _with_text(one: Candidate, text: str) -> Candidate:
    return replace(one, text=text)


def _section(
    pieces: list[Candidate], layout: FimLayout, encoder: Encoder, language: Language | None
) -> Section:
    first = pieces[0]
    comment = language.line_comment if language is not None else "#"
    path = shown_path(first.root, first.path)
    header = path if Part.FILE_TOKEN in layout.tokens else f"{comment} {path}"
    ordered = sorted(pieces, key=lambda one: one.start)
    text = masked_runs(header + "\n" + "\n".join(one.text for one in ordered) + "\n")
    reasons = ", ".join(dict.fromkeys(one.reason for one in pieces))
    return Section(Part.REPO, text, encoder.text_count(text), reasons, first.path)
