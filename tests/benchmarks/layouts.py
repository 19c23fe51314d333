"""Which FIM layout a model writes best with, and what each costs while one edits.

    python tests/benchmarks/layouts.py quality --count 60     # greedy answers at masked places
    python tests/benchmarks/layouts.py cost                   # tokens evaluated by kind of event
    python tests/benchmarks/layouts.py report
    python tests/benchmarks/layouts.py hole --count 12        # FIM tokens, a marked hole, neither

Places are lines of this repository's own source, which no published model has seen, one a file
where that suffices. Kinds of cursor:

- line: a whole line is missing, the cursor stands after its indent, which is given back: the
  prompt ends before it, and the answer has to begin with it (token healing);
- line unhealed: the same with the indent in the prompt;
- rest: the rest of a line is missing, from a word's end on;
- span: the middle of a line is missing, something of it stands behind the cursor.

An answer ends with its line, or where it begins to repeat what stands behind the cursor. `exact`
is the share of answers that are the missing text, blanks at both ends aside; `similar` the mean
similarity to it (difflib ratio). Cost is counted, not timed: the tokens of a prompt that no slot
holds yet. Answers are appended, so a run can be ended and taken up again.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from head import head, publish
from layout_events import EVENTS, cost_of_events
from layout_places import Place, places
from layout_table import table
from layout_writer import Writer

import context
from assistant.models import families, vocabulary
from assistant.models.catalogue import resolve
from context.prompt import FimLayout, Part
from context.syntax.text import CursorKind

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results")
ANSWERS = RESULTS / "layouts.jsonl"
REPORT = RESULTS / "layouts.json"
HOLE = RESULTS / "hole.jsonl"
KINDS = ("line", "rest", "span", "line unhealed")
PRE, SUF, MID = Part.PREFIX_TOKEN, Part.SUFFIX_TOKEN, Part.MIDDLE_TOKEN
FAR, NEAR, AFTER = Part.FAR_PREFIX, Part.PREFIX, Part.SUFFIX
ORDERS: dict[str, tuple[Part, ...]] = {
    "documented": (PRE, FAR, NEAR, SUF, AFTER, MID),
    "suffix first": (SUF, AFTER, PRE, FAR, NEAR, MID),
    "open": (PRE, SUF, AFTER, MID, FAR, NEAR),
    "far first": (PRE, FAR, SUF, AFTER, MID, NEAR),
    "far outside": (FAR, PRE, SUF, AFTER, MID, NEAR),
}
COMPARED = ("documented", "open", "far first")


def layout(name: str, family: FimLayout) -> FimLayout:
    tokens = {part: family.tokens[part] for part in (PRE, SUF, MID)}
    return FimLayout(family.family, tokens, dict.fromkeys(CursorKind, ORDERS[name]), family.stop)


def answer(writer: Writer, vocab: Any, place: Place, fim: FimLayout, budget: int) -> dict[str, Any]:
    """The first line that the model writes at `place`, cut where it repeats what is behind."""
    at = len(place.text[: place.cursor - len(place.healed)].encode())
    text = place.text[: place.cursor - len(place.healed)] + place.text[place.cursor :]
    prompt = context.window(text, at, fim, vocab, vocab.control, budget, 0)
    ends = frozenset(vocab.control[text] for text in fim.stop if text in vocab.control)
    written: list[int] = []
    for token in writer.write(prompt.ids, ends, place.healed.encode()):
        written.append(token)
        if "\n" in vocab.decode(written):
            break
    whole = vocab.decode(written).removeprefix(place.healed)
    line = whole.split("\n")[0].rstrip("\r")
    line = "" if fim.ids and line.startswith("```") else line
    cut = line.find(place.behind) if len(place.behind.strip()) >= 1 else -1
    line = line[:cut] if cut >= 0 else line
    return {"answer": line, "prompt": len(prompt.ids), "generated": len(written)}


def quality(arguments: argparse.Namespace) -> None:
    path = resolve(arguments.model)
    vocab = vocabulary.load(path)
    family = families.layout_for(vocab)
    assert family is not None
    writer = Writer(path, vocab, arguments.budget + 64, arguments.threads)
    chosen = {kind: places(kind, arguments.count) for kind in arguments.kinds.split(",")}
    done = {(row["model"], row["layout"], row["kind"], row["place"]) for row in rows()}
    for number in range(arguments.count):
        for kind, drawn in chosen.items():
            place = drawn[number]
            for name in arguments.layouts.split(","):
                if (arguments.model, name, kind, place.key) in done:
                    continue
                found = answer(writer, vocab, place, layout(name, family), arguments.budget)
                row = {
                    "model": arguments.model,
                    "budget": arguments.budget,
                    "layout": name,
                    "kind": kind,
                    "place": place.key,
                    "wanted": place.wanted,
                    **found,
                }
                with ANSWERS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def hole(arguments: argparse.Namespace) -> dict[str, Any]:
    """The layout of the model's own tokens against a marked hole, and against no suffix at all.

    Answers are appended, so a run can be ended and taken up again; with no models, the answers that
    exist are summed up.
    """
    found = head("hole")
    done = [json.loads(line) for line in HOLE.read_text().splitlines()] if HOLE.exists() else []
    for model in filter(None, arguments.models.split(",")):
        path = resolve(model)
        vocab = vocabulary.load(path)
        own = families.layout_for(vocab)
        assert own is not None
        plain = families.layout_named(families.PLAIN)
        layouts = {"hole": families.hole_layout(vocab), "prefix only": plain}
        if own.tokens:
            layouts = {"FIM tokens": own, **layouts}
        writer = Writer(path, vocab, arguments.budget + 64, arguments.threads)
        kinds = arguments.kinds.split(",")
        drawn = {kind: places(kind, arguments.count) for kind in kinds}
        for number in range(arguments.count):
            for kind in kinds:
                place = drawn[kind][number]
                of_place = {"model": model, "kind": kind, "place": place.key}
                of_place |= {"budget": arguments.budget}
                answered = [row for row in done if of_place.items() <= row.items()]
                for name in layouts.keys() - {row["layout"] for row in answered}:
                    given = answer(writer, vocab, place, layouts[name], arguments.budget)
                    row = {**of_place, "layout": name, "wanted": place.wanted, **given}
                    done.append(row)
                    with HOLE.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    groups: dict[tuple[str, str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in done:
        groups[row["model"], row["kind"], row["budget"], row["layout"]].append(row)
    found["quality"] = [
        {"model": model, "kind": kind, "budget_tokens": budget, "layout": name, **_shares(group)}
        for (model, kind, budget, name), group in sorted(groups.items())
    ]
    return found


def _shares(group: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "places": len(group),
        "exact": round(sum(_exact(row) for row in group) / len(group), 3),
        "similar": round(sum(_similar(row) for row in group) / len(group), 3),
        "empty": round(sum(not row["answer"].strip() for row in group) / len(group), 3),
    }


def rows() -> list[dict[str, Any]]:
    if not ANSWERS.exists():
        return []
    return [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]


def cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mean tokens evaluated for each kind of event, by layout and number of slots."""
    vocab = vocabulary.load(resolve(arguments.model))
    family = families.layout_for(vocab)
    assert family is not None
    texts = {place.key: place for place in places("line", 400) if place.text.count("\n") > 150}
    chosen = list(texts.values())[: arguments.count]
    found = {}
    for name in ORDERS:
        fim = layout(name, family)
        found[name] = {
            f"{slots} slots": cost_of_events(chosen, fim, vocab, arguments.budget, slots)
            for slots in (1, 4)
        }
    return {"budget": arguments.budget, "places": len(chosen), "events": EVENTS, "tokens": found}


