"""What the planner needs to know of a model, computed once from its header."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from assistant.memory.gguf.header import Header, StringArray, Tensor
from assistant.memory.model.architecture import (
    ModelMemory,
    is_supported,
    model_memory,
    n_layers,
    skipped_layers,
)
from assistant.memory.model.tensor_inventory import TensorInventory, take_inventory


@dataclass(frozen=True, slots=True)
class Activations:
    """Widths that bound the compute buffers, in elements a token.

    Attributes:
        heads: query heads; `query`: elements of all of them together.
        expert, used: one expert's width, and how many run.
        latent: elements of the compressed cache row (multi-head latent attention); else 0.
        recurrent: elements of a recurrent mixer; else 0.
    """

    embedding: int
    vocabulary: int
    heads: int
    query: int
    feed_forward: int
    expert: int
    used: int
    latent: int
    recurrent: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the planner sees it.

    Attributes:
        path: of its first file; may be a URL or a name that is no file.
        n_layer: blocks of the file, those of multi-token prediction included.
        n_ctx_train: tokens it was trained for; 0 where the header does not say.
        supported: whether llama.cpp loads this architecture.
    """

    path: str
    name: str
    architecture: str
    n_layer: int
    n_ctx_train: int
    supported: bool
    inventory: TensorInventory
    memory: ModelMemory
    activations: Activations

    @property
    def known(self) -> bool:
        """Whether cache and compute sizes can be told from the header."""
        return self.memory.known


def model_of(header: Header) -> Model:
    """Everything the planner needs of a header."""
    inventory = take_inventory(header)
    return Model(
        path=header.path,
        name=header.name,
        architecture=header.architecture,
        n_layer=n_layers(header),
        n_ctx_train=max(header.integer("context_length"), 0),
        supported=is_supported(header.architecture),
        inventory=inventory,
        memory=model_memory(header),
        activations=_activations(header, inventory),
    )


def _activations(header: Header, inventory: TensorInventory) -> Activations:
    n_layer = max(n_layers(header) - skipped_layers(header), 0)
    heads = max(header.integers("attention.head_count", max(n_layer, 1)), default=0)
    embedding = max(header.integer("embedding_length"), 0)
    latent = header.integer("attention.key_length_mla") > 0
    key = header.integer("attention.key_length", embedding // max(heads, 1))
    ffn = header.integers("feed_forward_length", max(n_layer, 1))
    experts = [layer for layer in inventory.layers if layer.experts]
    widths = (tensor.shape[0] for x in experts for tensor in x.experts if "down" in tensor.name)
    return Activations(
        embedding=embedding,
        vocabulary=vocabulary(header),
        heads=max(heads, 0),
        query=max(heads * (key if not latent else 0), 0),
        feed_forward=max(ffn, default=0) if _has_dense_ffn(inventory) else 0,
        expert=max(widths, default=0),
        used=max((layer.used for layer in experts), default=0),
        latent=max(key, 0) if latent else 0,
        recurrent=max(header.integer("ssm.inner_size"), 0),
    )


def vocabulary(header: Header) -> int:
    """Rows of the output; 0 where the header does not say."""
    for name in ("output.weight", "token_embd.weight"):
        for tensor in header.tensors:
            if tensor.name == name and len(tensor.shape) == 2:
                return tensor.shape[1]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, StringArray) else 0


def sized(tensors: Iterable[Tensor], alignment: int, row_padding: int = 0) -> int:
    """Bytes that tensors take in one buffer: each padded to the buffer type's alignment.

    Args:
        row_padding: elements to which a device pads the last row of quantised tensors
            (MATRIX_ROW_PADDING in ggml-cuda.cu); 0 for none.
    """
    total = 0
    for tensor in tensors:
        size = tensor.size_bytes
        kind = tensor.type
        if row_padding and kind.block_elements > 1 and tensor.shape[0] % row_padding:
            short = row_padding - tensor.shape[0] % row_padding
            size += short // kind.block_elements * kind.block_bytes
        total += -(-size // alignment) * alignment
    return total


def _has_dense_ffn(inventory: TensorInventory) -> bool:
    return any(
        ".ffn_up." in tensor.name or ".ffn_down." in tensor.name
        for layer in inventory.layers
        for tensor in layer.dense
    )
