"""How well the starter model writes a masked line again, by the prompt it is given.

    python tests/benchmarks/context_quality.py run --minutes 5     # as often as it takes
    python tests/benchmarks/context_quality.py report              # writes the table

The ways to build the prompt are in `context_prompts`, the places in `context_places`. The cursor
stands at the start of the masked line, before its indent. The answer is greedy, its first line,
compared without blanks at both ends. Besides exact matches and edit similarity (difflib's ratio)
stands the likelihood of the wanted line, in nats a token.

Answers are appended to a file of JSON lines under the hash of the prompt that they answer. So a
run can be ended and taken up again, a change of the code asks again only where it changes a prompt,
and the table is always one of the present code: places that it has no answer for are not in it.

The picking was improved while looking at answers at the places asked by default. With `--held-out`
the places after those are asked, which nobody looked at: what ours gains there was not fitted.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import math
import platform
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from context_model import Model, unpacked
from context_places import SEED, MaskedLine, masked_lines
from context_prompts import STORES, Built, Prompts, Setting

import context
from assistant import paths
from assistant.models import vocabulary

RESULTS = Path(__file__).with_name("results")
ANSWERS = RESULTS / "context_quality.jsonl"
TABLE = RESULTS / "context_quality.json"
TABLE_HELD_OUT = RESULTS / "context_quality_held_out.json"
MODEL = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
# The three that the claim is about come first, so that a run that is ended early tells most.
SETTINGS = (
    "ours:1024", "plain:2048", "ring:2048", "ours:512", "ours:2048", "plain:1024", "ring:1024",
    "plain:512", "ring:512",
)  # fmt: skip
LOOKED_AT = 304  # places, the first of all
HELD_OUT = 200  # places after them
NEARLY_ALL = 0.9  # of the places that other settings were asked at
MIN_PLACES = 20  # for a setting to be reported at all
Row = dict[str, Any]


def fingerprint(ids: tuple[int, ...]) -> str:
    return hashlib.sha256(array("i", ids).tobytes()).hexdigest()[:20]


def answers() -> dict[tuple[str, str], Row]:
    """All answers by place and prompt."""
    if not ANSWERS.exists():
        return {}
    rows = map(json.loads, ANSWERS.read_text(encoding="utf-8").splitlines())
    return {(row["place"], row["prompt"]): row for row in rows}


def asked(
    places: Sequence[MaskedLine], settings: Sequence[Setting], prompts: Prompts
) -> Iterator[tuple[MaskedLine, Setting, Built]]:
    """Every question in the order in which they are asked: the first settings for all places."""
    for group in (settings[:3], settings[3:]):
        for place in places:
            for setting in group:
                yield place, setting, prompts.build(place, setting)


def run(
    places: Sequence[MaskedLine],
    settings: Sequence[Setting],
    shares: context.Shares,
    *,
    minutes: float,
    threads: int,
) -> bool:
    """Ask what was not asked yet, for so long; True when nothing is left."""
    words = vocabulary.load(paths.models_dir() / MODEL)
    model = Model(unpacked(paths.models_dir() / MODEL, STORES), words, threads)
    known = answers()
    end = time.monotonic() + minutes * 60
    for place, setting, built in asked(places, settings, Prompts(words, shares)):
        key = (place.key, fingerprint(built.ids))
        if key in known:
            continue
        if time.monotonic() > end:
            return False
        answer = model.ask(built.ids, place.line)
        known[key] = {
            "place": place.key, "prompt": key[1], "prompt_tokens": len(built.ids),
            "elsewhere": place.elsewhere, "wanted": place.line.strip(),
            "answer": answer.text.strip(), "generated": answer.generated,
            "nats": round(answer.wanted_nats, 3), "wanted_tokens": answer.wanted_tokens,
            "setting": str(setting), "sections": built.sections,
        }  # fmt: skip
        with ANSWERS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known[key]) + "\n")
    return True


def alike(row: Row) -> float:
    """Edit similarity of answer and wanted line, 0 to 1."""
    return difflib.SequenceMatcher(None, row["answer"], row["wanted"], autojunk=False).ratio()


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error."""
    if len(values) < 2:
        return (values[0] if values else 0.0), 0.0
    return round(statistics.fmean(values), 3), round(
        statistics.stdev(values) / math.sqrt(len(values)), 3
    )


