"""Next edits on real edit chains: successive releases of packages, the last change predicted.

Usage: python tests/benchmarks/edits.py [--save] [--set NAME ...] [--folder WHEELS]
    [--model NAME [--limit N]]

The packages of `edits_packages.txt` (name, version, hash) are downloaded by pip from the configured
index. They are in sets: the rules were tuned on the first, the wrong edits of the others
were looked at after each had been measured once. Each set has a result of its own. A chain is
a file that two releases share: its changed places from top to bottom, all but the last made, and
the last to be predicted. A quiet moment is a chain cut after its first change, where the next
change shares no word with it. Reported for the rules behind the gate:

- precision: of the edits shown, the share after which their lines are as in the newer release;
- precision_in_part: the same and those whose whole change is a part of what the newer release
  changes there, as a name that is renamed in a line that is rewritten further;
- once: the edits that were shown, where one that is offered again later in its chain counts once
  (who rejects an edit is not offered it again);
- exact: of all chains, the share whose whole last change was predicted; position: the share whose
  place was; deltaChrF (n up to 6, beta 2) over the last change, of the chains with an edit;
- quiet: the share of the quiet moments with no edit.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from head import head, publish
from packaging.utils import parse_wheel_filename

from context.edits import NextEdit, Scene, gate
from context.edits.history import History, between, tokens
from context.syntax.document import Document

_HERE = Path(__file__).parent
_PACKAGES = _HERE / "edits_packages.txt"
_RESULTS = _HERE / "results"
_MODEL_RESULT = _RESULTS / "edits_model.json"
_MOST_HUNKS = 8
_LONGEST_FILE = 700
_LONGEST_HUNK = 20

Opcode = tuple[int, int, int, int]


@dataclass(frozen=True)
class Chain:
    """A file before and after, and its changed places: ranges of the old and of the new lines."""

    name: str
    path: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    changes: tuple[Opcode, ...]


def wheels_in(folder: Path) -> list[tuple[str, list[Path]]]:
    """The wheels of each package in a folder, from the older to the newer."""
    found: dict[str, list[Path]] = {}
    for wheel in sorted(folder.glob("*.whl"), key=lambda one: parse_wheel_filename(one.name)[1]):
        found.setdefault(wheel.name.split("-")[0].lower(), []).append(wheel)
    return sorted(found.items())


def chains(folder: Path) -> Iterator[Chain]:
    """The chains of all pairs of releases in a folder of wheels, from the older to the newer."""
    for name, found in wheels_in(folder):
        for older, newer in itertools.pairwise(found):
            yield from _of_pair(name, texts_of(older), texts_of(newer))


def texts_of(wheel: Path) -> dict[str, str]:
    """The Python files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [one for one in archive.namelist() if one.endswith(".py")]
        return {one: archive.read(one).decode("utf-8", "replace") for one in names}


def _of_pair(name: str, old: dict[str, str], new: dict[str, str]) -> Iterator[Chain]:
    for path in sorted(old.keys() & new.keys()):
        before, after = old[path].split("\n"), new[path].split("\n")
        if before == after or max(len(before), len(after)) > _LONGEST_FILE:
            continue
        matcher = SequenceMatcher(None, before, after, autojunk=False)
        changes = [one[1:] for one in matcher.get_opcodes() if one[0] != "equal"]
        changes = changes[:_MOST_HUNKS]
        sizes = [max(b - a, d - c) for a, b, c, d in changes]
        if len(changes) >= 2 and max(sizes) <= _LONGEST_HUNK:
            yield Chain(name, path, tuple(before), tuple(after), tuple(changes))


def state(chain: Chain, count: int) -> tuple[list[str], History, int]:
    """The lines after the first `count` changes, their history, and the last changed line."""
    lines, history, moved, last = list(chain.old), History(), 0, 0
    for start, stop, new_start, new_stop in chain.changes[:count]:
        made = list(chain.new[new_start:new_stop])
        at = start + moved
        history.changed(at, lines[at : at + stop - start], made)
        lines[at : at + stop - start] = made
        moved += len(made) - (stop - start)
        last = at + max(len(made) - 1, 0)
    return lines, history, last


def shown(
    chain: Chain, count: int, showings: gate.Showings | None = None
) -> tuple[NextEdit | None, list[str]]:
    """The edit that the user would see after so many changes, and the lines then; `showings` are
    those after fewer changes."""
    lines, history, last = state(chain, count)
    text = "\n".join(lines)
    document = Document("", chain.path, text)
    source = document.source
    if source is None or not history.hunks:
        return None, lines
    cursor = sum(len(line) + 1 for line in lines[:last])
    scene = Scene(document, source, cursor, history.hunks)
    showings = showings or gate.Showings()
    passed = showings.passed(history.newest)
    moment = gate.Moment(chain.path, text, last, history.hunks, history.undone, passed=passed)
    for edit in gate.find(scene)[:8]:
        verdict = gate.judge(edit, moment)
        if verdict.passes(gate.Level.NORMAL):
            showings.note(gate.key(chain.path, text, edit), history.newest)
            return edit, lines
        if verdict.ends:
            break
    return None, lines


