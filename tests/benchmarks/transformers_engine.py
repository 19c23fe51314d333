"""The Transformers engine's tests, run for real in an environment that has torch, and its figures.

Makes that environment once (1.5 GB), runs `tests/unit/engine/test_transformers*.py` in it, then
measures what 16 bits, NF4, GPTQ and AWQ take and how a kept prefix helps. Prints JSON; the last
result is kept in tests/benchmarks/results/transformers_engine.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/equipment")]
RESULT = ROOT / "tests/benchmarks/results/transformers_engine.json"
TESTS = ("tests/unit/engine/test_transformers.py", "tests/unit/engine/test_transformers_packed.py")
PROMPT = "def fibonacci(n):\n    if n < 2:\n        return n\n    return" * 8


async def _figures(folder: Path, scheme: str, name: str) -> dict[str, Any]:
    from assistant.engine.transformers import TransformersEngine
    from assistant.engine.types import Delta, GenerateRequest, LoadSpec

    engine = TransformersEngine()
    info = await engine.load(LoadSpec(path=str(folder), n_ctx=1024, scheme=scheme))
    ids = tuple(await engine.tokenise(PROMPT))
    runs = []
    for _ in range(2):
        asked = GenerateRequest(id="r", prompt=ids, max_tokens=16)
        events = [event async for event in engine.generate(asked)]
        timings = events[-1].timings if not isinstance(events[-1], Delta) else None
        assert timings is not None
        runs.append(
            {
                "cached_tokens": timings.cached_tokens,
                "evaluated_tokens": timings.evaluated_tokens,
                "prefill_ms": round(timings.prefill_ms),
                "decode_ms_a_token": round(timings.decode_ms / timings.generated_tokens),
            }
        )
    await engine.close()
    return {
        "weights": name,
        "parameters": info.n_params,
        "size_bytes": info.size_bytes,
        "first": runs[0],
        "again": runs[1],
    }


def _inside(folder: Path) -> None:
    """In the other environment: the figures as one line of JSON."""
    import bitsandbytes
    import packed_checkpoint
    import torch
    import transformers

    found = [asyncio.run(_figures(folder, "", "16 bit"))]
    found.append(asyncio.run(_figures(folder, "nf4", "NF4, double quantisation")))
    for method in ("gptq", "awq"):
        packed = folder.with_name(method)
        packed_checkpoint.write(folder, packed, packed_checkpoint.Kind(method))
        found.append(asyncio.run(_figures(packed, "", f"{method.upper()} 4 bit, packed")))
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bitsandbytes": bitsandbytes.__version__,
    }
    print(json.dumps({"versions": versions, "loads": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    if inside := parser.parse_args().inside:
        _inside(inside)
        return
    import extra_environments
    import tiny_checkpoint
    from head import head, publish

    from assistant.models.catalogue import resolve

    heading = head("transformers_engine", gpus=0)
    python = extra_environments.transformers()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    tests = subprocess.run(
        [python, "-m", "pytest", *TESTS, "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    print(tests.stdout[-4000:], file=sys.stderr)
    counts = dict(re.findall(r"(\d+) (passed|failed|error|skipped)", tests.stdout)[::-1])
    with tempfile.TemporaryDirectory() as home:
        folder = tiny_checkpoint.make(Path(home) / "tiny", resolve("starter-moe"), python)
        private = environment | {"UNDERKEEL_HOME": home}
        told = subprocess.run(
            [python, __file__, "--inside", folder],
            env=private,
            capture_output=True,
            text=True,
            check=True,
        )
    result = {
        **heading,
        "checkpoint": {
            "layers": tiny_checkpoint.LAYERS,
            "experts": tiny_checkpoint.EXPERTS,
            "used": tiny_checkpoint.USED,
        },
        "tests": {outcome: int(count) for count, outcome in counts.items()},
        **json.loads(told.stdout.splitlines()[-1]),
    }
    publish(result, RESULT, save=True)
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main()