KINDS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,  # noqa: ARG005
    "elsewhere": lambda row: bool(row["elsewhere"]),
    "here": lambda row: not row["elsewhere"],
}


def report(
    places: Sequence[MaskedLine], settings: Sequence[Setting], shares: context.Shares
) -> dict[str, Any]:
    """The table over the places that all of its settings have an answer for.

    A run may be ended early. Settings that lag behind the others are left out of the table; a
    second one, `in_part`, has all settings at the places that those were asked at too.
    """
    words = vocabulary.load(paths.models_dir() / MODEL)
    known = answers()
    found: dict[str, dict[str, Row]] = {str(setting): {} for setting in settings}
    for place, setting, built in asked(places, settings, Prompts(words, shares)):
        row = known.get((place.key, fingerprint(built.ids)))
        if row is not None:
            found[str(setting)][place.key] = row
    counts = {setting: len(rows) for setting, rows in found.items()}
    most = max(counts.values())
    if not most:
        raise SystemExit("nothing is answered yet: run it first")
    measured = {setting: rows for setting, rows in found.items() if len(rows) >= MIN_PLACES}
    found = {setting: rows for setting, rows in found.items() if len(rows) >= NEARLY_ALL * most}
    shared, table = table_of(found)
    in_part = table_of(measured) if len(measured) > len(found) else None
    looked_at = {one.key for one in masked_lines(LOOKED_AT)}
    held_out = looked_at.isdisjoint(one.key for one in places)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, CPU only", "model": f"{MODEL}, its weights as BF16",
        "seed": SEED,
        "places": len(shared), "places_wanted": len(places), "held_out": held_out,
        "answered": counts,
        "settings": table, "against_ours": against(found, shared),
        "in_part": in_part and {"places": len(in_part[0]), "settings": in_part[1]},
    }  # fmt: skip


def table_of(found: dict[str, dict[str, Row]]) -> tuple[list[str], dict[str, Any]]:
    """The places that all have an answer for, and the figures over them by setting and kind."""
    shared = sorted(set.intersection(*(set(rows) for rows in found.values())))
    return shared, {
        setting: {
            kind: figures([rows[key] for key in shared if holds(rows[key])])
            for kind, holds in KINDS.items()
        }
        for setting, rows in found.items()
    }


def figures(rows: list[Row]) -> dict[str, float]:
    if not rows:
        return {}
    similarity = sum(map(alike, rows))
    tokens = sum(row["wanted_tokens"] for row in rows)
    return {
        "places": len(rows),
        "prompt_tokens": round(sum(row["prompt_tokens"] for row in rows) / len(rows)),
        "exact_percent": round(100 * sum(map(right, rows)) / len(rows), 1),
        "edit_similarity_percent": round(100 * similarity / len(rows), 1),
        "nats_a_token": round(sum(row["nats"] for row in rows) / tokens, 4),
    }


def right(row: Row) -> bool:
    return bool(row["answer"] == row["wanted"])


def against(found: dict[str, dict[str, Row]], shared: list[str]) -> dict[str, Any]:
    """Ours at the first budget, place by place, with each other way at as much or more.

    `gained` holds, by kind of place, how much likelier ours makes the wanted line (nats), and how
    much more alike its answer is (percent): each the mean over the places and its standard error.
    """
    ours = next((setting for setting in found if setting.startswith("ours")), "")
    made = {}
    for other in found if ours else ():
        if other.startswith("ours") or budget(other) < budget(ours):
            continue
        pairs = [(key, found[ours][key], found[other][key]) for key in shared]
        gained = {}
        for kind, holds in KINDS.items():
            kept = [(own, theirs) for _, own, theirs in pairs if holds(own)]
            gained[kind] = {
                "nats": mean_and_error([theirs["nats"] - own["nats"] for own, theirs in kept]),
                "edit_similarity_percent": mean_and_error(
                    [100 * (alike(own) - alike(theirs)) for own, theirs in kept]
                ),
            }
        made[other] = {
            "exact_only_ours": [k for k, own, theirs in pairs if right(own) and not right(theirs)],
            "exact_only_theirs": [k for k, own, theirs in pairs if right(theirs) > right(own)],
            "gained": gained,
        }  # fmt: skip
    return {"ours": ours, "others": made}


