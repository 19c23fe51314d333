"""From sections to token ids, in the order that a model family wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from context.syntax.tokens import Encoder
from context.types import CursorKind, FimLayout, Part, Section

TOKEN_PARTS = frozenset(
    {
        Part.PREFIX_TOKEN,
        Part.SUFFIX_TOKEN,
        Part.MIDDLE_TOKEN,
        Part.REPO_TOKEN,
        Part.FILE_TOKEN,
    }
)


def order_of(layout: FimLayout, kind: CursorKind) -> tuple[Part, ...]:
    """The order for `kind`; a family that tells only one order uses it for both kinds.

    Raises:
        ValueError: the family has no order at all.
    """
    if kind in layout.order:
        return layout.order[kind]
    for order in layout.order.values():
        return order
    raise ValueError(f"the FIM layout of {layout.family!r} has no order")


def control_ids(layout: FimLayout, control: Mapping[str, int]) -> dict[Part, int]:
    """The id of each control token that the layout uses.

    Raises:
        ValueError: a control token has no id in `control`, so the layout is not this model's.
    """
    found: dict[Part, int] = {}
    for part, text in layout.tokens.items():
        if text not in control:
            raise ValueError(f"{layout.family}: the vocabulary has no control token {text!r}")
        found[part] = control[text]
    return found


def overhead_tokens(layout: FimLayout, kind: CursorKind) -> int:
    """How many control tokens a prompt has besides those before each repository section."""
    order = order_of(layout, kind)
    each = repo_section_overhead(layout, kind)
    return sum(part in layout.tokens for part in order if part in TOKEN_PARTS) - each


def repo_section_overhead(layout: FimLayout, kind: CursorKind) -> int:
    """How many control tokens stand before each repository section: 1 for a file separator."""
    return int(_file_token_before_repo(layout, order_of(layout, kind)))


def _file_token_before_repo(layout: FimLayout, order: Sequence[Part]) -> bool:
    pairs = pairwise(order)
    return Part.FILE_TOKEN in layout.tokens and (Part.FILE_TOKEN, Part.REPO) in set(pairs)


def assemble(
    sections: Sequence[Section],
    layout: FimLayout,
    kind: CursorKind,
    control: Mapping[str, int],
    encoder: Encoder,
) -> tuple[tuple[Section, ...], tuple[int, ...]]:
    """Put sections into the layout's order and encode them.

    Sections of one part keep their order. A FILE_TOKEN that stands right before REPO in the order
    is written before each of the repository's sections. Sections of a part that the order does
    not have are left out.

    Returns:
        The sections in prompt order and the ids of the whole prompt.
    """
    by_part: dict[Part, list[Section]] = {}
    for section in sections:
        by_part.setdefault(section.part, []).append(section)
    codes = control_ids(layout, control)
    order = order_of(layout, kind)
    file_before_each = _file_token_before_repo(layout, order)
    placed: list[Section] = []
    ids: list[int] = []
    for part, following in zip(order, (*order[1:], None), strict=True):
        if part in TOKEN_PARTS:
            separator = file_before_each and part is Part.FILE_TOKEN and following is Part.REPO
            if part in codes and not separator:
                ids.append(codes[part])
            continue
        for section in by_part.get(part, ()):
            if part is Part.REPO and file_before_each:
                ids.append(codes[Part.FILE_TOKEN])
            ids.extend(encoder.text_ids(section.text))
            placed.append(section)
    return tuple(placed), tuple(ids)
