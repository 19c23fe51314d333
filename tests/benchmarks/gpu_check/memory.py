"""Part B: plans of four kinds of model for several limits, against llama.cpp and the driver.

Each model is planned for a GPU that has 8, 16 or 24 GiB left (another process holds the rest), and
for all of it. The plan is loaded in a process of its own, which reads a prompt and writes a few
tokens; then what it took is compared by class: weights and cache by llama.cpp's own breakdown, the
total by NVML. What NVML shows beyond the breakdown is the driver's share: CUDA's context, cuBLAS,
the memory pool.
"""

from __future__ import annotations

import time

from assistant.errors import UnderkeelError
from assistant.memory.gguf.header import Header
from assistant.memory.model.profile import model_of
from assistant.memory.planning import HOST_MEMORY, Plan, Requirements
from assistant.memory.planning.dry_run import DryRun
from assistant.memory.planning.load_report import DeviceReport, Sizes, compare, planned_memory
from assistant.memory.planning.measured_planner import measure, plan_and_measure
from assistant.memory.planning.planner import make_plan
from gpu_check import models
from gpu_check.gpu import (
    GIB,
    MIB,
    SIMULATED_CONTEXT_BYTES,
    SIMULATED_POOL_BYTES,
    Gpu,
    model_file,
)
from gpu_check.loader import Job, Loaded, load
from gpu_check.results import Config, Row, emit, open_rows, skip
from gpu_check.second_process import SecondProcess

LIMITS_GIB = (8, 16, 24)
_SMALL_SHARES = (0.75, 2.0)
"""Limits for the small models of a simulated run: of the file's size, and a constant besides."""

_SMALL_EXTRA_BYTES = 16 * MIB
_SMALL = Requirements(
    n_ctx=2048,
    n_batch=128,
    n_ubatch=128,
    margin_bytes=2 * MIB,
    overhead_bytes=SIMULATED_CONTEXT_BYTES + SIMULATED_POOL_BYTES,
)

_LOAD_S = 60.0
_SHORT_S = 15.0  # below this no further load is started
_CHUNK_BYTES = 256 * MIB


def main() -> None:
    config = Config.from_arguments()
    gpu = Gpu(config)
    open_rows()
    if gpu.simulated:
        _plan_true_shapes(gpu)
        for name in models.KINDS:
            _check_model(config, gpu, name, None)
        return
    second = SecondProcess(gpu.device, _CHUNK_BYTES)
    try:
        for name in models.KINDS:
            if config.left_s < 2 * _SHORT_S:
                skip("loads", name, "the part's time was used up")
                continue
            _check_model(config, gpu, name, second)
    finally:
        second.close()


def _plan_true_shapes(gpu: Gpu) -> None:
    """Plans of the true shapes beside dry runs of them, on GPUs of each size; nothing is loaded."""
    with DryRun() as dry_run:
        for name in models.KINDS:
            header = models.true_header(name)
            for limit in LIMITS_GIB:
                gpu.resize(limit * GIB)
                emit("plans", **_plan_row(gpu, dry_run, header, name, limit))


def _plan_row(gpu: Gpu, dry_run: DryRun, header: Header, name: str, limit_gib: int) -> Row:
    requirements = Requirements()
    started = time.perf_counter()
    guess = make_plan(model_of(header), gpu.machine(), requirements)
    plan_ms = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    measured = measure(header, guess, dry_run)
    dry_run_ms = 1000 * (time.perf_counter() - started)
    chosen = plan_and_measure(header, gpu.machine(), requirements, dry_run)
    return {
        "model": name,
        "limit_gib": limit_gib,
        "weights_bytes": sum(usage.weights_bytes for usage in measured.usages),
        "kv_bytes": sum(usage.kv_bytes for usage in measured.usages),
        "weights_and_kv_off_bytes": sum(abs(usage.other_bytes) for usage in measured.usages),
        "compute_estimated_bytes": sum(usage.compute_bytes for usage in guess.usages),
        "compute_bytes": sum(usage.compute_bytes for usage in measured.usages),
        "plan_ms": round(plan_ms, 1),
        "dry_run_ms": round(dry_run_ms, 1),
        **_choices(chosen),
    }


def _choices(plan: Plan) -> Row:
    choice = plan.choice
    return {
        "n_ctx": plan.n_ctx,
        "cache_type": choice.cache.type_k,
        "blocks_on_gpu": len(choice.layers) - choice.layers.count(HOST_MEMORY),
        "blocks": len(choice.layers),
        "expert_groups_on_gpu": plan.expert_layers_on_gpu,
        "expert_groups": sum(1 for device in choice.experts if device),
        "op_offload": choice.op_offload,
    }


