"""How well the starter model writes a masked line again, by the prompt it is given.

Three ways to build the prompt, all with the same FIM layout and model, greedy:

- plain: text before and after the cursor (`context.window`);
- ring: half of it so, half a ring of chunks of 64 lines from files visited before, the newest
  nearest, near-duplicates dropped (in the manner of llama.vim);
- ours: `context.Workspace`.

    python tests/benchmarks/context_quality.py run --count 320 --settings ours:1024,plain:2048
    python tests/benchmarks/context_quality.py report

Answers are appended to a JSON-lines file, so a run can be ended and taken up again. The cursor
stands at the start of the masked line, before its indent; the answer is its first line, compared
without blanks at both ends.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import llama_cpp
from context_places import SITE, MaskedLine, masked_lines

import context
from assistant import paths
from assistant.models import vocabulary
from context.encoder import Encoder
from context.layout import assemble, overhead_tokens
from context.names import shingles, similarity
from context.text import byte_offset
from context.types import CursorKind, FimLayout, Part, Section
from context.window import window, windows

RESULTS = Path(__file__).with_name("results")
ANSWERS = RESULTS / "context_quality.jsonl"
MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
MAX_ANSWER = 40

TOKENS = {
    Part.PREFIX_TOKEN: "<|fim_prefix|>",
    Part.SUFFIX_TOKEN: "<|fim_suffix|>",
    Part.MIDDLE_TOKEN: "<|fim_middle|>",
}
ORDERS = {
    # head, suffix, near prefix: what stays when one types and jumps stands first
    "head": (
        Part.PREFIX_TOKEN, Part.REPO, Part.FAR_PREFIX, Part.SUFFIX_TOKEN, Part.SUFFIX,
        Part.MIDDLE_TOKEN, Part.PREFIX,
    ),
    # the whole prefix last
    "open": (
        Part.PREFIX_TOKEN, Part.REPO, Part.SUFFIX_TOKEN, Part.SUFFIX, Part.MIDDLE_TOKEN,
        Part.FAR_PREFIX, Part.PREFIX,
    ),
    # as documented
    "documented": (
        Part.PREFIX_TOKEN, Part.REPO, Part.FAR_PREFIX, Part.PREFIX, Part.SUFFIX_TOKEN,
        Part.SUFFIX, Part.MIDDLE_TOKEN,
    ),
}  # fmt: skip


def layout_of(name: str) -> FimLayout:
    return FimLayout("qwen2.5-coder", TOKENS, dict.fromkeys(CursorKind, ORDERS[name]))


class Model:
    """llama.cpp with one sequence; the prefix that a prompt shares with the last one is kept."""

    def __init__(self, threads: int) -> None:
        self._llama = llama_cpp.Llama(
            str(paths.models_dir() / MODEL), n_ctx=2560, n_batch=512, n_threads=threads,
            n_threads_batch=threads, flash_attn=True, verbose=False,
        )  # fmt: skip

    def first_line(self, ids: tuple[int, ...], vocabulary_: Any) -> tuple[str, int]:
        """The first line that is not blank, and how many tokens were generated."""
        out: list[int] = []
        stop = set(vocabulary_.control.values())
        for token in self._llama.generate(list(ids), temp=0.0, top_k=1, reset=True):
            if token in stop or len(out) >= MAX_ANSWER:
                break
            out.append(token)
            text = vocabulary_.decode(out)
            if "\n" in text.lstrip("\n ") or (text.count("\n") > 2):
                break
        text = vocabulary_.decode(out)
        return next((line for line in text.split("\n") if line.strip()), ""), len(out)


class Projects:
    """One indexed workspace a package, made when first needed."""

    def __init__(self, encoder: Any, control: dict[str, int], shares: context.Shares) -> None:
        self._made: dict[tuple[str, str], context.Workspace] = {}
        self._encoder, self._control, self._shares = encoder, control, shares

    def workspace(self, package: str, layout: str) -> context.Workspace:
        if (package, layout) not in self._made:
            made = context.Workspace(
                [SITE / package],
                self._encoder,
                layout_of(layout),
                self._control,
                shares=self._shares,
            )
            made.index.refresh()
            self._made[package, layout] = made
        return self._made[package, layout]


def masked_text(place: MaskedLine) -> tuple[str, int]:
    """The file without the line, and the cursor where it was."""
    lines = (SITE / place.package / place.path).read_text(encoding="utf-8").split("\n")
    before = "".join(line + "\n" for line in lines[: place.row])
    return before + "\n" + "\n".join(lines[place.row + 1 :]), len(before)


def plain_ids(place: MaskedLine, layout: FimLayout, vocab: Any, budget: int) -> tuple[int, ...]:
    text, cursor = masked_text(place)
    at = byte_offset(text, cursor)
    return window(text, at, layout, vocab, vocab.control, budget, 0).ids


def ring_chunks(place: MaskedLine, text: str, cursor: int) -> list[tuple[str, str]]:
    """What a ring of 16 chunks would hold after a session in this project, the newest first.

    The session visited the files that this one imports and a few others, at a random place each,
    and jumped about in this file; chunks over 0.9 alike are one, and those over 0.5 like the
    region around the cursor are dropped.
    """
    rng = random.Random(place.key)
    files = [str(p.relative_to(SITE / place.package)) for p in
             sorted((SITE / place.package).rglob("*.py"))]  # fmt: skip
    visited = rng.sample(files, min(10, len(files)))
    visited += [one for one in place.imports if one not in visited]
    rng.shuffle(visited)
    chunks: list[tuple[str, str]] = []
    here = text.split("\n")
    jumps = [here[at : at + 64] for at in (rng.randrange(len(here)) for _ in range(3))]
    for path in visited:
        if path == place.path:
            continue
        lines = (SITE / place.package / path).read_text(encoding="utf-8").split("\n")
        at = rng.randrange(max(1, len(lines) - 63))
        chunks.append((path, "\n".join(lines[at : at + 64])))
    chunks += [(place.path, "\n".join(jump)) for jump in jumps]
    local = shingles(text[max(0, cursor - 2000) : cursor + 2000])
    kept: list[tuple[str, str, set[str]]] = []
    for path, chunk in reversed(chunks):
        lines_of = shingles(chunk)
        if similarity(lines_of, local) <= 0.5 and all(
            similarity(lines_of, other) <= 0.9 for _, _, other in kept
        ):
            kept.append((path, chunk, lines_of))
    return [(path, chunk) for path, chunk, _ in kept[:16]]


def ring_ids(place: MaskedLine, layout: FimLayout, vocab: Any, budget: int) -> tuple[int, ...]:
    text, cursor = masked_text(place)
    encoder = Encoder(vocab)
    room = budget - overhead_tokens(layout, CursorKind.LINE_START)
    order = layout.order[CursorKind.LINE_START]
    local = windows(text, cursor, encoder, room // 2, order)
    left = room - sum(one.tokens for one in local.sections)
    extra: list[Section] = []
    for path, chunk in ring_chunks(place, text, cursor):
        shown = f"# {path}\n{chunk}\n"
        tokens = encoder.text_count(shown)
        if tokens > left:
            break
        extra.insert(0, Section(Part.REPO, shown, tokens, "ring"))
        left -= tokens
    if left > 0:
        spent = sum(one.tokens for one in extra)
        local = windows(text, cursor, encoder, room - spent, order)
    return assemble(
        [*extra, *local.sections], layout, CursorKind.LINE_START, vocab.control, encoder
    )[1]


def our_ids(
    place: MaskedLine, projects: Projects, layout: str, budget: int
) -> tuple[tuple[int, ...], list[str]]:
    text, cursor = masked_text(place)
    workspace = projects.workspace(place.package, layout)
    document = workspace.open(SITE / place.package / place.path, text)
    prompt = workspace.prompt(document, byte_offset(text, cursor), budget, rest=True)
    workspace.close(document)
    return prompt.ids, [f"{one.part}:{one.tokens}" for one in prompt.sections]


def run(count: int, settings: list[str], threads: int, tag: str, shares: context.Shares) -> None:
    """Each setting is WAY:BUDGET or WAY:BUDGET:ORDER."""
    RESULTS.mkdir(exist_ok=True)
    done = {(row["place"], row["setting"], row["tag"]) for row in answers()}
    vocab = vocabulary.load(paths.models_dir() / MODEL)
    model = Model(threads)
    projects = Projects(vocab, vocab.control, shares)
    for place in masked_lines(count):
        for setting in settings:
            way, budget, order = (*setting.split(":"), "head")[:3]
            own_tag = tag if way == "ours" else "base"
            if (place.key, setting, own_tag) in done:
                continue
            sections: list[str] = []
            if way == "plain":
                ids = plain_ids(place, layout_of(order), vocab, int(budget))
            elif way == "ring":
                ids = ring_ids(place, layout_of(order), vocab, int(budget))
            else:
                ids, sections = our_ids(place, projects, order, int(budget))
            assert len(ids) <= int(budget)
            started = time.monotonic()
            answer, generated = model.first_line(ids, vocab)
            row = {
                "tag": own_tag, "place": place.key, "elsewhere": place.elsewhere,
                "setting": setting,
                "wanted": place.line.strip(), "answer": answer.strip(), "prompt": len(ids),
                "generated": generated, "seconds": round(time.monotonic() - started, 2),
                "sections": sections,
            }  # fmt: skip
            with ANSWERS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def answers() -> list[dict[str, Any]]:
    if not ANSWERS.exists():
        return []
    return [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]


def edit_similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def report(tag: str, common: bool) -> dict[str, Any]:
    """Exact matches and edit similarity by setting; `common`: only places that all have."""
    rows = [row for row in answers() if row["tag"] in (tag, "base")]
    by_setting: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_setting[row["setting"]][row["place"]] = row
    shared = set.intersection(*(set(found) for found in by_setting.values())) if common else None
    table = {}
    for setting, found in sorted(by_setting.items()):
        kept = [row for key, row in found.items() if shared is None or key in shared]
        table[setting] = {
            name: _figures([row for row in kept if which(row)])
            for name, which in (
                ("all", lambda row: row is not None),
                ("elsewhere", lambda row: row["elsewhere"]),
                ("here", lambda row: not row["elsewhere"]),
            )
        }
    return {"model": MODEL, "seed": 20, "tag": tag, "settings": table}


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    if not rows:
        return {}
    exact = sum(row["answer"] == row["wanted"] for row in rows)
    alike = sum(edit_similarity(row["answer"], row["wanted"]) for row in rows)
    return {
        "places": len(rows),
        "exact_percent": round(100 * exact / len(rows), 1),
        "edit_similarity_percent": round(100 * alike / len(rows), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--settings", default="ours:1024,plain:2048,ring:2048")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tag", default="1", help="which state of ours the answers are of")
    parser.add_argument("--shares", default="{}", help="JSON of context.Shares, to try others")
    parser.add_argument("--common", action="store_true")
    options = parser.parse_args()
    if options.what == "run":
        shares = context.Shares(**json.loads(options.shares))
        run(options.count, options.settings.split(","), options.threads, options.tag, shares)
    else:
        print(json.dumps(report(options.tag, options.common), indent=2))


if __name__ == "__main__":
    main()
