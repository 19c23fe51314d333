"""The remote engines against the real things: llama-server, and vLLM's build for CPUs.

    python tests/benchmarks/remote_engines.py [--only llama-server|vllm] [--save]

Builds llama-server and installs vLLM in environments of their own the first time (4 GB, ten
minutes). Checks by counts, not by times: whether tokens are counted as the server counts them,
whether answers are those of the same model on this machine, whether hanging up frees the server,
whether typing is served from its cache, whether its gauge moves the budget. Prints JSON; `--save`
keeps it in tests/benchmarks/results/. Exit code 1 where a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/equipment")]

import extra_environments  # noqa: E402
import httpx  # noqa: E402
import llama_server  # noqa: E402
import tiny_checkpoint  # noqa: E402
import vllm_server  # noqa: E402
from daemons import serving  # noqa: E402
from head import head, publish  # noqa: E402

from assistant import paths  # noqa: E402
from assistant.cli.language_client import language_server  # noqa: E402
from assistant.daemon.loading import ServerPlanning  # noqa: E402
from assistant.engine.local import LlamaEngine  # noqa: E402
from assistant.engine.remote import RemoteEngine  # noqa: E402
from assistant.engine.remote.dialect import read_gauges  # noqa: E402
from assistant.engine.types import Counting, Delta, Done, GenerateRequest, LoadSpec  # noqa: E402
from assistant.models import vocabulary  # noqa: E402
from assistant.models.catalogue import resolve  # noqa: E402
from assistant.models.token_estimate import Estimate  # noqa: E402
from assistant.settings import RemoteSettings, Settings  # noqa: E402

RESULT = ROOT / "tests/benchmarks/results/remote_engines.json"
URI = "file:///work.py"
TEXT = "def add(a, b):\n    ret\n\nprint(add(1, 2))\n"
PROMPTS = [
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "import os\n\ndef read(path):\n    with open(path) as file:\n        return",
    "for (int i = 0; i < n; i++) {\n    sum +=",
]
KEY = "sk-bench-remote"
BLOCK_TOKENS = 128  # vLLM's on a CPU; 16 on a GPU
# What counts here is what comes, not when: the machine may be busy with other things.
PATIENT = {"completion": {"time_limit_ms": 60_000, "first_line_ms": 60_000, "ahead": False}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["llama-server", "vllm"])
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    result = head("remote_engines")
    parts = {"llama-server": _llama_server, "vllm": _vllm}
    if arguments.only and RESULT.exists():
        result = json.loads(RESULT.read_text("utf-8")) | result
    models = paths.models_dir()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"UNDERKEEL_HOME": home, "UNDERKEEL_MODELS": str(models)}
        for name, part in parts.items():
            if arguments.only in {None, name}:
                print(f"asking a real {name}", file=sys.stderr)
                result[name] = part(Path(home))
    publish(result, RESULT, save=arguments.save)
    checks = [ok for name in parts for ok in result.get(name, {}).get("checks", {}).values()]
    sys.exit(0 if all(checks) else 1)


def _llama_server(_: Path) -> dict[str, Any]:
    model = resolve("qwen2.5-coder-0.5b")
    flags = ("-ub", "512", "-b", "512", "-np", "1", "--metrics", "--alias", "qwen2.5-coder-0.5b")
    with llama_server.serve(llama_server.build(), model, 2048, 2, flags) as server:
        return asyncio.run(_ask_llama_server(server.url, model))


async def _ask_llama_server(url: str, model: Path) -> dict[str, Any]:
    engine = RemoteEngine(RemoteSettings(url=url))
    info = await engine.load(LoadSpec(path=""))
    text = _sources(400_000)
    told = vocabulary.load(info.vocabulary).encode(text)
    server_ids = await asyncio.to_thread(_tokenise, url, text)
    prompts = [tuple(await engine.tokenise(prompt)) for prompt in PROMPTS]
    remote = [await _text(engine, ids) for ids in prompts]
    local_engine = LlamaEngine()
    await local_engine.load(LoadSpec(path=str(model), n_ctx=2048, n_seq_max=1))
    local = [await _text(local_engine, ids) for ids in prompts]
    await local_engine.close()
    healed = await _text(engine, prompts[0][:-1], must_start_with=" ret")
    typed = await _typing(engine)
    freed = await _hang_up(engine, prompts[0], lambda: _slots_busy(url))
    ghost = await _ghost_text(RemoteSettings(url=url, fallback=False))
    words = {"control": len(vocabulary.load(info.vocabulary).control)}
    own = vocabulary.load(model)
    await engine.close()
    same = sum(one == other for one, other in zip(remote, local, strict=True))
    checks = {
        "counted as the server counts": told == server_ids,
        "every special token known": vocabulary.load(info.vocabulary).special == own.special,
        "answers are those of the local engine": same >= len(PROMPTS) - 1,
        "typed text begins the answer": (healed or "").startswith(" ret"),
        "typing evaluates a few tokens a key": max(typed[1:]) <= 4,
        "hanging up frees the slot": freed is not None,
        "ghost text through the whole stack": (ghost or "").startswith("urn "),
    }
    return {
        "model": info.name,
        "counting": info.counting.value,
        "tokens_compared": len(told),
        "vocabulary": words,
        "load_ms": round(info.load_ms),
        "answers_same": f"{same} of {len(PROMPTS)}",
        "evaluated_tokens_by_key": typed,
        "freed_after_ms": freed,
        "ghost_text": ghost,
        "checks": checks,
    }


def _vllm(home: Path) -> dict[str, Any]:
    folder = home / "qwen2.5-coder-tiny"
    tiny_checkpoint.make(folder, resolve("qwen2.5-coder-0.5b"), extra_environments.transformers())
    key = home / "key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    with vllm_server.serve(
        extra_environments.vllm(),
        folder,
        "--enable-prompt-tokens-details",
        key=KEY,
    ) as server:
        return asyncio.run(_ask_vllm(server.url, folder, key))


async def _ask_vllm(url: str, folder: Path, key: Path) -> dict[str, Any]:
    settings = RemoteSettings(url=url, key_file=str(key))
    engine = RemoteEngine(settings)
    info = await engine.load(LoadSpec(path=""))
    blind = RemoteEngine(RemoteSettings(url=url, key_file=str(key), kind="openai"))
    blind_info = await blind.load(LoadSpec(path=""))
    headers = {"Authorization": f"Bearer {KEY}"}
    text = _sources(60_000)
    words = vocabulary.load(info.vocabulary) if info.vocabulary else None
    told = words.encode(text[:4000]) if words else []
    asked = {"model": info.name, "prompt": text[:4000], "add_special_tokens": False}
    async with httpx.AsyncClient(headers=headers, timeout=60) as http:
        answer = (await http.post(f"{url}/tokenize", json=asked)).json()
    prompts = [tuple(await engine.tokenise(prompt)) for prompt in PROMPTS]
    by_ids = [await _text(engine, ids) for ids in prompts]
    by_text = [await _text(blind, tuple(await blind.tokenise(prompt))) for prompt in PROMPTS]
    typed = await _typing(engine)
    freed = await _hang_up(engine, prompts[0], lambda: _vllm_running(url, headers))
    crowd, gauge = await _crowd(engine, words.encode(text) if words else [])
    budgets = await _budget_under(settings, gauge)
    ghost = await _ghost_text(settings)
    wrong = await _wrong_key(url, key)
    await engine.close()
    await blind.close()
    total = words.count(text) if words else 1
    checks = {
        "counted as the server counts": info.counting is Counting.EXACT
        and told == answer["tokens"],
        "estimated where it is taken for a plain server": blind_info.counting is Counting.ESTIMATE,
        "the estimate is above the real count": Estimate().count(text) > total,
        "ids and texts get the same answers": by_ids == by_text,
        "typing evaluates less than a block of the cache": max(typed[1:]) < BLOCK_TOKENS,
        "hanging up frees the server": freed is not None,
        "eight users are all answered": crowd == 8,
        "the cache's gauge is read": gauge > 0,
        "ghost text reaches the server": ghost is not None,
        "a wrong key is reported": wrong,
    }
    return {
        "model": info.name,
        "max_model_len": info.n_ctx,
        "estimate_to_real": round(Estimate().count(text) / total, 3),
        "load_ms": round(info.load_ms),
        "evaluated_tokens_by_key": typed,
        "freed_after_ms": freed,
        "users_answered": crowd,
        "kv_cache_used_at_most": round(gauge, 4),
        "budget_tokens_by_used_share": budgets,
        "checks": checks,
    }


async def _text(engine: Any, ids: tuple[int, ...], **requirements: Any) -> str:
    asked = GenerateRequest(id="r", prompt=ids, max_tokens=16, **requirements)
    events = [event async for event in engine.generate(asked)]
    return "".join(event.text for event in events if isinstance(event, Delta))


async def _typing(engine: RemoteEngine) -> list[int]:
    """Tokens evaluated for each key of a word typed behind a long prompt."""
    base, found = _sources(1200), []
    for typed in ("x", "x ", "x =", "x = ", "x = y"):
        ids = tuple(await engine.tokenise(base + typed))
        asked = GenerateRequest(id="t", prompt=ids, max_tokens=1)
        done = [event async for event in engine.generate(asked)][-1]
        assert isinstance(done, Done)
        found.append(done.timings.evaluated_tokens)
    return found


async def _hang_up(
    engine: RemoteEngine, ids: tuple[int, ...], busy: Callable[[], bool]
) -> int | None:
    """Milliseconds until the server works on nothing; None if it goes on."""
    stream = engine.generate(GenerateRequest(id="h", prompt=ids, max_tokens=1500))
    await anext(stream)
    assert await asyncio.to_thread(busy), "the server should be at work now"
    await stream.aclose()  # type: ignore[attr-defined]
    began = time.monotonic()
    while time.monotonic() - began < 10:
        if not await asyncio.to_thread(busy):
            return round((time.monotonic() - began) * 1000)
        await asyncio.sleep(0.01)
    return None


async def _crowd(engine: RemoteEngine, ids: list[int]) -> tuple[int, float]:
    """Eight users at once: how many were answered, and the most that the cache was full."""

    async def one(number: int) -> bool:
        start = number * 400
        asked = GenerateRequest(
            id=f"u{number}", prompt=tuple(ids[start : start + 1200]), max_tokens=48
        )
        return [event async for event in engine.generate(asked)][-1].reason is not None  # type: ignore[union-attr]

    users = [asyncio.create_task(one(number)) for number in range(8)]
    most = 0.0
    while not all(user.done() for user in users):
        most = max(most, 1 - (await engine.stats()).free_share)
        await asyncio.sleep(0.2)
    return sum([await user for user in users]), most


async def _budget_under(settings: RemoteSettings, used: float) -> dict[str, int]:
    """What a prompt may hold by the gauge, as the daemon decides it."""
    from assistant.daemon.budgets import Budgets
    from assistant.engine.types import EngineStats, Priority

    found: dict[str, int] = {}
    for share in (0.0, round(used, 4), 0.85, 0.9, 0.97):
        budgets = Budgets(1024, 64)
        stats = EngineStats(cells_total=2048, free_share=1 - share)
        budgets.look(2048, stats, (), 0.0)
        budget = budgets.of(Priority.INTERACTIVE)
        assert budget is not None
        found[str(share)] = budget.tokens
    return found


async def _ghost_text(settings: RemoteSettings) -> str | None:
    """What the language server suggests, over the daemon, over the server."""
    engine = RemoteEngine(settings)
    chosen = Settings(remote=settings)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with (
        serving(engine, settings=chosen, planner=ServerPlanning(None)) as daemon,
        language_server(env=environment) as client,
    ):
        await client.initialise(options=PATIENT)
        client.open(URI, TEXT, "python")
        _, response = client.send_completion(URI, 1, 7)
        items = (await response)["result"]["items"]
        stats = await daemon.service.supervisor.stats()
        assert stats is not None and stats.requests > 0
    return str(items[0]["insertText"]) if items else ""


async def _wrong_key(url: str, key: Path) -> bool:
    wrong = key.with_name("wrong")
    wrong.write_text("sk-another\n")
    wrong.chmod(0o600)
    engine = RemoteEngine(RemoteSettings(url=url, key_file=str(wrong), retries=0))
    try:
        await engine.load(LoadSpec(path=""))
    except Exception as error:
        return "refuses the key" in str(error) and "sk-another" not in str(error)
    finally:
        await engine.close()
    return False


def _sources(characters: int) -> str:
    """Real code of this project, the same on every run of one version."""
    files = sorted((ROOT / "assistant").rglob("*.py")) + sorted(
        (ROOT / "tests/unit/context/fixtures").rglob("*.*")
    )
    found = ""
    for path in files:
        found += path.read_text("utf-8")
        if len(found) > characters:
            break
    return found[:characters]


def _tokenise(url: str, text: str) -> list[int]:
    body = {"content": text, "parse_special": False}
    return list(httpx.post(f"{url}/tokenize", json=body, timeout=60).json()["tokens"])


def _slots_busy(url: str) -> bool:
    return any(slot["is_processing"] for slot in httpx.get(f"{url}/slots", timeout=10).json())


def _vllm_running(url: str, headers: dict[str, str]) -> bool:
    text = httpx.get(f"{url}/metrics", headers=headers, timeout=10).text
    return read_gauges(text)["vllm:num_requests_running"] > 0


if __name__ == "__main__":
    main()
