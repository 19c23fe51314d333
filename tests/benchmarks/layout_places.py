"""Places to complete: lines of this repository's own source with something taken away."""

from __future__ import annotations

import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """A file with something missing at character `cursor`.

    `wanted` is what, `behind` the rest of the line, `healed` what stands before the cursor and is
    given back.
    """

    key: str
    text: str
    cursor: int
    wanted: str
    behind: str
    healed: str = ""


def places(kind: str, count: int, seed: int = 11) -> list[Place]:
    """The same places for the same files and seed, drawn over all files in turn."""
    listing = subprocess.run(
        ["git", "ls-files", "*.py", "*.lua", "*.ts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [name for name in listing.stdout.split() if "/results/" not in name]
    rng = random.Random(f"{seed} {kind.split(maxsplit=1)[0]}")
    rng.shuffle(files)
    found: list[Place] = []
    while len(found) < count and files:
        for name in files:
            place = _place(kind, name, rng)
            if place and len(found) < count:
                found.append(place)
    return found


def _place(kind: str, name: str, rng: random.Random) -> Place | None:
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    rows = [row for row, line in enumerate(lines) if row >= 12 and _is_code(line)]
    if not rows:
        return None
    row = rng.choice(rows)
    line = lines[row].rstrip("\n")
    start = sum(map(len, lines[:row]))
    indent = len(line) - len(line.lstrip())
    first, last = indent, len(line)
    if kind in {"rest", "span"}:
        ends = [at for at in range(indent + 3, len(line) - 2) if _ends_word(line, at)]
        if len(ends) < 2:
            return None
        first = rng.choice(ends[:-1] if kind == "span" else ends)
        if kind == "span":
            last = rng.choice([at for at in ends if at > first])
    missing = line[first:last]
    if len(missing.strip()) < 2:
        return None
    return Place(
        key=f"{name}:{row + 1}:{first}",
        text=text[: start + first] + text[start + last :],
        cursor=start + first,
        wanted=missing,
        behind=line[last:],
        healed=line[:first] if kind == "line" else "",
    )


def _is_code(line: str) -> bool:
    """Neither blank nor short nor a comment; prose in docstrings has few signs."""
    bare = line.strip()
    return (
        6 <= len(bare) <= 90
        and not bare.startswith(("#", "--", "//", '"""', "*"))
        and re.search(r"[=(\[{:]|\b(return|import|end|raise|else|if)\b", bare) is not None
    )


def _ends_word(line: str, at: int) -> bool:
    """Between words, where the tokens of what stands before do not depend on what follows."""
    return line[at - 1] != " " and not (line[at - 1].isalnum() and line[at].isalnum())
