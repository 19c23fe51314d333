"""Part D: speed on the GPU, each figure beside what it should be compared with.

Bare llama.cpp calls as llama-bench makes them, through the worker, with whole expert groups against
the same bytes split in other ways, with op_offload on and off; and what a person waits for: the
latency of a ghost text.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter

from msgspec.structs import replace

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Done, GenerateRequest
from assistant.llama import LoadSpec, TensorOverride
from assistant.memory.devices import Device
from assistant.memory.gguf.header import Header
from assistant.memory.planning import HOST_MEMORY, Machine, Plan, Requirements, expert_pattern
from assistant.memory.planning.measured_planner import plan_and_measure
from gpu_check import models
from gpu_check.gpu import GIB, MIB, Gpu, model_file
from gpu_check.loader import Job, load
from gpu_check.results import Config, Row, emit, open_rows, skip

_LIMIT_BYTES = 16 * GIB
_LOAD_S = 60.0
_TYPED_TOKENS = 3  # what a person types between two ghost texts
_GHOST_TOKENS = 24


def main() -> None:
    config = Config.from_arguments()
    gpu = Gpu(config)
    open_rows()
    path, header = model_file(config, models.MAIN)
    size = path.stat().st_size
    limit = int(0.6 * size) + 32 * MIB if gpu.simulated else _LIMIT_BYTES
    if gpu.simulated:
        gpu.resize(4 * size + 64 * MIB)
    whole = plan_and_measure(header, gpu.machine(), _requirements(gpu))
    partly = _under(gpu, header, limit)
    _ghost_texts(config, gpu, "whole model on the GPU", whole)
    _worker_and_loop(config, gpu, whole)
    _placements(config, gpu, header, partly)
    _offload(config, gpu, partly)
    _ghost_texts(config, gpu, f"{limit / GIB:.1f} GiB of the GPU", partly)


def _requirements(gpu: Gpu) -> Requirements:
    if gpu.simulated:
        return Requirements(n_ctx=2048, margin_bytes=2 * MIB, overhead_bytes=8 * MIB)
    return Requirements(n_ctx=16384)


def _under(gpu: Gpu, header: Header, limit: int) -> Plan:
    """A plan for a GPU that has less free than this one."""
    machine = gpu.machine()
    gpus = tuple(
        Device(device.name, device.kind, total_bytes=limit, free_bytes=limit)
        for device in machine.gpus
    )
    return plan_and_measure(header, Machine(machine.host_memory, gpus), _requirements(gpu))


def _measure(config: Config, gpu: Gpu, spec: LoadSpec) -> Row:
    """Prefill and decode of a spec, the median of three rounds (one where it is simulated)."""
    prompt, decode, rounds = (64, 8, 1) if gpu.simulated else (1024, 64, 3)
    job = Job(spec=spec, prompt_tokens=prompt, decode_tokens=decode, rounds=rounds)
    loaded = load(job, min(_LOAD_S, config.left_s))
    if loaded.error:
        return {"error": loaded.error}
    weights = [row.weights_bytes for row in loaded.memory if row.device == gpu.device]
    return {
        "prefill_tokens_per_s": round(prompt / statistics.median(loaded.prefill_s), 1),
        "decode_tokens_per_s": round(decode / statistics.median(loaded.decode_s), 1),
        "gpu_weights_bytes": sum(weights),
        "load_s": loaded.load_s,
        "finite": loaded.finite,
    }


def _placements(config: Config, gpu: Gpu, header: Header, plan: Plan) -> None:
    """The plan's whole groups, and the same bytes of the GPU filled in two other ways."""
    spec = plan.to_load_spec()
    ways = {
        "whole expert groups (the plan)": spec,
        "whole layers (-ngl)": _by_layers(spec, header, plan),
        "split groups (up on the GPU, gate and down on the host)": _split_groups(
            spec, header, plan
        ),
    }
    for name, placed in ways.items():
        if config.left_s < 20:
            skip("placements", name, "the part's time was used up")
            continue
        emit("placements", way=name, **_measure(config, gpu, placed))


def _sizes(header: Header) -> tuple[Counter[int], Counter[int], dict[int, dict[str, int]], int]:
    """Bytes of each block, of its routed experts in all and by kind, and of the output."""
    blocks, experts = Counter[int](), Counter[int]()
    kinds: dict[int, dict[str, int]] = {}
    output = 0
    for tensor in header.tensors:
        block = re.match(r"blk\.(\d+)\.", tensor.name)
        if block is None:
            output += tensor.size_bytes if tensor.name.startswith("output") else 0
            continue
        index = int(block[1])
        blocks[index] += tensor.size_bytes
        if routed := re.search(r"ffn_(up|gate|down)_exps\.", tensor.name):
            experts[index] += tensor.size_bytes
            kinds.setdefault(index, {}).setdefault(routed[1], 0)
            kinds[index][routed[1]] += tensor.size_bytes
    return blocks, experts, kinds, output


def _by_layers(spec: LoadSpec, header: Header, plan: Plan) -> LoadSpec:
    """As many last layers, whole, as fit into the plan's bytes."""
    blocks, _, _, left = _sizes(header)
    left = plan.gpu_usages[0].weights_bytes + plan.gpu_usages[0].kv_bytes - left
    cache = plan.gpu_usages[0].kv_bytes // max(len(plan.choice.layers), 1)
    layers = 0
    for index in sorted(blocks, reverse=True):
        left -= blocks[index] + cache
        if left < 0:
            break
        layers += 1
    return replace(spec, n_gpu_layers=layers + 1, overrides=())