def summary() -> list[dict[str, Any]]:
    """Only places that all of COMPARED have answered, so that these are judged by the same."""
    answered: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows():
        answered[row["model"], row["kind"], row["place"]][row["layout"]] = row
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for (model, kind, _), by_layout in answered.items():
        if set(by_layout) >= set(COMPARED):
            for name in by_layout:
                groups[model, kind, name].append(by_layout[name])
    return [
        {
            "model": model,
            "kind": kind,
            "layout": name,
            **_shares(group),
        }
        for (model, kind, name), group in groups.items()
    ]


def _exact(row: dict[str, Any]) -> bool:
    return bool(row["answer"].strip() == row["wanted"].strip())


def _similar(row: dict[str, Any]) -> float:
    return difflib.SequenceMatcher(None, row["answer"].strip(), row["wanted"].strip()).ratio()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["quality", "cost", "report", "hole"])
    parser.add_argument("--models", default="qwen2.5-coder-0.5b,gemma-3-270m")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--layouts", default=",".join(COMPARED))
    arguments = parser.parse_args()
    if arguments.action == "quality":
        quality(arguments)
        return
    if arguments.action == "hole":
        publish(hole(arguments), RESULTS / "hole.json", save=arguments.save)
        return
    if arguments.action == "report":
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
        whole = {
            **head("layouts"),
            "commit": commit.stdout.strip(),
            "quality": summary(),
            "cost": cost(arguments),
        }
        REPORT.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        REPORT.with_suffix(".md").write_text(table(whole), encoding="utf-8")
        print(json.dumps(whole, indent=1))
        return
    print(json.dumps(cost(arguments), indent=1))


if __name__ == "__main__":
    main()
