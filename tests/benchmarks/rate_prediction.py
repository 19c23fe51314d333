"""Predicted prompt and decode rates beside measured ones: `make bench-rates`.

    python tests/benchmarks/rate_prediction.py [--rounds N] [--save]

The machine's rates are measured again, as `underkeel recommend --measure` does. Then each model is
planned, its rates are predicted, and it is loaded and run by that plan: the starter models, and
models of true shape with random weights, cut to a few layers. Times are the fastest of several
rounds; on a busy machine, the processor time spread over the threads, as in the measurement itself
(`Stopwatch`). `error` is predicted / measured - 1. Prints JSON; `--save` also keeps it in
tests/benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path(__file__).resolve().with_name("results") / "rate_prediction.json"
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import msgspec  # noqa: E402
from gpu_check.random_weights import write_random  # noqa: E402
from head import head, publish  # noqa: E402

from assistant.llama import LoadSpec, choose_threads, processors  # noqa: E402
from assistant.llama.probe import Stopwatch  # noqa: E402
from assistant.memory.gguf.header import read_header  # noqa: E402
from assistant.memory.model.known_models import header_of, known_models  # noqa: E402
from assistant.memory.model.profile import model_of  # noqa: E402
from assistant.memory.planning import Requirements, this_machine  # noqa: E402
from assistant.memory.planning.plan_report import predict_speed  # noqa: E402
from assistant.memory.planning.planner import make_plan  # noqa: E402
from assistant.memory.rates import machine_rates  # noqa: E402
from assistant.models.catalogue import resolve  # noqa: E402

PROMPT_TOKENS = 192
DECODED_TOKENS = 16
HELD_TOKENS = 256
# Name, layers that are kept, quantisation, vocabulary.
CUT = (
    ("qwen3-coder-30b-a3b", 2, "Q4_K_M", 4096),
    ("qwen2.5-coder-7b", 2, "Q4_K_M", 4096),
    ("granite-3.1-3b-a800m", 8, "Q8_0", 4096),
)


def run(path: Path, rounds: int) -> None:
    """In a child: load by the spec on stdin, print the rates."""
    from assistant.llama.context import Context
    from assistant.llama.model import Model
    from assistant.llama.structs import Span

    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec)
    model = Model(spec)
    context = Context(model, spec)
    prompt = [300 + index % 1000 for index in range(HELD_TOKENS)]
    prefill, decode = [], []
    threads = 0 if spec.devices else choose_threads(spec.n_threads, processors()).count
    for _ in range(rounds):
        context.forget(0)
        watch = Stopwatch(threads)
        context.decode([Span(0, 0, prompt[:PROMPT_TOKENS], 1)])
        prefill.append(watch.seconds())
        context.decode([Span(0, PROMPT_TOKENS, prompt[PROMPT_TOKENS:], 1)])
        for position in range(HELD_TOKENS, HELD_TOKENS + DECODED_TOKENS):
            watch = Stopwatch(threads)
            context.decode([Span(0, position, [500 + position % 100], 1)])
            decode.append(watch.seconds())
    rates = {
        "prefill": PROMPT_TOKENS / min(prefill),
        "decode": 1 / sorted(decode)[len(decode) // 4],
    }
    sys.stdout.write(json.dumps(rates))


def compare(path: Path, rounds: int) -> dict[str, Any]:
    machine, _ = this_machine()
    plan = make_plan(model_of(read_header(path)), machine, Requirements(n_ctx=2048))
    speed = predict_speed(plan, machine_rates(machine.gpus))
    done = subprocess.run(
        [sys.executable, __file__, "--run", str(path), "--rounds", str(rounds)],
        input=msgspec.json.encode(plan.to_load_spec()),
        stdout=subprocess.PIPE,
        check=True,
        env={"OMP_WAIT_POLICY": "passive", **os.environ},
    )
    measured = json.loads(done.stdout)
    predicted = {"prefill": speed.prefill_tokens_per_s, "decode": speed.decode_tokens_per_s}
    return {
        kind: {
            "predicted": round(predicted[kind], 2),
            "measured": round(measured[kind], 2),
            "error": round(predicted[kind] / measured[kind] - 1, 3),
        }
        for kind in predicted
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.rounds)
        return
    os.environ.pop("UNDERKEEL_MEASURE", None)
    heading = head("rate_prediction", llama_cpp_python=version("llama-cpp-python"))
    machine, _ = this_machine()
    found: dict[str, Any] = {
        "rates": msgspec.to_builtins(machine_rates(machine.gpus, again=True)),
        "models": {},
    }
    with tempfile.TemporaryDirectory(prefix="rates-") as folder:
        for name in ("qwen2.5-coder-0.5b", "starter-moe"):
            found["models"][name] = compare(resolve(name), options.rounds)
        for name, layers, quantisation, vocabulary in CUT:
            shape = msgspec.structs.replace(
                known_models()[name].shape, layers=layers, vocabulary=vocabulary
            )
            path = Path(folder) / f"{name}.gguf"
            write_random(path, header_of(shape, quantisation, name))
            found["models"][f"{name} ({layers} layers, {quantisation})"] = compare(
                path, options.rounds
            )
            path.unlink()
    settings = {
        "prompt_tokens": PROMPT_TOKENS,
        "decoded_tokens": DECODED_TOKENS,
        "held_tokens": HELD_TOKENS,
        "rounds": options.rounds,
    }
    publish({**heading, "settings": settings, **found}, RESULT, save=options.save)


if __name__ == "__main__":
    main()