def applied(edit: NextEdit, lines: Sequence[str]) -> list[str]:
    """The lines after an edit."""
    text = "\n".join(lines)
    return (text[: edit.start] + edit.text + text[edit.stop :]).split("\n")


def is_right(chain: Chain, lines: Sequence[str], after: Sequence[str]) -> bool:
    """Whether an edit brings the file nearer to the newer release and away nowhere: what remains to
    change after it is less, and its own new lines stand in the newer release at that place."""
    before = SequenceMatcher(None, lines, chain.new, autojunk=False)
    later = SequenceMatcher(None, after, chain.new, autojunk=False)

    def remaining(matcher: SequenceMatcher[str]) -> int:
        return sum(max(b - a, d - c) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal")

    return remaining(later) < remaining(before)


def is_part(chain: Chain, lines: Sequence[str], after: Sequence[str]) -> bool:
    """Whether every token that an edit adds or removes is added or removed by the newer release in
    the block of changed lines that the edit is in, or its lines are new there with another indent.
    """
    changed = between(lines, after)
    if changed is None:
        return False
    first, old, new = changed
    stop = first + len(old)
    added = {line.strip() for line in new} - {line.strip() for line in lines}
    if added and added <= {line.strip() for line in chain.new}:
        return True
    matcher = SequenceMatcher(None, lines, chain.new, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal" and a <= first and stop <= b:
            before, goal = _tokens(lines[a:b]), _tokens(chain.new[c:d])
            made = _tokens([*lines[a:first], *new, *lines[stop:b]])
            return _distance(before, goal) - _distance(made, goal) == _distance(before, made)
    return False


def _tokens(lines: Iterable[str]) -> list[str]:
    return [token for line in lines for token in tokens(line) if not token.isspace()]


def _distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Tokens to remove and to add."""
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return len(one) + len(other) - 2 * sum(same.size for same in matcher.get_matching_blocks())


def delta_chr_f(old: str, wanted: str, made: str) -> float:
    """chrF (n up to 6, beta 2) of the characters that each of two edits adds and removes.

    After Popović 2015, over the n-grams that differ from the old text, as next-edit models are
    compared: 100 where both change the same.
    """
    scores = []
    for size in range(1, 7):
        base, goal, got = (_grams(text, size) for text in (old, wanted, made))
        wanted_delta = (goal - base) + Counter({f"-{k}": v for k, v in (base - goal).items()})
        made_delta = (got - base) + Counter({f"-{k}": v for k, v in (base - got).items()})
        if not wanted_delta and not made_delta:
            continue
        common = sum((wanted_delta & made_delta).values())
        precision = common / max(sum(made_delta.values()), 1)
        recall = common / max(sum(wanted_delta.values()), 1)
        both = 4 * precision + recall
        scores.append(5 * precision * recall / both if both else 0.0)
    return 100 * sum(scores) / len(scores) if scores else 100.0


def _grams(text: str, size: int) -> Counter[str]:
    return Counter(text[at : at + size] for at in range(len(text) - size + 1))


def is_quiet(chain: Chain) -> bool:
    """Whether the changes after the first share no word of it, so that nothing follows from it."""
    first = _words(chain, chain.changes[0])
    return all(not first & _words(chain, one) for one in chain.changes[1:])


def _words(chain: Chain, change: Opcode) -> set[str]:
    start, stop, new_start, new_stop = change
    old = " ".join(chain.old[start:stop]).replace("(", " ").replace(")", " ").split()
    new = " ".join(chain.new[new_start:new_stop]).replace("(", " ").replace(")", " ").split()
    return {word.strip(".,:[]{}\"'") for word in set(old) ^ set(new)} - {""}


def measure(found: Sequence[Chain]) -> dict[str, Any]:
    """The figures of the rules."""
    kinds: dict[str, Counter[str]] = {}
    exact = position = 0
    scores: list[float] = []
    wrong: list[str] = []
    once: Counter[str] = Counter()
    started = time.perf_counter()
    moments = 0
    for chain in found:
        count = len(chain.changes) - 1
        known: set[gate.Key] = set()
        showings = gate.Showings()
        for step in range(1, count + 1):
            moments += 1
            edit, lines = shown(chain, step, showings)
            if edit is None:
                continue
            after = applied(edit, lines)
            right = is_right(chain, lines, after)
            tally = kinds.setdefault(edit.kind.value, Counter())
            tally["shown"] += 1
            tally["right"] += right
            part = right or is_part(chain, lines, after)
            tally["right_in_part"] += part
            key = gate.key(chain.path, "\n".join(lines), edit)
            if key not in known:
                known.add(key)
                once.update(shown=1, right=right, right_in_part=part)
            if not right:
                line = "\n".join(lines).count("\n", 0, edit.start)
                place = f"{chain.name} {chain.path}:{line + 1}, after {step} changes"
                said = "in part right" if part else "wrong"
                wrong.append(f"{place}: {edit.kind}, {edit.text[:60]!r}, {said}")
            if step == count:
                target = chain.changes[-1]
                goal = list(chain.new)
                exact += after == goal
                line = "\n".join(lines).count("\n", 0, edit.start)
                shift = len(lines) - len(chain.old)
                position += target[0] + shift - 1 <= line <= target[1] + shift
                scores.append(delta_chr_f("\n".join(lines), "\n".join(goal), "\n".join(after)))
    took_s = time.perf_counter() - started
    quiet = [chain for chain in found if is_quiet(chain)]
    silent = sum(shown(chain, 1)[0] is None for chain in quiet)
    shown_count = sum(one["shown"] for one in kinds.values())
    right_count = sum(one["right"] for one in kinds.values())
    part_count = sum(one["right_in_part"] for one in kinds.values())
    return {
        "chains": len(found),
        "moments": moments,
        "shown": shown_count,
        "precision": round(right_count / shown_count, 3) if shown_count else None,
        "precision_in_part": round(part_count / shown_count, 3) if shown_count else None,
        "once": dict(once),
        "by_kind": {name: dict(one) for name, one in sorted(kinds.items())},
        "last_change": {
            "exact": exact,
            "position": position,
            "with_edit": len(scores),
            "delta_chr_f": round(sum(scores) / len(scores), 1) if scores else None,
        },
        "quiet_moments": len(quiet),
        "quiet_rate": round(silent / len(quiet), 3) if quiet else None,
        "ms_for_each_moment": round(1000 * took_s / max(moments, 1), 1),
        "wrong": wrong,
    }


def packages() -> dict[str, list[str]]:
    """The requirements of each set."""
    found: dict[str, list[str]] = {}
    for line in _PACKAGES.read_text("utf-8").splitlines():
        if line.startswith("# Set "):
            rows = found.setdefault(line.removeprefix("# Set ").partition(":")[0], [])
        elif line and not line.startswith("#"):
            rows.append(line)
    return found


def _result(name: str) -> Path:
    """Where the result of a set is kept."""
    ending = "" if name == "tuned" else "_" + name.replace("-", "_")
    return _RESULTS / f"edits{ending}.json"


def of_set(found: Sequence[Chain], requirements: Sequence[str]) -> list[Chain]:
    """The chains of the packages of a set."""
    names = names_of(requirements)
    return [chain for chain in found if chain.name in names]


def names_of(requirements: Sequence[str]) -> set[str]:
    """The packages of some requirements as wheels are called."""
    return {one.partition("==")[0].lower().replace("-", "_") for one in requirements}


def download(folder: Path, requirements: Sequence[str]) -> None:
    """Wheels, checked against their hashes; two releases need two calls of pip."""
    for line in requirements:
        one = folder / "one.txt"
        one.write_text(line + "\n", "utf-8")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:",
             "--require-hashes", "-d", str(folder), "-r", str(one)],
            check=True,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep the result")
    known = packages()
    parser.add_argument("--set", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--folder", type=Path, help="wheels that are there already")
    parser.add_argument("--model", help="measure this model too, by catalogue name or file")
    parser.add_argument("--limit", type=int, default=60, help="chains that the model is asked")
    parser.add_argument("--seed", type=int, default=1, help="of the sample for the model")
    parser.add_argument("--minutes", type=float, default=60, help="the longest time for the model")
    parser.add_argument("--notes", type=Path, help="keep the model's answers here, to go on later")
    parser.add_argument("--no-rules", action="store_true", help="measure the model only")
    chosen = parser.parse_args()
    sets = {name: rows for name, rows in known.items() if name in chosen.set}
    every = list(itertools.chain(*sets.values()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder
        if folder is None:
            folder = Path(temporary)
            download(folder, every)
        found = of_set(list(chains(folder)), every)
        for name, rows in sets.items() if not chosen.no_rules else ():
            made = head("edits", variant=f"rules with the gate, level normal, no index; set {name}")
            publish({**made, **measure(of_set(found, rows))}, _result(name), save=chosen.save)
        if chosen.model:
            import edits_model

            from assistant.models.catalogue import resolve

            made = head("edits by a model", variant=f"no index; sets {', '.join(sets)}")
            measured = edits_model.measure(
                found,
                chosen.limit,
                resolve(chosen.model),
                seed=chosen.seed,
                minutes=chosen.minutes,
                notes=chosen.notes,
            )
            publish({**made, **measured}, _MODEL_RESULT, save=chosen.save)


if __name__ == "__main__":
    main()
