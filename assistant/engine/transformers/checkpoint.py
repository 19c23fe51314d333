"""A checkpoint in memory: loaded by a plan, its experts quantised as whole groups."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant.engine.types import Counting, DeviceMemory, LoadSpec, ModelInfo
from assistant.errors import LoadError, ModelError
from assistant.memory.planning.checkpoint import read_checkpoint
from assistant.models import vocabulary, vocabulary_import
from assistant.models.vocabulary import Vocabulary

_ROUTERS = (
    "gate",
    "shared_expert_gate",
    "router",
    "lm_head",
)  # small, and everything hangs on them


class LoadedCheckpoint:
    """What Transformers made of a checkpoint.

    Attributes:
        words: its vocabulary, where it is byte-level BPE; None elsewhere.
        ends: ids that end an answer.
    """

    def __init__(self, spec: LoadSpec, goes_on: Callable[[float], bool]) -> None:
        """Load it. `goes_on` receives the share that is done; False gives up.

        Raises:
            LoadError: Transformers cannot load it, memory was refused, or it was given up.
        """
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        started = time.monotonic()
        self._torch = torch
        if spec.n_threads:
            torch.set_num_threads(spec.n_threads)
        folder = Path(spec.path)
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            _go_on(goes_on, 0.05, spec)
            from assistant.engine.transformers import packed_weights

            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            packed_weights.adopt(config, folder)
            self.model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype="auto",
                device_map=_device_map(spec),
                quantization_config=_quantisation(transformers, torch, spec),
            )
            _check_whole(report, spec)
            _go_on(goes_on, 0.8, spec)
            if spec.scheme == "nf4":
                self._quantise_experts(lambda share: _go_on(goes_on, 0.8 + share * 0.2, spec))
        except LoadError:
            raise
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, AssertionError) as error:
            raise LoadError(
                f"Transformers cannot load it ({type(error).__name__}: {str(error)[:300]})",
                subject=spec.path,
                advice="Check the checkpoint, or serve a GGUF of the model",
            ) from error
        self.model.eval()
        forward = inspect.signature(self.model.forward).parameters
        self._cache_name = "cache" if "cache" in forward else "past_key_values"
        self.words = self._vocabulary(folder)
        self.ends = self._ends()
        self.spec = spec
        self.load_ms = (time.monotonic() - started) * 1000

    def info(self) -> ModelInfo:
        config = self.model.config
        text = getattr(config, "text_config", config)
        trained = int(getattr(text, "max_position_embeddings", 0) or 0)
        template = getattr(self.tokenizer, "chat_template", "") or ""
        named = template if isinstance(template, dict) else {"default": template}
        bos = self.tokenizer.bos_token_id
        adds = bos is not None and self.tokenizer("x")["input_ids"][:1] == [bos]
        return ModelInfo(
            name=Path(self.spec.path).name,
            path=self.spec.path,
            architecture=str(getattr(config, "model_type", "")),
            n_vocab=int(text.vocab_size),
            n_ctx=min(self.spec.n_ctx, trained) if trained else self.spec.n_ctx,
            n_ctx_train=trained,
            n_params=read_checkpoint(Path(self.spec.path)).parameters,
            size_bytes=int(self.model.get_memory_footprint()),
            n_seq_max=self.spec.n_seq_max,
            add_bos=adds,
            bos=bos if adds else -1,
            chat_template=str(named.get("default", "")),
            tool_template=str(named.get("tool_use", "")),
            special_tokens=tuple(
                (name, str(text))
                for name, text in self.tokenizer.special_tokens_map.items()
                if isinstance(text, str)
            ),
            load_ms=self.load_ms,
            memory=self._memory(),
            vocabulary=self._vocabulary_path,
            counting=Counting.EXACT,
        )

    def new_cache(self) -> Any:
        """An empty KV cache."""
        import transformers

        return transformers.DynamicCache(config=self.model.config)

    def logits(self, ids: Sequence[int], cache: Any) -> Any:
        """Evaluate `ids` behind what `cache` holds; the last one's logits, on the host."""
        torch = self._torch
        device = self.model.get_input_embeddings().weight.device
        tokens = torch.tensor([list(ids)], device=device)
        with torch.inference_mode():
            out = self.model(
                input_ids=tokens, use_cache=True, logits_to_keep=1, **{self._cache_name: cache}
            )
        return out.logits[0, -1].float().cpu()

    def encode(self, text: str, *, special: bool) -> list[int]:
        if self.words is not None and not special:
            return self.words.encode(text)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token; a control token has some only with `special`."""
        if token in self._control and not special:
            return b""
        if self.words is not None:
            if token >= self.words.size:
                return b""
            return self.words.decode_bytes([token])
        text = self.tokenizer.convert_ids_to_tokens(token) or ""
        if text.startswith("<0x") and text.endswith(">"):
            return bytes([int(text[3:-1], 16)])
        return text.replace("\u2581", " ").encode()

    def _vocabulary(self, folder: Path) -> Vocabulary | None:
        self._vocabulary_path = ""
        self._control = frozenset(self.tokenizer.all_special_ids)
        try:
            read = vocabulary_import.read_tokenizer(folder / "tokenizer.json", folder.name)
            path = vocabulary_import.adopt(read, self.encode_whole)
            found = vocabulary.load(path)
        except ModelError:
            return None
        self._vocabulary_path = str(path)
        self._control |= frozenset(found.control.values())
        return found

    def encode_whole(self, text: str) -> list[int]:
        """The tokeniser's own ids, without any before or after."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _ends(self) -> frozenset[int]:
        found: set[int] = set()
        for place in (self.model.config, self.model.generation_config, self.tokenizer):
            ids = getattr(place, "eos_token_id", None)
            found |= set(ids) if isinstance(ids, list) else {ids} if isinstance(ids, int) else set()
        return frozenset(found)

    def _quantise_experts(self, report: Callable[[float], None]) -> None:
        """Experts that Transformers keeps in one tensor a layer are no linear layers to it, and
        stay at 16 bits: quantise them here, each layer's as a whole, where they stand."""
        from bitsandbytes.nn.parametrize import replace_parameter_4bit

        found = [
            (module, name)
            for module in self.model.modules()
            for name, tensor in module.named_parameters(recurse=False)
            if tensor.dim() == 3 and tensor.is_floating_point() and tensor.device.type != "meta"
        ]
        for done, (module, name) in enumerate(found, 1):
            replace_parameter_4bit(module, name, compress_statistics=True, quant_type="nf4")
            report(done / len(found))

    def _memory(self) -> tuple[DeviceMemory, ...]:
        sizes: dict[str, int] = {}
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            place = tensor.device
            name = "CPU" if place.type in {"cpu", "meta"} else f"CUDA{place.index or 0}"
            sizes[name] = sizes.get(name, 0) + tensor.numel() * tensor.element_size()
        return tuple(
            DeviceMemory(
                buffer_type="torch",
                weights_bytes=size,
                kv_bytes=0,
                compute_bytes=0,
                is_host=name == "CPU",
                device=name,
            )
            for name, size in sizes.items()
        )


