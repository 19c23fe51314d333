"""What the editor's status line is reported of memory, cells, speed and cuts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from daemons import until
from editing import Editing, PlayedClient
from msgspec.structs import replace

from assistant.engine.types import EngineStats, ModelInfo
from assistant.errors import DaemonError
from assistant.wire import BudgetNow, DeviceNow, RungNow, ServiceState, Status
from lsp import served_model
from lsp.editor import Severity
from lsp.served_model import Health, facts_of
from lsp.server import Server

MIB = 1 << 20
SCARCE = BudgetNow(tokens=512, level=2, reason="SIM0 has 90 MiB free of a 256 MiB margin")
STATUS = Status(
    version="1",
    pid=1,
    uptime_s=1.0,
    state=ServiceState.READY,
    model=ModelInfo(name="played", n_ctx=4096),
    budget=SCARCE,
    stats=EngineStats(
        cells_used=300,
        cells_total=4096,
        cached_tokens=900,
        evaluated_tokens=100,
        decode_tokens_per_s=41.26,
    ),
    devices=(
        DeviceNow(name="SIM0", total_bytes=8192 * MIB, free_bytes=90 * MIB),
        DeviceNow(name="SIM1", total_bytes=4096 * MIB, free_bytes=1000 * MIB, lost=True),
        DeviceNow(name="CPU", total_bytes=16384 * MIB, free_bytes=9000 * MIB),
    ),
    rung=RungNow(index=3, of=11, name="context", says="half of the context", reason="SIM0 is full"),
)


def test_all_that_the_protocol_names() -> None:
    assert facts_of(STATUS) == {
        "model": "played",
        "budget": {"tokens": 512, "level": 2, "reason": SCARCE.reason},
        # what a lost GPU had is not free
        "vram": {"usedBytes": (8192 - 90 + 4096) * MIB, "freeBytes": 90 * MIB},
        "kv": {"usedTokens": 300, "totalTokens": 4096},
        "tokensPerSecond": 41.3,
        "cacheHits": 0.9,
        "ladder": {
            "rung": "context",
            "gaveUp": "half of the context",
            "reason": "SIM0 is full",
        },
        "message": (
            "without half of the context (SIM0 is full); prompts of 512 tokens: " + SCARCE.reason
        ),
    }


def test_what_is_not_there_is_left_out() -> None:
    bare = Status(version="1", pid=1, uptime_s=1.0, state=ServiceState.READY)
    facts = facts_of(bare)
    assert facts.pop("message") == ""
    assert set(facts.values()) == {None}
    calm = replace(STATUS, budget=BudgetNow(tokens=1024), rung=RungNow(index=0, of=11, name="plan"))
    assert facts_of(calm)["message"] == "" and facts_of(calm)["ladder"] is None
    shorter = RungNow(index=1, of=11, name="trim", says="long prompts", reason=SCARCE.reason)
    assert facts_of(replace(STATUS, rung=shorter))["message"] == (
        "prompts of 512 tokens: " + SCARCE.reason
    )
    no_gpu = replace(STATUS, devices=STATUS.devices[-1:])
    assert facts_of(no_gpu)["vram"] is None


def test_it_asks_while_somebody_works_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_model, "_LEAST_S", 0.001)
    monkeypatch.setattr(served_model, "_EVERY_S", 0.002)
    asked: list[float] = []
    told: list[Any] = []
    now_s = 0.0

    async def ask() -> Status:
        asked.append(now_s)
        return STATUS

    async def main() -> None:
        nonlocal now_s
        watched = Health(ask, told.append, lambda: now_s)
        assert not asked
        watched.worked()
        await until(lambda: len(told) >= 3)
        now_s = 601.0
        await until(lambda: watched._task is None or watched._task.done())
        before = len(asked)
        watched.worked()
        await until(lambda: len(asked) > before)
        await watched.aclose()

    asyncio.run(main())


def test_a_daemon_that_is_gone_is_asked_again_after_the_next_answer() -> None:
    failures: list[Exception] = [DaemonError("gone")]
    told: list[Status] = []

    async def ask() -> Status:
        if failures:
            raise failures.pop()
        return STATUS

    async def main() -> None:
        watched = Health(ask, told.append)
        watched.worked()
        await until(lambda: not failures)
        await asyncio.sleep(0.01)
        assert not told
        watched.worked()
        await until(lambda: bool(told))
        await watched.aclose()

    asyncio.run(main())


def test_the_editor_hears_it_with_the_prompt_and_the_next_one_keeps_to_it(
    dense_model: Path,
) -> None:
    async def main() -> None:
        client = PlayedClient(dense_model, health=STATUS)
        editing = Editing(client, "def add(a, b):\n    return \u2038\n")
        await editing.ask()
        facts = editing.editor.facts
        await until(lambda: bool(facts[-1].get("vram") and facts[-1].get("prompt")))
        assert facts[-1]["kv"] == {"usedTokens": 300, "totalTokens": 4096}
        assert facts[-1]["prompt"]["budgetTokens"] == 256  # the first one at a place (C28)
        editing.type("x")
        await editing.ask()
        prompt: dict[str, Any] = facts[-1]["prompt"]
        assert prompt["budgetTokens"] == SCARCE.tokens >= prompt["tokens"] > 0
        assert isinstance(prompt["cut"], list)
        assert client.requests[-1].budget_tokens == SCARCE.tokens
        await editing.session.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the model [/INST] does not fit", "the model [/INST] does not fit"),
        ("see [this](command:evil) link", "see [this] (command:evil) link"),
        ("two\nlines \x1b[2J\u202e", "two\nlines \\x1b[2J\\u202e"),
    ],
)
def test_foreign_text_in_a_message_is_only_text(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    """S12: VS Code makes links of messages, which run commands."""
    said: list[str] = []
    monkeypatch.setattr(
        Server, "window_show_message", lambda _, params: said.append(params.message)
    )
    Server().message(Severity.INFO, text)
    assert said == [shown]
