"""Fuzzing the header reader: only its own error, in bounded time and memory."""

from __future__ import annotations

import random
import resource
import struct
from array import array

from examples import examples

from assistant.errors import GGUFError
from assistant.memory.gguf.header import BY_NAME, Header, Tensor, read_bytes
from assistant.memory.model.architecture import CacheParams, cache_bytes
from assistant.memory.model.profile import model_of
from assistant.memory.planning.dry_run import encode

CASES = examples(13_000)
MOST_MEMORY = 64 << 20
INTERESTING = (0, 1, 7, 8, 9, 31, 32, 63, 64, 127, 128, 255)
LONG = (0, 1, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def bases() -> list[bytes]:
    small: dict[str, object] = {"general.architecture": "llama", "llama.block_count": 2}
    expert: dict[str, object] = {
        **small,
        "general.alignment": 32,
        "llama.embedding_length": 256,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": array("I", [2, 0]),
        "llama.expert_count": 4,
        "llama.expert_used_count": 2,
        "tokenizer.ggml.tokens": ("a", "b", "<fim>"),
        "tokenizer.ggml.scores": array("f", [0.0, 1.0, 2.0]),
        "flag": True,
    }
    kinds = BY_NAME["q4_K"], BY_NAME["f32"]
    tensors = (
        Tensor("token_embd.weight", (256, 3), kinds[0], 0),
        Tensor("blk.0.attn_q.weight", (256, 2), kinds[0], 0),
        Tensor("blk.0.ffn_up_exps.weight", (256, 1, 4), kinds[0], 0),
        Tensor("blk.1.ffn_norm.weight", (8,), kinds[1], 0),
    )
    hybrid = {**small, "general.architecture": "qwen3next", "qwen3next.block_count": 3}
    found = []
    for keys, used in ((small, ()), (expert, tensors), (hybrid, tensors[:2])):
        data = encode(keys, used)
        found.append(data + bytes(sum(-(-t.size_bytes // 32) * 32 for t in used)))
    return found


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bytes, lengths, cuts, copies, noise."""
    raw = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(max(len(raw), 1))
        match chance.randrange(7):
            case 0 if raw:
                raw[at] = chance.choice(INTERESTING)
            case 1 if raw:
                raw[at] ^= 1 << chance.randrange(8)
            case 2:
                raw[at : at + 8] = struct.pack("<Q", chance.choice(LONG))
            case 3:
                raw[at : at + 4] = struct.pack("<I", chance.choice(LONG) & 0xFFFFFFFF)
            case 4:
                del raw[at:]
            case 5:
                other = chance.randrange(max(len(raw), 1))
                raw[at:at] = raw[other : other + chance.randrange(64)]
            case _:
                raw[at : at + 8] = chance.randbytes(8)
    return bytes(raw)


def use(header: Header) -> None:
    """All that follows from a header must hold up as well, whatever it says."""
    model = model_of(header)  # the census and the cache's layout are in it
    cache_bytes(model.memory, CacheParams(n_ctx=256))


def test_no_header_does_more_than_be_refused() -> None:
    chance = random.Random(20261123)
    starts = bases()
    for start in starts:
        use(read_bytes(start))
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(CASES):
        if case % 13 == 0:
            data = b"GGUF" + chance.randbytes(chance.randrange(200))
        else:
            data = mutate(chance.choice(starts), chance)
        try:
            use(read_bytes(data))
        except GGUFError:
            refused += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (peak - before) * 1024 < MOST_MEMORY
    # Both ways are taken: a fuzzer that never gets past the magic shows nothing.
    assert CASES * 0.2 < refused < CASES * 0.97