def budget(setting: str) -> int:
    return Setting.parse(setting).budget_tokens


def markdown(made: dict[str, Any]) -> str:
    """The table for people, and the places that lose."""
    lines = [
        "# Masked lines, written again by the starter model",
        "",
        f"{made['places']} of {made['places_wanted']} places, {made['model']}, {made['machine']}.",
        "The picking was improved before anybody looked at answers at these places."
        if made["held_out"]
        else "The picking was improved while looking at some of the answers at these places.",
        "Exact matches, edit similarity, and nats a token of the wanted line (less is better).",
        "",
        *rows_of(made["settings"]),
    ]
    if made["in_part"] is not None:
        said = f"All settings, at {made['in_part']['places']} of these places:"
        lines += ["", said, "", *rows_of(made["in_part"]["settings"])]
    ours = made["against_ours"]["ours"]
    for other, one in made["against_ours"]["others"].items():
        lines += [
            "",
            f"## {ours} and {other}",
            "",
            *(
                f"{said}: likelier by {found['nats'][0]} nats a place (standard error"
                f" {found['nats'][1]}), {found['edit_similarity_percent'][0]} percent more alike"
                f" (standard error {found['edit_similarity_percent'][1]})."
                for kind, said in (("all", "All places"), ("elsewhere", "Another file needed"))
                for found in (one["gained"][kind],)
            ),
            "",
            f"Exact only with ours: {len(one['exact_only_ours'])} places;",
            f"only with the other, so lost by ours: {len(one['exact_only_theirs'])} places:",
            "",
            *(f"- {place}" for place in one["exact_only_theirs"]),
        ]
    return "\n".join(lines) + "\n"


def rows_of(settings: dict[str, Any]) -> list[str]:
    """A table's lines."""
    lines = [
        "| prompt | tokens | all | another file needed | this file only |",
        "|---|---|---|---|---|",
    ]
    for setting in sorted(settings, key=budget):
        kinds = settings[setting]
        cells = [
            f"{one['exact_percent']} %, {one['edit_similarity_percent']} %, {one['nats_a_token']}"
            if one else "-"
            for one in (kinds["all"], kinds["elsewhere"], kinds["here"])
        ]  # fmt: skip
        tokens = kinds["all"].get("prompt_tokens", "-")
        lines.append(f"| {setting} | {tokens} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--count", type=int, help="of places, not all")
    parser.add_argument("--held-out", action="store_true", help="the places that nobody looked at")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--minutes", type=float, default=math.inf, help="for how long to ask")
    parser.add_argument("--threads", type=int, default=2, help="1 where others compute too")
    parser.add_argument("--shard", default="1/1", help="K/N: every Nth place from the Kth")
    parser.add_argument("--shares", default="{}", help="JSON of context.Shares, to try others")
    parser.add_argument("--keep", action="store_true", help="write the table to the results")
    options = parser.parse_args()
    shares = context.Shares(**json.loads(options.shares))
    settings = [Setting.parse(one) for one in options.settings.split(",")]
    places = masked_lines(LOOKED_AT + HELD_OUT)
    places = (places[LOOKED_AT:] if options.held_out else places[:LOOKED_AT])[: options.count]
    if options.what == "run":
        first, every = map(int, options.shard.split("/"))
        mine = places[first - 1 :: every]
        done = run(mine, settings, shares, minutes=options.minutes, threads=options.threads)
        print("all is answered" if done else "some is left: run it again")
        return
    made = report(places, settings, shares)
    if options.keep:
        table = TABLE_HELD_OUT if options.held_out else TABLE
        table.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        table.with_suffix(".md").write_text(markdown(made), encoding="utf-8")
    print(markdown(made))


if __name__ == "__main__":
    main()
