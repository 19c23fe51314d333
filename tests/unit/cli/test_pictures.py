"""What `status` and `top` draw."""

from __future__ import annotations

from io import StringIO

from msgspec.structs import replace
from rich.console import Console, RenderableType

from assistant.cli import status as status_command
from assistant.engine.types import Counting, EngineStats, ModelInfo
from assistant.errors import UnknownModelError
from assistant.wire import BudgetNow, DeviceNow, ErrorNow, RungNow, ServiceState, Status

READY = Status(
    version="1",
    pid=7,
    uptime_s=10.0,
    state=ServiceState.READY,
    model=ModelInfo(name="Coder", path="/m/coder.gguf", architecture="qwen2", n_ctx=8192),
    stats=EngineStats(
        cells_used=1024,
        cells_total=8192,
        evaluated_tokens=100,
        cached_tokens=300,
        generated_tokens=50,
        decode_tokens_per_s=42.0,
    ),
    budget=BudgetNow(tokens=2048, level=1, reason="another program took 6 GiB of CUDA0"),
    devices=(
        DeviceNow(name="CUDA0", total_bytes=24 << 30, free_bytes=2 << 30, ours_bytes=16 << 30),
        DeviceNow(name="CPU", total_bytes=64 << 30, free_bytes=32 << 30),
    ),
    rung=RungNow(index=3, of=11, name="context", says="half of the context", reason="CUDA0 low"),
)


def drawn(what: RenderableType) -> str:
    console = Console(file=StringIO(), width=100)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_status_shows_what_matters() -> None:
    text = drawn(status_command.picture(READY))
    for part in (
        "ready",
        "Coder",
        "1024 of 8192 cells",
        "42 tokens/s",
        "75% of 400 prompt tokens",
        "2.00 of 24.00 GiB free, 16.00 for the model",
        "2048 prompt tokens, level 1  (another program took 6 GiB of CUDA0)",
        "context, rung 3 of 10, without half of the context  (CUDA0 low)",
    ):
        assert part in text


def test_status_explains_failure_loading_and_loss() -> None:
    error = ErrorNow.of(UnknownModelError("there is no such file", subject="x", advice="Pull it"))
    failed = Status(version="1", pid=7, uptime_s=0, state=ServiceState.FAILED, error=error)
    assert "x: there is no such file. Pull it" in drawn(status_command.picture(failed))
    loading = replace(failed, state=ServiceState.LOADING, stage="reading", progress=0.25)
    assert "loading  reading 25%" in drawn(status_command.picture(loading))
    lost = replace(READY, devices=(replace(READY.devices[0], lost=True),))
    assert "lost" in drawn(status_command.picture(lost))


def test_top_draws_every_device_and_the_reason() -> None:
    assert READY.stats is not None
    later = replace(
        READY, uptime_s=12.0, stats=replace(READY.stats, generated_tokens=150, cells_used=4096)
    )
    text = drawn(status_command.plots([READY, later], 100))
    for part in (
        "CUDA0  2.0 of 24.0 GiB free",
        "KV cells  4096 of 8192",
        "budget  2048 tokens, level 1",
        "another program took 6 GiB",
        "decode  50 tokens/s",
    ):
        assert part in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_rates_are_zero_across_a_restart() -> None:
    assert READY.stats is not None
    fresh = replace(READY, uptime_s=11.0, stats=replace(READY.stats, generated_tokens=0))
    gone = replace(READY, uptime_s=12.0, stats=None)
    back = replace(READY, uptime_s=13.0)
    assert status_command.rates([READY, fresh, gone, back]) == [0.0, 0.0, 0.0]


def test_status_names_the_server_and_says_what_is_only_estimated() -> None:
    remote = ModelInfo(
        name="team", server="https://gpu.example:8000", counting=Counting.ESTIMATE, n_ctx=4096
    )
    shown = drawn(status_command.picture(replace(READY, model=remote)))
    assert "https://gpu.example:8000" in shown and "estimated" in shown
    exact = drawn(
        status_command.picture(replace(READY, model=replace(remote, counting=Counting.EXACT)))
    )
    assert "estimated" not in exact


def test_status_shows_the_second_model() -> None:
    second = replace(READY, explain_state=ServiceState.RELEASED)
    assert "not loaded yet" in drawn(status_command.picture(second))
    ready = replace(
        READY, explain_state=ServiceState.READY, explain_model=ModelInfo(name="Explainer")
    )
    assert "Explainer  (ready)" in drawn(status_command.picture(ready))
