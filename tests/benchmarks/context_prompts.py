"""Three ways to build the prompt for a masked line, all with the FIM layout of the model.

- plain: text before and after the cursor (`context.prompt.window`);
- ring: half of it so, half a ring of chunks of 64 lines from files visited before, the newest
  nearest, near-duplicates dropped (in the manner of llama.vim);
- ours: `context.Workspace`, as the language server has it once the cursor rests.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_places import SITE, MaskedLine

import context
from assistant.models import families
from context.prompt import FimLayout, Part, Section
from context.prompt.window import assemble, overhead_tokens, repo_section_overhead, window, windows
from context.syntax.text import CursorKind, Encoder, byte_offset, shingles, similarity

# Orders of parts to compare with the one that the model's family ships with.
ORDERS = {
    "open": (
        Part.FILE_TOKEN, Part.REPO, Part.PREFIX_TOKEN, Part.SUFFIX_TOKEN, Part.SUFFIX,
        Part.MIDDLE_TOKEN, Part.FAR_PREFIX, Part.PREFIX,
    ),
    "head": (
        Part.FILE_TOKEN, Part.REPO, Part.PREFIX_TOKEN, Part.FAR_PREFIX, Part.SUFFIX_TOKEN,
        Part.SUFFIX, Part.MIDDLE_TOKEN, Part.PREFIX,
    ),
    "documented": (
        Part.FILE_TOKEN, Part.REPO, Part.PREFIX_TOKEN, Part.FAR_PREFIX, Part.PREFIX,
        Part.SUFFIX_TOKEN, Part.SUFFIX, Part.MIDDLE_TOKEN,
    ),
}  # fmt: skip
STORES = Path(tempfile.gettempdir()) / "underkeel-context-quality"
_RING_CHUNKS = 16
_RING_LINES = 64


@dataclass(frozen=True)
class Setting:
    """WAY:BUDGET, or WAY:BUDGET:ORDER for another order of parts than the shipped one."""

    way: str
    budget_tokens: int
    order: str = ""

    @classmethod
    def parse(cls, text: str) -> Setting:
        way, budget, order = (*text.split(":"), "")[:3]
        if way not in {"plain", "ring", "ours"} or (order and order not in ORDERS):
            raise ValueError(f"{text!r} names no way or no order")
        return cls(way, int(budget), order)

    def __str__(self) -> str:
        return f"{self.way}:{self.budget_tokens}" + f":{self.order}" * bool(self.order)


@dataclass(frozen=True)
class Built:
    """A prompt, and its sections in words."""

    ids: tuple[int, ...]
    sections: tuple[str, ...]


class Prompts:
    """Builds prompts; one indexed workspace a package and order, made when first needed."""

    def __init__(self, vocabulary: Any, shares: context.Shares) -> None:
        self._vocabulary = vocabulary
        self._encoder = Encoder(vocabulary)
        self._shares = shares
        self._workspaces: dict[tuple[str, str], context.Workspace] = {}

    def build(self, place: MaskedLine, setting: Setting) -> Built:
        text, cursor = masked_text(place)
        made = getattr(self, f"_{setting.way}")(place, setting, text, cursor)
        assert len(made.ids) <= setting.budget_tokens
        return made  # type: ignore[no-any-return]

    def _layout(self, order: str) -> FimLayout:
        shipped = families.layout_for(self._vocabulary)
        assert shipped is not None
        if not order:
            return shipped
        return FimLayout(
            f"{shipped.family}, {order}", shipped.tokens, dict.fromkeys(CursorKind, ORDERS[order])
        )

    def _plain(self, place: MaskedLine, setting: Setting, text: str, cursor: int) -> Built:  # noqa: ARG002
        at = byte_offset(text, cursor)
        special = self._vocabulary.special
        layout = self._layout(setting.order)
        made = window(text, at, layout, self._encoder, special, setting.budget_tokens, 0)
        return _built(made.sections, made.ids)

    def _ring(self, place: MaskedLine, setting: Setting, text: str, cursor: int) -> Built:
        layout, kind = self._layout(setting.order), CursorKind.LINE_START
        order = layout.order[kind]
        each = repo_section_overhead(layout, kind)
        room = setting.budget_tokens - overhead_tokens(layout, kind)
        local = windows(text, cursor, self._encoder, room // 2, order)
        left = room - sum(one.tokens for one in local.sections)
        extra: list[Section] = []
        for path, chunk in ring_chunks(place, text, cursor):
            shown = f"{path}\n{chunk}\n"
            tokens = self._encoder.text_count(shown)
            if tokens + each > left:
                break
            extra.insert(0, Section(Part.REPO, shown, tokens, "ring", path))
            left -= tokens + each
        if left > 0:
            spent = sum(one.tokens + each for one in extra)
            local = windows(text, cursor, self._encoder, room - spent, order)
        special = self._vocabulary.special
        return _built(*assemble([*extra, *local.sections], layout, kind, special, self._encoder))

    def _ours(self, place: MaskedLine, setting: Setting, text: str, cursor: int) -> Built:
        workspace = self._workspace(place.package, setting.order)
        document = workspace.open(SITE / place.package / place.path, text)
        at = byte_offset(text, cursor)
        made = workspace.prompt(document, at, setting.budget_tokens, rest=True)
        workspace.close(document)
        return _built(made.sections, made.ids)

    def _workspace(self, package: str, order: str) -> context.Workspace:
        if (package, order) not in self._workspaces:
            made = context.Workspace(
                [SITE / package], self._vocabulary, self._layout(order),
                self._vocabulary.special, store=STORES / f"{package}.db", shares=self._shares,
            )  # fmt: skip
            made.index.refresh()
            self._workspaces[package, order] = made
        return self._workspaces[package, order]


def _built(sections: Any, ids: tuple[int, ...]) -> Built:
    return Built(ids, tuple(f"{one.part}:{one.tokens}" for one in sections))


def masked_text(place: MaskedLine) -> tuple[str, int]:
    """The file without the line, and the cursor where it was: at the start of an empty line."""
    lines = (SITE / place.package / place.path).read_text(encoding="utf-8").split("\n")
    before = "".join(line + "\n" for line in lines[: place.row])
    return before + "\n" + "\n".join(lines[place.row + 1 :]), len(before)


def ring_chunks(place: MaskedLine, text: str, cursor: int) -> list[tuple[str, str]]:
    """What a ring of 16 chunks would hold after a session in this project, the newest first.

    The session visited the files that this one imports and a few others, at a random place each,
    and jumped about in this file; chunks over 0.9 alike are one, and those over 0.5 like the
    region around the cursor are dropped.
    """
    rng = random.Random(place.key)
    folder = SITE / place.package
    files = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*.py"))]
    visited = rng.sample(files, min(10, len(files)))
    visited += [one for one in place.imports if one not in visited]
    rng.shuffle(visited)
    chunks: list[tuple[str, str]] = []
    here = text.split("\n")
    jumps = [here[at : at + _RING_LINES] for at in (rng.randrange(len(here)) for _ in range(3))]
    for path in visited:
        if path == place.path:
            continue
        lines = (folder / path).read_text(encoding="utf-8").split("\n")
        at = rng.randrange(max(1, len(lines) - _RING_LINES + 1))
        chunks.append((path, "\n".join(lines[at : at + _RING_LINES])))
    chunks += [(place.path, "\n".join(jump)) for jump in jumps]
    local = shingles(text[max(0, cursor - 2000) : cursor + 2000])
    kept: list[tuple[str, str, set[str]]] = []
    for path, chunk in reversed(chunks):
        lines_of = shingles(chunk)
        if similarity(lines_of, local) <= 0.5 and all(
            similarity(lines_of, other) <= 0.9 for _, _, other in kept
        ):
            kept.append((path, chunk, lines_of))
    return [(path, chunk) for path, chunk, _ in kept[:_RING_CHUNKS]]
