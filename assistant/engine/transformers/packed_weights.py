"""GPTQ and AWQ checkpoints as they are: weights stay packed and are unpacked where a token passes.

Transformers hands them to a library whose kernels are compiled for a GPU, and whose linear layers
do not reach the experts that Transformers keeps in one tensor a layer. This needs torch alone, runs
on every device, and unpacks only the experts that were chosen. Slower than those kernels: it is for
trying a checkpoint.

Formats: https://github.com/AutoGPTQ/AutoGPTQ and https://github.com/casper-hansen/AutoAWQ, as their
`pack` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from assistant.errors import LoadError
from assistant.memory.planning.checkpoint import CheckpointTensor, read_checkpoint

METHOD = "underkeel_packed"
_NEEDED = {"qweight", "qzeros", "scales"}
_PARTS = (*sorted(_NEEDED), "g_idx", "bias")
_DTYPES = {"I32": torch.int32, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
# AWQ interleaves the columns of a word: column j stands in this nibble.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True)
class Packing:
    """How a checkpoint's words are read.

    Attributes:
        rows: whether a word holds weights of one column (GPTQ) or of one row (AWQ).
        bits: a weight's.
        zero_offset: what is added to a stored zero point.
    """

    rows: bool
    bits: int
    zero_offset: int

    @classmethod
    def of(cls, config: Mapping[str, Any], subject: str) -> Packing:
        """By the checkpoint's `quantization_config`.

        Raises:
            LoadError: it is packed in a way that is not known here.
        """
        awq = config.get("quant_method") == "awq"
        bits = config.get("bits", config.get("w_bit"))
        form = str(
            config.get("format") or config.get("checkpoint_format") or config.get("version") or ""
        ).lower()
        known = {"", "gemm"} if awq else {"", "gptq", "gptq_v2"}
        if bits not in ({4} if awq else {2, 4, 8}) or form not in known:
            kind = "AWQ" if awq else "GPTQ"
            raise LoadError(
                f"{kind} of {bits} bits{f' in the format {form!r}' if form else ''} is not read",
                subject=subject,
                advice="Serve it with vLLM, or take a GGUF of the model",
            )
        return cls(rows=not awq, bits=bits, zero_offset=int(not awq and form != "gptq_v2"))

    def unpack(self, part: PackedLinear, dtype: torch.dtype) -> torch.Tensor:
        """The weights of a layer, of shape (inputs, outputs)."""
        weights, zeros = self._split(part.qweight), self._split(part.qzeros)
        if self.rows:
            weights = weights.transpose(-1, -2).flatten(0, 1)
            zeros = zeros.flatten(1)
        else:
            order = list(_AWQ_ORDER)
            weights, zeros = weights[..., order].flatten(1), zeros[..., order].flatten(1)
        zeros += self.zero_offset
        scales = part.scales.to(dtype)
        group = part.g_idx
        if group is not None:
            return (weights - zeros[group]).to(dtype) * scales[group]
        grouped = weights.unflatten(0, (len(scales), -1)) - zeros[:, None]
        return (grouped.to(dtype) * scales[:, None]).flatten(0, 1)

    def _split(self, words: torch.Tensor) -> torch.Tensor:
        """Each 32-bit word as its small numbers, lowest bits first, in a last dimension."""
        shifts = torch.arange(0, 32, self.bits, dtype=torch.int32, device=words.device)
        return ((words.unsqueeze(-1) >> shifts) & ((1 << self.bits) - 1)).to(torch.int16)


class PackedLinear(nn.Module):  # type: ignore[misc]
    """A linear layer whose weights stay packed."""

    def __init__(self, packing: Packing, tensors: Mapping[str, CheckpointTensor]) -> None:
        """`tensors`: what the checkpoint holds of the layer, by part; memory comes with loading."""
        super().__init__()
        self.packing = packing
        for part in _PARTS:
            tensor = tensors.get(part)
            made = None
            if tensor is not None:
                empty = torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype], device="meta")
                # Parameters, for accelerate offloads no buffers.
                made = nn.Parameter(empty, requires_grad=False)
            self.register_parameter(part, made)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        said = states @ self.packing.unpack(self, states.dtype)
        return said if self.bias is None else said + self.bias.to(said.dtype)


class PackedExperts(nn.Module):  # type: ignore[misc]
    """The routed experts of a layer, each packed by itself, in place of Transformers' own."""

    def __init__(
        self,
        packing: Packing,
        tensors: Mapping[int, Mapping[str, Mapping[str, CheckpointTensor]]],
        gate: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """`tensors`: by expert, projection and part. `gate`: the model's own activation."""
        super().__init__()
        self._gate = gate
        for index, projections in tensors.items():
            expert = nn.Module()
            for name, parts in projections.items():
                expert.add_module(name, PackedLinear(packing, parts))
            self.add_module(str(index), expert)

    def forward(
        self, states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """`states`: (tokens, hidden); the others: (tokens, experts of a token)."""
        found = torch.zeros_like(states)
        for index in top_k_index.unique().tolist():
            expert = self._modules.get(str(index))
            if expert is None:
                continue  # a router's word for none
            token, rank = torch.where(top_k_index == index)
            chosen = states[token]
            both = torch.cat((expert.gate_proj(chosen), expert.up_proj(chosen)), dim=-1)
            said = expert.down_proj(self._gate(both)) * top_k_weights[token, rank, None]
            found.index_add_(0, token, said.to(found.dtype))
        return found


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What Transformers carries to the quantiser: the checkpoint's own words and its folder."""

    def __init__(self, folder: str = "", said: Mapping[str, Any] | None = None, **_: Any) -> None:
        self.quant_method = METHOD
        self.folder = folder
        self.said = dict(said or {})


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed layers where the checkpoint has packed weights; Transformers fills them."""

    is_trainable = False

    def is_serializable(self) -> bool:
        return False

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        config = self.quantization_config
        packing = Packing.of(config.said, config.folder)
        parts = _packed_parts(config.folder)
        for name, module in list(model.named_modules()):
            if name in parts and isinstance(module, nn.Linear):
                model.set_submodule(name, PackedLinear(packing, parts[name]))
            elif f"{name}.0.gate_proj" in parts:
                model.set_submodule(name, _experts(packing, name, module, parts))


def adopt(config: Any, folder: Path) -> bool:
    """Have Transformers load a GPTQ or AWQ checkpoint through this; False for any other.

    `config` is the model's, as read from `folder`.
    """
    said = getattr(config, "quantization_config", None)
    if not isinstance(said, dict) or said.get("quant_method") not in {"gptq", "awq"}:
        return False
    config.quantization_config = {"quant_method": METHOD, "folder": str(folder), "said": said}
    return True


def _packed_parts(folder: str) -> dict[str, dict[str, CheckpointTensor]]:
    """Of each module with packed weights, its tensors by part."""
    found: dict[str, dict[str, CheckpointTensor]] = {}
    for tensor in read_checkpoint(Path(folder)).tensors:
        module, _, part = tensor.name.rpartition(".")
        if part in _PARTS:
            found.setdefault(module, {})[part] = tensor
    return {module: parts for module, parts in found.items() if parts.keys() >= _NEEDED}


def _experts(
    packing: Packing, name: str, module: Any, parts: Mapping[str, dict[str, CheckpointTensor]]
) -> PackedExperts:
    plain = getattr(module, "has_gate", False) and hasattr(module, "_apply_gate")
    if not plain or module.has_bias or module.has_post_expert_norm:
        raise LoadError(
            f"packed experts of the kind {type(module).__name__} are not known here",
            subject=name,
            advice="Serve it with vLLM, or take a GGUF of the model",
        )
    found: dict[int, dict[str, dict[str, CheckpointTensor]]] = {}
    for path, tensors in parts.items():
        number, _, projection = path.removeprefix(name + ".").partition(".")
        if path.startswith(name + ".") and number.isdecimal() and len(number) < 7:
            found.setdefault(int(number), {})[projection] = tensors
    return PackedExperts(packing, found, module._apply_gate)
