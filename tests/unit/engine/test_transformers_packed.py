"""GPTQ and AWQ checkpoints as they are, and what 4 bits take, on the CPU.

Each is packed on the spot, and compared with what Transformers makes of the same weights unpacked.
Runs where torch can be imported, as `test_transformers.py` does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_checkpoint

from assistant import paths
from assistant.daemon.loading import load_spec
from assistant.engine.transformers import TransformersEngine
from assistant.engine.types import Delta, GenerateRequest, LoadSpec
from assistant.errors import LoadError
from assistant.memory.devices import Device, DeviceKind
from assistant.memory.planning import Machine
from assistant.memory.planning.checkpoint import read_checkpoint
from assistant.memory.planning.checkpoint_plan import Scheme, checkpoint_bytes, map_devices
from assistant.settings import ModelSettings

torch = pytest.importorskip(
    "torch", reason="torch is not installed: run 'make test-transformers' for these tests"
)
import packed_checkpoint  # noqa: E402
from packed_checkpoint import Kind  # noqa: E402

PROMPT = "def fibonacci(n):\n    return"
KINDS = [
    Kind("gptq"),
    Kind("gptq", form="gptq_v2", ordered=True),
    Kind("gptq", bits=8),
    Kind("awq"),
]


@pytest.fixture(scope="module")
def source(dense_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkpoint at 16 bits."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint.make(folder, dense_model, Path(sys.executable))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERKEEL_MODELS", str(paths.models_dir()))
        patch.setenv("UNDERKEEL_HOME", str(tmp_path_factory.mktemp("home")))
        yield folder


def _load(folder: Path, **spec: object) -> object:
    """The worker's own loading, in this process."""
    from assistant.engine.transformers.checkpoint import LoadedCheckpoint

    return LoadedCheckpoint(LoadSpec(path=str(folder), n_ctx=256, **spec), lambda _: True)  # type: ignore[arg-type]


def _close(found: object, wanted: object) -> None:
    """Rounding apart: both reckon in float16, in other orders."""
    torch.testing.assert_close(found, wanted, atol=0.01 * float(wanted.std()), rtol=0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_packed_weights_say_what_they_say_unpacked(
    source: Path, tmp_path: Path, kind: Kind
) -> None:
    import transformers

    plain = packed_checkpoint.write(source, tmp_path / "packed", kind)
    loaded = _load(tmp_path / "packed")
    ids = loaded.encode(PROMPT, special=False)  # type: ignore[attr-defined]
    found = loaded.logits(ids, loaded.new_cache())  # type: ignore[attr-defined]
    whole = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype="auto")
    with torch.inference_mode():
        wanted = whole(torch.tensor([ids])).logits[0, -1].float()
    _close(found, wanted)
    # It stays packed, and the plan knows what that takes.
    checkpoint = read_checkpoint(tmp_path / "packed")
    planned = checkpoint_bytes(checkpoint, Scheme.STORED)
    info = loaded.info()  # type: ignore[attr-defined]
    buffers = sum(x.numel() * x.element_size() for x in loaded.model.buffers())  # type: ignore[attr-defined]
    assert info.size_bytes - buffers == planned < whole.get_memory_footprint()
    assert info.n_params == sum(x.numel() for x in whole.parameters())


def test_the_engine_serves_it(source: Path, tmp_path: Path) -> None:
    import transformers

    plain = packed_checkpoint.write(source, tmp_path / "packed", Kind("awq"))

    async def run() -> tuple[list[int], list[int]]:
        engine = TransformersEngine()
        await engine.load(LoadSpec(path=str(tmp_path / "packed"), n_ctx=256))
        ids = await engine.tokenise(PROMPT)
        asked = GenerateRequest(id="r", prompt=tuple(ids), max_tokens=6)
        events = [event async for event in engine.generate(asked)]
        await engine.close()
        return ids, [token for e in events if isinstance(e, Delta) for token in e.tokens]

    ids, tokens = asyncio.run(run())
    whole = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype="auto")
    said = whole.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)
    assert tokens and tokens == said[0, len(ids) :].tolist()[: len(tokens)]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"quant_method": "gptq", "bits": 3}, "GPTQ of 3 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ of 4 bits in the format"),
    ],
)
def test_a_packing_that_is_not_read_is_reported(
    source: Path, tmp_path: Path, said: dict[str, object], what: str
) -> None:
    folder = tmp_path / "packed"
    packed_checkpoint.write(source, folder, Kind("gptq"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    with pytest.raises(LoadError, match=what) as caught:
        _load(folder)
    assert "vLLM" in caught.value.advice


def test_weights_that_are_not_there_are_never_chance(source: Path, tmp_path: Path) -> None:
    """Transformers itself would fill them with chance, and only warn."""
    folder = tmp_path / "packed"
    packed_checkpoint.write(source, folder, Kind("gptq"))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="found no weights for"):
        _load(folder)


def test_beside_a_gpu_the_host_is_left_at_16_bits(source: Path) -> None:
    """What bitsandbytes does with a device map of both, as far as that goes without a GPU: it
    takes the map, and leaves the linear layers of the host as they are. The plan counts on it."""
    import transformers
    from bitsandbytes.nn import Linear4bit
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    from assistant.engine.transformers.checkpoint import _device_map, _quantisation

    found = read_checkpoint(source)
    gib = 1 << 30
    host = Device("CPU", DeviceKind.CPU, gib, gib)
    sizes = [gib + step * (1 << 18) for step in range(2000)]
    gpus = [Device("CUDA0", DeviceKind.GPU, size, size) for size in sizes]
    maps = (map_devices(found, Machine(host, (c,)), Scheme.NF4_DOUBLE, n_ctx=0) for c in gpus)
    mapped = next(one for one in maps if 0 < one.expert_layers_on_gpus < tiny_checkpoint.LAYERS)
    spec = load_spec(found, Scheme.NF4_DOUBLE, mapped, ModelSettings(n_ctx=256))
    assert {entry.device for entry in spec.overrides} == {"0", "cpu"}
    places = _device_map(spec)
    quantiser = Bnb4BitHfQuantizer(_quantisation(transformers, torch, spec), pre_quantized=False)
    quantiser.validate_environment(device_map=places)
    with torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_config(config)
    quantiser.preprocess_model(model, device_map=places)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name and "gate" not in name[-6:]:
            holder = max((key for key in places if name.startswith(key)), key=len)
            assert isinstance(module, Linear4bit) == (places[holder] == 0), name


def test_four_bits_take_what_the_plan_says(source: Path) -> None:
    """Without a GPU all is quantised where it stands, experts and all."""
    found = read_checkpoint(source)
    loaded = _load(source, scheme="nf4")
    scales = [
        part
        for module in loaded.model.modules()  # type: ignore[attr-defined]
        for state in (
            getattr(getattr(module, "weight", None), "quant_state", None),
            getattr(module, "quant_state", None),
        )
        if state is not None
        for part in (state.absmax, state.state2.absmax)
    ]
    held = sum(x.numel() * x.element_size() for x in (*loaded.model.parameters(), *scales))  # type: ignore[attr-defined]
    planned = checkpoint_bytes(found, Scheme.NF4_DOUBLE)
    kept = 2 * 2 * 151_936 * 256  # embeddings and output stay at 16 bits
    assert held - kept == pytest.approx(planned - kept, rel=0.02)
