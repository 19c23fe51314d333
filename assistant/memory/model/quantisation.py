"""Which type llama.cpp's quantiser gives each tensor of a recipe such as Q4_K_M.

Source: llama_tensor_get_type in src/llama-quant.cpp. Exceptions for single models are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from assistant.errors import ModelError
from assistant.memory.gguf.tensor_types import BY_NAME, GgmlType

_BLOCK = re.compile(r"^blk\.(\d+)\.")
_KEPT = re.compile(
    r"norm|ffn_gate_inp|ssm_(conv1d|a|d|dt|ba)\b|bias$|attn_sinks|shortconv\.conv|indexer\.proj|rope_freqs"
)
# Rows that a type's blocks do not divide get the next type that does.
_FALLBACK = {
    "q2_K": "q4_0", "q3_K": "q4_0", "iq4_xs": "iq4_nl", "q4_K": "q5_0", "q5_K": "q5_1",
    "q6_K": "q8_0", "mxfp4": "q8_0", "q4_0": "f16", "q5_0": "f16", "q5_1": "f16", "q8_0": "f16",
    "iq4_nl": "f16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a quantisation treats the tensors.

    Attributes:
        file_type: `general.file_type` (enum llama_ftype).
        base: most tensors; `better`: half of attn_v and ffn_down; `output`: the output matrix.
        experts: the routed experts, where they differ from `base`.
    """

    file_type: int
    base: str
    better: str
    output: str
    experts: str = ""

    def type_of(
        self, name: str, shape: tuple[int, ...], *, n_layer: int, n_expert: int, tied: bool
    ) -> GgmlType:
        """The type of tensor `name` of dimensions `shape` in a model of `n_layer` blocks.

        Where the output is `tied` to the token embedding, that is kept as well as an output.
        """
        if len(shape) < 2 or _KEPT.search(name):
            return BY_NAME["f32"]
        if name == "output.weight" or (tied and name == "token_embd.weight"):
            kind = self.output if shape[0] % BY_NAME[self.base].block_elements == 0 else "q8_0"
        else:
            kind = self._wanted(name, n_layer, n_expert)
        while shape[0] % BY_NAME[kind].block_elements:
            kind = _FALLBACK[kind]
        return BY_NAME[kind]

    def _wanted(self, name: str, n_layer: int, n_expert: int) -> str:
        block = _BLOCK.match(name)
        if block is None:
            return self.base
        if self.experts and "_exps." in name:
            return self.experts
        if "attn_v." in name and n_expert == 8 and self.better != self.base:
            return "q8_0"
        if ("attn_v." in name or "ffn_down" in name) and _more_bits(int(block[1]), n_layer):
            return self.better
        return self.base


def _more_bits(index: int, n_layer: int) -> bool:
    """The first and last eighth of the blocks, and every third between (use_more_bits)."""
    eighth = n_layer // 8
    return index < eighth or index >= 7 * n_layer // 8 or (index - eighth) % 3 == 2


RECIPES = {
    "F16": Recipe(1, "f16", "f16", "f16"),
    "BF16": Recipe(32, "bf16", "bf16", "bf16"),
    "Q8_0": Recipe(7, "q8_0", "q8_0", "q8_0"),
    "Q6_K": Recipe(18, "q6_K", "q6_K", "q6_K"),
    "Q5_K_M": Recipe(17, "q5_K", "q6_K", "q6_K"),
    "Q4_K_M": Recipe(15, "q4_K", "q6_K", "q6_K"),
    "IQ4_XS": Recipe(30, "iq4_xs", "q5_K", "q6_K"),
    "Q3_K_M": Recipe(12, "q3_K", "q5_K", "q6_K"),
    "Q2_K": Recipe(10, "q2_K", "q3_K", "q6_K"),
    "MXFP4": Recipe(38, "q8_0", "q8_0", "q8_0", experts="mxfp4"),
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        ModelError: there is none of that name.
    """
    try:
        return RECIPES[name.upper()]
    except KeyError:
        raise ModelError(
            "this quantisation is not known", subject=name, advice=f"Known: {', '.join(RECIPES)}"
        ) from None
