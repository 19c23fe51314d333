"""A child process that asks llama.cpp about this machine, and prints the answer as JSON.

    python -m assistant.llama.probe devices             ggml's devices
    python -m assistant.llama.probe rates FOLDER [GPU]  how fast it runs, a `DeviceRates`

A process of its own, because a CUDA device that was asked for its memory keeps a context on the GPU
until the process ends, and so that no memory of llama.cpp is left behind.

For the rates, small models with random weights run for a moment, one for each type of weights:
decoding gives the bytes read per second, a prompt the multiplications per second, and a narrow
model of many layers the fixed cost of a layer (threads wait for each other at each node of the
graph). A mixture of experts gives the multiplications by chosen experts, for which llama.cpp has
other kernels.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from assistant import oom_score
from assistant.errors import UnderkeelError
from assistant.llama import DeviceRates, LoadSpec, TypeRate, choose_threads, processors

_N_CTX = 256
_PROMPT_TOKENS = 128
_DECODED = 12
_WAITING = 1.15  # wall time of undisturbed threads, of their processor time
# (embedding, feed-forward, layers): about 100 MB of weights, more than the caches of most CPUs.
_WIDE = {"q4_K": (1024, 4096, 10), "q6_K": (1024, 4096, 7), "q8_0": (1024, 4096, 6)}
_NARROW = (256, 256, 24)
_MIXTURE = (1024, 512, 5)
_EXPERTS, _USED = 16, 4
_HEAD_WIDTH = 64
# By type: bytes of a block, its values, and where its float16 scales are (ggml-common.h).
_BLOCKS = {"q4_K": (144, 256, (0, 2)), "q6_K": (210, 256, (208,)), "q8_0": (34, 32, (0,))}


def measure(folder: Path, device: str = "") -> DeviceRates:
    """Measure the CPU, or the GPU `device` (ggml's name), with files written to `folder`."""
    narrow = folder / "narrow.gguf"
    _write(narrow, "q8_0", _NARROW)
    decode_s, prompt_s = _run(narrow, device)
    narrow.unlink()
    layer_s = decode_s / _NARROW[2]
    batch_layer_s = max(prompt_s / _NARROW[2], layer_s)
    found = {}
    for kind, (width, inner, layers) in _WIDE.items():
        path = folder / f"{kind}.gguf"
        weights = _write(path, kind, (width, inner, layers))
        decode_s, prompt_s = _run(path, device)
        path.unlink()
        size_bytes = weights * _BLOCKS[kind][0] / _BLOCKS[kind][1]
        decode_s = max(decode_s - layers * layer_s, decode_s / 10)
        prompt_s = max(prompt_s - layers * batch_layer_s, prompt_s / 10)
        # In the last layer only the token whose logits are wanted passes the feed-forward part.
        read = (weights - 3 * inner * width) * _PROMPT_TOKENS
        weights_per_s = read / prompt_s
        found[kind] = TypeRate(
            bytes_per_s=size_bytes / decode_s,
            weights_per_s=weights_per_s,
            expert_weights_per_s=_expert_rate(folder, device, kind, weights_per_s, batch_layer_s),
        )
    return DeviceRates(layer_s=layer_s, types=found)


def _expert_rate(
    folder: Path, device: str, kind: str, weights_per_s: float, batch_layer_s: float
) -> float:
    """Multiplications per second by experts: the time of a mixture less that of its other parts."""
    width, inner, layers = _MIXTURE
    path = folder / f"{kind}-experts.gguf"
    _write(path, kind, _MIXTURE, _EXPERTS)
    _, prompt_s = _run(path, device)
    path.unlink()
    dense = layers * 4 * width * width * _PROMPT_TOKENS
    experts = (layers - 1) * 3 * inner * width * _USED * _PROMPT_TOKENS
    other_s = dense / weights_per_s + layers * batch_layer_s
    return experts / max(prompt_s - other_s, prompt_s / 10)


def _run(path: Path, device: str) -> tuple[float, float]:
    """Seconds to decode one token, and to read `_PROMPT_TOKENS`: the fastest of several."""
    from assistant.llama.context import Context
    from assistant.llama.model import Model
    from assistant.llama.structs import Span

    spec = LoadSpec(
        path=str(path),
        n_ctx=_N_CTX,
        n_seq_max=1,
        devices=(device,) if device else (),
        n_gpu_layers=999 if device else 0,
    )
    model = Model(spec)
    context = Context(model, spec)
    prompt = [3 + 7 * number % 250 for number in range(_PROMPT_TOKENS)]  # many experts are chosen
    prompts, tokens = [], []
    threads = 0 if device else choose_threads(0, processors()).count
    try:
        for _ in range(3):
            context.forget(0)
            watch = Stopwatch(threads)
            context.decode([Span(0, 0, prompt, 1)])
            prompts.append(watch.seconds())
        for position in range(_PROMPT_TOKENS, _PROMPT_TOKENS + _DECODED):
            watch = Stopwatch(threads)
            context.decode([Span(0, position, [66], 1)])
            tokens.append(watch.seconds())
    finally:
        context.free()
        model.free()
    return sorted(tokens)[len(tokens) // 4], min(prompts)


class Stopwatch:
    """Seconds of one piece of work, as they would be without other programs.

    Where other programs take the cores, the threads wait for each other much longer than they
    compute. Then the processor time, spread over the threads, says more than the wall clock.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return min(wall, _WAITING * cpu / self._threads) if self._threads else wall


def _write(path: Path, kind: str, shape: tuple[int, int, int], experts: int = 0) -> int:
    """A GGUF with the layers of a Llama and random weights; returns how many weights.

    Args:
        shape: embedding, feed-forward, layers.
    """
    import gguf
    import numpy as np

    width, inner, layers = shape
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(_N_CTX)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(width // _HEAD_WIDTH)
    writer.add_head_count_kv(width // _HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(_USED)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    kinds = gguf.TokenType
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256])
    type_ = getattr(gguf.GGMLQuantizationType, kind.upper())
    total = 0
    pool: dict[tuple[int, int], Any] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        nonlocal total
        count = experts if name.endswith("_exps") else 1
        total += count * rows * columns
        if (count * rows, columns) not in pool:
            pool[count * rows, columns] = _random(kind, count * rows, columns)
        blocks = pool[count * rows, columns]
        if count > 1:
            blocks = blocks.reshape(count, rows, -1)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=type_)

    def vector(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))

    random = np.random.default_rng(1)
    writer.add_tensor("token_embd.weight", random.random((len(tokens), width), np.float32))
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{name}", width, width)
        vector(f"blk.{layer}.attn_norm")
        vector(f"blk.{layer}.ffn_norm")
        of_experts = "_exps" if experts else ""
        matrix(f"blk.{layer}.ffn_gate{of_experts}", inner, width)
        matrix(f"blk.{layer}.ffn_up{of_experts}", inner, width)
        matrix(f"blk.{layer}.ffn_down{of_experts}", width, inner)
        if experts:
            router = random.standard_normal((experts, width), np.float32)
            writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router)
    vector("output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return total


def _random(kind: str, rows: int, columns: int) -> Any:
    """Random blocks with small scales, so that no value overflows: [rows, bytes of a row]."""
    import numpy as np

    size, values, scales = _BLOCKS[kind]
    blocks = np.random.default_rng(0).integers(
        0, 256, (rows * columns // values, size), dtype=np.uint8
    )
    for at in scales:
        blocks[:, at : at + 2] = np.frombuffer(np.float16(2e-4).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def list_devices() -> int:
    """Returns 0 and prints a list, or 1 and prints the error as it is sent between processes."""
    try:
        from assistant.llama import ggml

        sys.stdout.buffer.write(msgspec.json.encode(ggml.devices()))
    except UnderkeelError as error:
        refusal = {
            "code": error.code,
            "message": error.message,
            "subject": error.subject,
            "advice": error.advice,
        }
        sys.stdout.buffer.write(msgspec.json.encode(refusal))
        return 1
    return 0


def main() -> int:
    oom_score.raise_to(oom_score.WORKER)  # it holds models, and is run again when needed
    if sys.argv[1:] == ["devices"]:
        return list_devices()
    with tempfile.TemporaryDirectory(prefix="rates-", dir=sys.argv[2]) as folder:
        found = measure(Path(folder), *sys.argv[3:4])
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
