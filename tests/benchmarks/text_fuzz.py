"""Fuzzes what sees foreign text: 10,000 secrets, 10,000 values that only look like it, and 20,000
sequences of edits over the language server's protocol, compared with a simple reference.

Prints JSON; `--save` keeps it in tests/benchmarks/results/text_fuzz.json.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

from head import head, publish

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests/benchmarks/results/text_fuzz.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests/equipment")]

from made_texts import differs, harmless, leaks, secret, sequence  # noqa: E402

from context.syntax.secrets import masked  # noqa: E402
from lsp.server import Server  # noqa: E402

_MOST_SHOWN = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=10_000, help="of each kind")
    parser.add_argument("--sequences", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    result = head("text_fuzz") | {"seed": options.seed}
    rng = random.Random(options.seed)
    made = [secret(rng) for _ in range(options.values)]
    missed = [text for text, value in made if leaks(value, masked(f"x = 1\n{text}y = 2\n"))]
    others = [harmless(rng) for _ in range(options.values)]
    wrong = [text for text in others if masked(text) != text]
    result["secrets"] = {
        "values": len(made),
        "recall": 1 - len(missed) / len(made),
        "missed": missed[:_MOST_SHOWN],
    }
    result["other_values"] = {
        "values": len(others),
        "masked": len(wrong),
        "examples": wrong[:_MOST_SHOWN],
    }
    result["edits"] = asyncio.run(_edits(rng, options.sequences))
    publish(result, RESULT, save=options.save)


async def _edits(rng: random.Random, count: int) -> dict[str, object]:
    server = Server()
    changes = 0
    different: list[str] = []
    for number in range(count):
        made = sequence(rng)
        changes += len(made.changes)
        if problem := differs(server, made):
            different.append(f"{problem}: {made!r}")
        if number % 100 == 0:
            await asyncio.sleep(0)
    await server.session.aclose()
    return {
        "sequences": count,
        "changes": changes,
        "different": len(different),
        "examples": different[:_MOST_SHOWN],
    }


if __name__ == "__main__":
    main()
