"""A 16-bit checkpoint packed as GPTQ and AWQ tools pack it, and what its weights then are.

Written from the formats, apart from what reads them: numbers are put into their words one by one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GROUP = 32
_AWQ_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word holds this column
_KEPT = ("embed_tokens", "lm_head", "norm", "mlp.gate.", "shared_expert_gate")


@dataclass(frozen=True)
class Kind:
    """One way of packing; `ordered`: inputs belong to groups in an order of their own (GPTQ's
    desc_act)."""

    method: str
    bits: int = 4
    form: str = ""
    ordered: bool = False

    def config(self) -> dict[str, object]:
        said: dict[str, object] = {"quant_method": self.method, "bits": self.bits}
        said |= {"group_size": GROUP, "desc_act": self.ordered}
        if self.method == "awq":
            said |= {"version": self.form or "gemm", "zero_point": True}
        elif self.form:
            said["checkpoint_format"] = self.form
        return said


def write(source: Path, folder: Path, kind: Kind) -> Path:
    """Pack the checkpoint `source` into `folder`; beside it, in `folder`-plain, what that says
    unpacked, for Transformers' own eyes. Returns the latter."""
    plain = folder.with_name(folder.name + "-plain")
    for target in (folder, plain):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    packed: dict[str, torch.Tensor] = {}
    unpacked: dict[str, torch.Tensor] = {}
    chance = torch.Generator().manual_seed(5)
    for name, tensor in load_file(source / "model.safetensors").items():
        if tensor.dim() != 2 or any(word in name for word in _KEPT):
            packed[name] = unpacked[name] = tensor.half()
            continue
        parts, said = _pack(tensor.float().T, kind, chance)
        stem = name.removesuffix("weight")
        packed |= {stem + part: value.contiguous() for part, value in parts.items()}
        unpacked[name] = said.T.contiguous()
    for target, tensors, extra in (
        (folder, packed, {"quantization_config": kind.config()}),
        (plain, unpacked, {}),
    ):
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((source / "config.json").read_text())
        config |= {"dtype": "float16", **extra}
        (target / "config.json").write_text(json.dumps(config))
    return plain


def _pack(
    weight: torch.Tensor, kind: Kind, chance: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The parts of a layer of shape (inputs, outputs), and its weights after that."""
    inputs, _ = weight.shape
    most = (1 << kind.bits) - 1
    group = torch.arange(inputs) // GROUP
    if kind.ordered:
        group = group[torch.randperm(inputs, generator=chance)]
    rows = [weight[group == index] for index in range(int(group.max()) + 1)]
    low = torch.stack([part.min(0).values for part in rows]).clamp(max=0)
    high = torch.stack([part.max(0).values for part in rows]).clamp(min=0)
    scales = ((high - low) / most).clamp(min=1e-6).half()
    zeros = (-low / scales.float()).round().clamp(1, most).int()
    numbers = (weight / scales[group].float()).round().int() + zeros[group]
    numbers = numbers.clamp(0, most)
    said = ((numbers - zeros[group]).float() * scales[group].float()).half()
    if kind.method == "awq":
        parts = {"qweight": _columns(numbers, 4, _AWQ_NIBBLES)}
        parts["qzeros"] = _columns(zeros, 4, _AWQ_NIBBLES)
    else:
        stored = zeros if kind.form == "gptq_v2" else zeros - 1
        each = range(32 // kind.bits)
        parts = {"qweight": _columns(numbers.T, kind.bits, each).T}
        parts["qzeros"] = _columns(stored, kind.bits, each)
        parts["g_idx"] = group.int()
    return {**parts, "scales": scales}, said


def _columns(numbers: torch.Tensor, bits: int, order: tuple[int, ...] | range) -> torch.Tensor:
    """Neighbouring columns in 32-bit words; `order`: the column that each place of a word holds."""
    each = 32 // bits
    words = torch.zeros(numbers.shape[0], numbers.shape[1] // each, dtype=torch.int64)
    for place, column in enumerate(order):
        words |= numbers[:, column::each].long() << (bits * place)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()