def _split_groups(spec: LoadSpec, header: Header, plan: Plan) -> LoadSpec:
    """`up` of as many layers as fit into the plan's expert bytes, everything else of them on the
    host: what filling a GPU tensor by tensor comes to."""
    _, _, kinds, _ = _sizes(header)
    left = plan.gpu_usages[0].expert_bytes
    ups: list[int] = []
    for index in sorted(kinds, reverse=True):
        left -= kinds[index].get("up", 0)
        if left < 0:
            break
        ups.append(index)
    both = [*ups] if left > 0 else []
    gates: list[int] = []
    for index in both:  # what is left over takes gates too
        left -= kinds[index].get("gate", 0)
        if left < 0:
            break
        gates.append(index)
    others = [index for index in kinds if index not in ups]
    overrides = [
        TensorOverride(pattern=rf"^blk\.{_one_of(ups)}\.ffn_down_exps", device=HOST_MEMORY),
        TensorOverride(
            pattern=rf"^blk\.{_one_of([i for i in ups if i not in gates])}\.ffn_gate_exps",
            device=HOST_MEMORY,
        ),
    ]
    if others:
        overrides.append(TensorOverride(pattern=expert_pattern(others), device=HOST_MEMORY))
    return replace(spec, overrides=tuple(overrides))


def _one_of(indices: list[int]) -> str:
    return f"({'|'.join(map(str, indices)) or 'none'})"


def _offload(config: Config, gpu: Gpu, plan: Plan) -> None:
    """Batches of experts on the host: computed on the GPU, by the CPU, by the CPU repacked."""
    spec = plan.to_load_spec()
    ways = {
        "op_offload on": replace(spec, op_offload=True, use_extra_bufts=False),
        "op_offload off": replace(spec, op_offload=False, use_extra_bufts=False),
        "op_offload off, weights repacked": replace(spec, op_offload=False, use_extra_bufts=True),
    }
    for name, changed in ways.items():
        if config.left_s < 20:
            skip("offload", name, "the part's time was used up")
            continue
        emit("offload", way=name, **_measure(config, gpu, changed))


def _worker_and_loop(config: Config, gpu: Gpu, plan: Plan) -> None:
    """The worker beside the bare loop, on the whole model, under the same spec."""
    bare = _measure(config, gpu, plan.to_load_spec())
    emit("worker", by="bare llama.cpp loop", **bare)
    emit("worker", by="worker", **asyncio.run(_worker(gpu, plan.to_load_spec())))


async def _worker(gpu: Gpu, spec: LoadSpec) -> Row:
    prompt, decode, rounds = (64, 8, 1) if gpu.simulated else (1024, 64, 3)
    engine = LlamaEngine()
    try:
        await engine.load(spec)
        prefill, write = [], []
        for number in range(rounds + 1):  # the first one is the warm-up
            tokens = tuple(300 + (7919 * number + 31 * at) % 3000 for at in range(prompt))
            done = await _generate(engine, tokens, decode, f"w{number}")
            timings = done.timings
            prefill.append(timings.evaluated_tokens / max(timings.prefill_ms, 0.001) * 1000)
            written = max(timings.generated_tokens - 1, 1)
            write.append(written / max(timings.decode_ms, 0.001) * 1000)
        return {
            "prefill_tokens_per_s": round(statistics.median(prefill[1:]), 1),
            "decode_tokens_per_s": round(statistics.median(write[1:]), 1),
        }
    finally:
        await engine.close()


async def _generate(
    engine: LlamaEngine, tokens: tuple[int, ...], most: int, name: str, document: str = ""
) -> Done:
    request = GenerateRequest(
        id=name, prompt=tokens, max_tokens=most, document=document, speculate=False
    )
    async for item in engine.generate(request):
        if isinstance(item, Done):
            return item
    raise RuntimeError("the worker ended an answer without saying why")


def _ghost_texts(config: Config, gpu: Gpu, where: str, plan: Plan) -> None:
    if config.left_s < 20:
        skip("ghost_text", where, "the part's time was used up")
        return
    emit("ghost_text", where=where, **asyncio.run(_typing(gpu, plan.to_load_spec())))


async def _typing(gpu: Gpu, spec: LoadSpec) -> Row:
    """Type at the end of a prompt, a few tokens at a time, and ask for a ghost text each time.

    The first request, which reads the whole prompt, is counted apart.
    """
    length, count = (96, 6) if gpu.simulated else (1024, 60)
    engine = LlamaEngine()
    try:
        await engine.load(spec)
        warm = tuple(600 + at % 50 for at in range(length))
        await _generate(engine, warm, 4, "warm")
        text = [300 + 37 * at % 3000 for at in range(length)]
        waits, first_ms = [], 0.0
        for number in range(count):
            started = time.perf_counter()
            await _generate(engine, tuple(text), _GHOST_TOKENS, f"g{number}", "document")
            waits.append(1000 * (time.perf_counter() - started))
            text += [300 + (number * 7 + at) % 3000 for at in range(_TYPED_TOKENS)]
        first_ms, typed = waits[0], sorted(waits[1:])
        return {
            "prompt_tokens": length,
            "tokens": _GHOST_TOKENS,
            "requests": len(typed),
            "first_ms": round(first_ms, 1),
            "median_ms": round(statistics.median(typed), 1),
            "p90_ms": round(typed[min(int(len(typed) * 0.9), len(typed) - 1)], 1),
        }
    finally:
        await engine.close()


if __name__ == "__main__":
    main()