def _device_map(spec: LoadSpec) -> dict[str, int | str]:
    """The plan's own: every module by name, a layer's experts in one entry."""
    if not spec.overrides:
        return {"": "cpu"}
    return {
        entry.pattern: int(entry.device) if entry.device.isdigit() else entry.device
        for entry in spec.overrides
    }


def _quantisation(transformers: Any, torch: Any, spec: LoadSpec) -> Any:
    if spec.scheme != "nf4":
        return None  # a checkpoint that is quantised already says itself what it is
    places = {entry.device for entry in spec.overrides}
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(_ROUTERS),
        # Beside a GPU, what is in host memory stays at 16 bits: the plan counts it so.
        llm_int8_enable_fp32_cpu_offload=len(places) > 1,
    )


def _check_whole(report: Mapping[str, Any], spec: LoadSpec) -> None:
    """Transformers fills weights that a checkpoint lacks with chance, and only warns.

    Raises:
        LoadError: there are such.
    """
    lacking = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if lacking:
        raise LoadError(
            f"Transformers found no weights for {len(lacking)} of its tensors"
            f" ({', '.join(lacking[:3])})",
            subject=spec.path,
            advice="It knows the checkpoint by other names: serve it with vLLM, or take a GGUF",
        )


def _go_on(goes_on: Callable[[float], bool], share: float, spec: LoadSpec) -> None:
    if not goes_on(share):
        raise LoadError("the load was given up", subject=spec.path)
