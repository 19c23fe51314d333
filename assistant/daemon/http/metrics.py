"""Prometheus metrics: counters of what was answered, gauges of how the daemon is now.

What llama-server has is called as there (`llamacpp:...`, tools/server/server-task.cpp,
`to_metrics`), so that dashboards fit; what is ours begins with `underkeel_`.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from assistant.engine.types import GenerateRequest, StopReason, Timings
from assistant.wire import ServiceState, Status

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0, 120.0)


class Metrics:
    """Everything counted since the daemon started; loads and deaths of the engine reset nothing."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._prompt = self._counter(
            "llamacpp:prompt_tokens", "Prompt tokens evaluated, of whole answers"
        )
        self._cached = self._counter(
            "llamacpp:prompt_tokens_cached", "Prompt tokens found in the KV cache"
        )
        self._prompt_s = self._counter("llamacpp:prompt_seconds", "Time spent on prompts")
        self._predicted = self._counter(
            "llamacpp:tokens_predicted", "Tokens generated, of whole answers"
        )
        self._predicted_s = self._counter(
            "llamacpp:tokens_predicted_seconds", "Time spent generating"
        )
        self._drafted = self._counter(
            "llamacpp:spec_decode_num_draft_tokens", "Tokens drafted by speculation"
        )
        self._accepted = self._counter(
            "llamacpp:spec_decode_num_accepted_tokens", "Drafted tokens that were accepted"
        )
        self._requests = Counter(
            "underkeel_requests",
            "Requests answered, by why the answer ended",
            ["priority", "reason"],
            registry=self._registry,
        )
        self._errors = Counter(
            "underkeel_errors", "Requests that failed", ["code"], registry=self._registry
        )
        self._seconds = Histogram(
            "underkeel_request_seconds",
            "Time from admission to the last token",
            ["priority"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queued = Histogram(
            "underkeel_queue_seconds",
            "Time a request waited for the engine",
            ["priority"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._free = self._device_gauge("underkeel_device_free_bytes", "Free bytes of a device")
        self._ours = self._device_gauge(
            "underkeel_device_model_bytes", "Bytes of a device that the model holds"
        )
        self._gauges: dict[str, Gauge] = {}

    def answered(
        self, request: GenerateRequest, reason: StopReason, timings: Timings, seconds: float
    ) -> None:
        """Count an answer that came to its end."""
        priority = request.priority.value
        self._prompt.inc(timings.evaluated_tokens)
        self._cached.inc(timings.cached_tokens)
        self._prompt_s.inc(timings.prefill_ms / 1000)
        self._predicted.inc(timings.generated_tokens)
        self._predicted_s.inc(timings.decode_ms / 1000)
        self._drafted.inc(timings.drafted_tokens)
        self._accepted.inc(timings.accepted_tokens)
        self._requests.labels(priority, reason.value).inc()
        self._seconds.labels(priority).observe(seconds)
        self._queued.labels(priority).observe(timings.queue_ms / 1000)

    def left(self, request: GenerateRequest, seconds: float) -> None:
        """Count an answer whose reader went away, as an editor does that has all it can use; its
        tokens are among the engine's."""
        priority = request.priority.value
        self._requests.labels(priority, StopReason.CANCELLED.value).inc()
        self._seconds.labels(priority).observe(seconds)

    def failed(self, code: str) -> None:
        """Count a request that ended with an error; `code` as in `assistant.errors`."""
        self._errors.labels(code).inc()

    def render(self, status: Status) -> bytes:
        """The exposition text, with gauges as `status` has them."""
        stats = status.stats
        if stats is not None:
            self._set("llamacpp:prompt_tokens_seconds", stats.prefill_tokens_per_s)
            self._set("llamacpp:predicted_tokens_seconds", stats.decode_tokens_per_s)
            self._set("llamacpp:requests_processing", stats.running)
            self._set("llamacpp:requests_deferred", stats.waiting)
            self._set("underkeel_kv_cells_used", stats.cells_used)
            self._set("underkeel_kv_cells", stats.cells_total)
            self._set("underkeel_worker_resident_bytes", stats.rss_bytes)
            for name in _ENGINE_TOTALS:
                self._set(f"underkeel_engine_{name}", getattr(stats, name))
        if status.budget is not None:
            self._set("underkeel_budget_tokens", status.budget.tokens)
            self._set("underkeel_budget_level", status.budget.level)
        for device in status.devices:
            self._free.labels(device.name).set(device.free_bytes)
            self._ours.labels(device.name).set(device.ours_bytes)
        if status.rung is not None:
            self._set("underkeel_ladder_rung", status.rung.index)
            self._set("underkeel_ladder_moves", status.rung.moves)
        self._set("underkeel_ready", float(status.state is ServiceState.READY))
        self._set("underkeel_requests_in_flight", status.in_flight)
        self._set("underkeel_worker_deaths", status.deaths)
        self._set("underkeel_memory_refusals", status.refusals)
        self._set("underkeel_uptime_seconds", status.uptime_s)
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self._registry)

    def _device_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["device"], registry=self._registry)

    def _set(self, name: str, value: float) -> None:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, _GAUGES[name], registry=self._registry)
        self._gauges[name].set(value)


_ENGINE_TOTALS = {
    "requests": "Requests",
    "cancelled": "Requests cancelled",
    "evaluated_tokens": "Prompt tokens evaluated",
    "cached_tokens": "Prompt tokens found in the KV cache",
    "generated_tokens": "Tokens generated",
    "drafted_tokens": "Tokens drafted by speculation",
    "accepted_tokens": "Drafted tokens that were accepted",
}
_GAUGES = {
    **{
        f"underkeel_engine_{name}": f"{text} since the model was loaded, cancelled answers included"
        for name, text in _ENGINE_TOTALS.items()
    },
    "llamacpp:prompt_tokens_seconds": "Prompt tokens a second, moving average",
    "llamacpp:predicted_tokens_seconds": "Generated tokens a second, moving average",
    "llamacpp:requests_processing": "Requests being answered",
    "llamacpp:requests_deferred": "Requests that wait for the engine",
    "underkeel_kv_cells_used": "KV cache cells that hold a token",
    "underkeel_kv_cells": "KV cache cells in all",
    "underkeel_worker_resident_bytes": "Resident memory of the engine's process",
    "underkeel_budget_tokens": "Prompt tokens allowed now",
    "underkeel_budget_level": "How far the budget is down; 0 is the whole plan",
    "underkeel_ladder_rung": "The rung of the ladder in use; 0 is the whole plan",
    "underkeel_ladder_moves": "Moves on the ladder since the daemon started",
    "underkeel_ready": "Whether a model is served",
    "underkeel_requests_in_flight": "Requests admitted and not yet answered",
    "underkeel_memory_refusals": "Loads that were refused memory",
    "underkeel_worker_deaths": "Times the engine's process ended by itself",
    "underkeel_uptime_seconds": "Time since the daemon started",
}
