"""Fuzzes what sees foreign text: 10,000 secrets, 10,000 values that only look like it, and 20,000
sequences of edits over the language server's protocol, compared with a simple reference. Counts
what is masked in a million lines of real code that is installed on this machine.

Prints JSON; `--save` keeps it in tests/benchmarks/results/text_fuzz.json.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import re
import sys
import sysconfig
import time
from pathlib import Path

from head import head, publish

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests/benchmarks/results/text_fuzz.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests/equipment")]

from made_texts import differs, harmless, leaks, secret, sequence  # noqa: E402

from context.syntax.secrets import ShownText, masked  # noqa: E402
from lsp.server import Server  # noqa: E402

_MOST_SHOWN = 20
_MOST_BYTES = 400_000
_BASE64_LINE = re.compile(r"[A-Za-z0-9+/]{60,}={0,2}\s*")
_CODE = (
    ".py .pyi .js .mjs .cjs .ts .json .toml .yml .yaml .c .h .hpp .cpp .cc .rs .go .rb .pl .pm .lua"
    " .vim .sh .md .rst .txt .cfg .ini .cmake .html .css .xml .java"
)
_SUFFIXES = frozenset(_CODE.split(" "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=10_000, help="of each kind")
    parser.add_argument("--sequences", type=int, default=20_000)
    parser.add_argument("--lines", type=int, default=1_200_000, help="of real code")
    parser.add_argument("--code", type=Path, nargs="*", default=_code_folders(), help="its folders")
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
    result["real_code"] = _real_code(rng, options.code, options.lines)
    result["edits"] = asyncio.run(_edits(rng, options.sequences))
    publish(result, RESULT, save=options.save)


def _code_folders() -> list[Path]:
    """Where Python's packages, Node's, and headers of C usually are."""
    base = Path(sys.base_prefix)
    folders = [Path(sysconfig.get_paths()["purelib"]), base / "lib", Path("/usr/lib/python3")]
    folders += [Path("/usr/lib/node_modules"), Path("/usr/share/vim"), Path("/usr/include")]
    folders += [Path.home() / ".cache/uv/sdists-v11"]
    return [folder for folder in folders if folder.is_dir()]


def _real_code(rng: random.Random, folders: list[Path], most_lines: int) -> dict[str, object]:
    """How much of published code is masked, each file once; it holds hardly any secret.

    Lines of base64 in a file of their own are masked in any case: they are counted separately.
    """
    seen: set[bytes] = set()
    lines = spans = encoded = 0
    examples: list[str] = []
    started = time.process_time()
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
        rng.shuffle(paths)
        limit = min(lines + most_lines * 2 // 5, most_lines)
        for path in paths:
            if lines >= limit:
                break
            text = _text(path)
            key = hashlib.sha256(text.encode()).digest()
            if not text or key in seen:
                continue
            seen.add(key)
            lines += text.count("\n")
            found = [text[start:stop] for start, stop in ShownText(text).spans]
            others = [span for span in found if not _BASE64_LINE.fullmatch(span)]
            spans += len(others)
            encoded += len(found) - len(others)
            examples += [f"{path.name}: {span[:80]}" for span in others]
    took_s = time.process_time() - started
    return {
        "files": len(seen),
        "lines": lines,
        "spans": spans,
        "spans_of_a_million_lines": round(1e6 * spans / max(lines, 1), 1),
        "lines_of_base64": encoded,
        "seconds_of_a_million_lines": round(1e6 * took_s / max(lines, 1), 1),
        "examples": rng.sample(examples, min(len(examples), _MOST_SHOWN)),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8") if path.stat().st_size <= _MOST_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


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