def _check_model(config: Config, gpu: Gpu, name: str, second: SecondProcess | None) -> None:
    """Write one model, load it under each limit, and remove it unless later parts want it."""
    started = time.perf_counter()
    path, header = model_file(config, name)
    size = path.stat().st_size
    seconds = round(time.perf_counter() - started, 1)
    emit("files", model=name, kind=models.KINDS[name], bytes=size, write_s=seconds)
    small = [int(size * share) + _SMALL_EXTRA_BYTES for share in _SMALL_SHARES]
    limits = small if second is None else _limits(gpu)
    seen: dict[str, str] = {}
    for limit in limits:
        if config.left_s < _SHORT_S:
            skip("loads", f"{name} under {_limit(limit)}", "the part's time was used up")
            continue
        if second is None:
            gpu.resize(limit)
        else:
            second.hold(0)
            second.hold(max(gpu.free_bytes() - limit, 0) if limit else 0, within_s=20)
        row = _load_row(config, gpu, header, seen)
        if "same_as" in row:
            skip("loads", f"{name} under {_limit(limit)}", f"the plan is that of {row['same_as']}")
        else:
            emit("loads", model=name, limit_bytes=limit, **row)
    if name != models.MAIN:
        path.unlink()


def _limits(gpu: Gpu) -> list[int]:
    """The whole GPU last; as 0, since nobody then holds any of it."""
    total = gpu.total_bytes()
    return [*(limit * GIB for limit in LIMITS_GIB if limit * GIB < total), 0]


def _limit(limit: int) -> str:
    return f"{limit / GIB:.1f} GiB" if limit else "the whole GPU"


def _load_row(config: Config, gpu: Gpu, header: Header, seen: dict[str, str]) -> Row:
    """Plan, load and compare; a plan that was loaded before is named in `same_as` instead.

    Args:
        seen: of this model, the specs that were loaded, and under how much free memory.
    """
    try:
        plan = plan_and_measure(header, gpu.machine(), _SMALL if gpu.simulated else Requirements())
    except UnderkeelError as error:
        return {"error": f"no plan: {error}"}
    prompt, decode = (64, 4) if gpu.simulated else (512, 32)
    spec = plan.to_load_spec()
    if repr(spec) in seen:
        return {"same_as": seen[repr(spec)]}
    seen[repr(spec)] = _limit(gpu.free_bytes())
    job = Job(spec=spec, prompt_tokens=prompt, decode_tokens=decode)
    loaded = load(job, min(_LOAD_S, config.left_s))
    if loaded.error:
        return {"error": loaded.error, **_choices(plan)}
    return {**_choices(plan), **_comparison(gpu, plan, loaded, prompt, decode)}


def _comparison(gpu: Gpu, plan: Plan, loaded: Loaded, prompt: int, decode: int) -> Row:
    """What was planned and taken, in bytes of the GPU; the host's weights are mapped from the file
    and cannot be compared."""
    report = compare(planned_memory(plan), loaded.memory)
    by_name = {device.device: device for device in report.devices}
    on_gpu = by_name.get(
        gpu.device, DeviceReport(device=gpu.device, planned=Sizes(), actual=Sizes())
    )
    on_host = by_name.get(HOST_MEMORY)
    usage = plan.gpu_usages[0]
    before, after_load, after_run = loaded.free_bytes
    taken = on_gpu.actual.total_bytes
    by_driver = before - after_run
    return {
        "planned": {
            "weights": on_gpu.planned.weights_bytes,
            "kv": on_gpu.planned.kv_bytes,
            "compute": on_gpu.planned.compute_bytes,
            "driver": usage.overhead_bytes,
            "total": usage.needed_bytes,
        },
        "taken": {
            "weights": on_gpu.actual.weights_bytes,
            "kv": on_gpu.actual.kv_bytes,
            "compute": on_gpu.actual.compute_bytes,
            "driver_after_load": before - after_load - taken,
            "driver": by_driver - taken,
            "total": by_driver,
            "own_by_nvml": loaded.own_bytes,
        },
        "host": {
            "planned_kv": on_host.planned.kv_bytes if on_host else 0,
            "kv": on_host.actual.kv_bytes if on_host else 0,
            "planned_compute": on_host.planned.compute_bytes if on_host else 0,
            "compute": on_host.actual.compute_bytes if on_host else 0,
        },
        "dry_run_off_bytes": sum(abs(item.other_bytes) for item in plan.usages),
        "weights_and_kv_off_bytes": abs(on_gpu.actual.weights_bytes - on_gpu.planned.weights_bytes)
        + abs(on_gpu.actual.kv_bytes - on_gpu.planned.kv_bytes),
        "total_off_percent": _off_percent(by_driver, usage.needed_bytes),
        "without_driver_off_percent": _off_percent(
            taken, usage.needed_bytes - usage.overhead_bytes
        ),
        "free_before_bytes": before,
        "within_free": by_driver <= before,
        "finite": loaded.finite,
        "load_s": loaded.load_s,
        "prefill_tokens_per_s": round(prompt / loaded.prefill_s[0], 1),
        "decode_tokens_per_s": round(decode / loaded.decode_s[0], 1),
    }


def _off_percent(taken: int, planned: int) -> float:
    """How far a figure is from the planned one; positive where more was taken."""
    return round(100 * (taken - planned) / planned, 2) if planned else 0.0


if __name__ == "__main__":
    main()
