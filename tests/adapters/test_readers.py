"""A published adapter is the same function for the app, for ComfyUI and for diffusers as in training.

The app and ComfyUI run the original decoder, so their rules are applied to its linear layers under their
original names; the weights that come out are put into a fresh transformer and run.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline
from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep.names import diffusers_name
from sidestep.adapters import Adapter
from sidestep.adapters.targets import layers_of
from sidestep.config.adapter import AdapterSpec

from .conftest import Decode, MakeEffective, NewTransformer

Train = Callable[[AdapterSpec], tuple[Path, Tensor]]

LORA = {
    "attention": AdapterSpec(rank=4, alpha=12, dropout=0.5),
    "with MLP": AdapterSpec(rank=4, alpha=2, target_modules=("q_proj", "o_proj", "gate_proj", "down_proj")),
    "rank pattern": AdapterSpec(
        rank=4,
        alpha=6,
        target_modules=("v_proj", "q_proj", "up_proj"),
        rank_pattern={"v_proj": 3, "layers.1.mlp.up_proj": 7},
    ),
    "some layers": AdapterSpec(
        rank=4, alpha=6, target_modules=("layers.1.self_attn.k_proj", "cross_attn.o_proj")
    ),
    "MLP alone": AdapterSpec(rank=4, alpha=6, target_modules=("gate_proj", "up_proj")),
    "values and outputs": AdapterSpec(rank=4, alpha=6, target_modules=("v_proj", "o_proj")),
    "self-attention": AdapterSpec(rank=4, alpha=6, attention="self", target_modules=("q_proj", "up_proj")),
    "cross-attention": AdapterSpec(rank=4, alpha=6, attention="cross"),
    "rank and alpha patterns": AdapterSpec(
        rank=4, alpha=6, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 1.5, "self_attn.k_proj": 20}
    ),
}
DORA = {
    "DoRA": AdapterSpec(rank=4, alpha=12, dropout=0.5, weight_decompose=True),
    "DoRA, mixed": AdapterSpec(
        rank=4,
        alpha=6,
        weight_decompose=True,
        target_modules=("v_proj", "q_proj", "up_proj"),
        rank_pattern={"v_proj": 3},
        alpha_pattern={"layers.1.mlp.up_proj": 20},
    ),
    "DoRA, MLP alone": AdapterSpec(
        rank=4, alpha=6, weight_decompose=True, target_modules=("gate_proj", "down_proj")
    ),
}
LOKR = {
    "full": AdapterSpec(type="lokr", rank=16, alpha=3, factor=4),
    "low-rank": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4),
    "default factor": AdapterSpec(type="lokr", rank=1, alpha=3),
    "with MLP": AdapterSpec(
        type="lokr", rank=2, alpha=3, factor=4, target_modules=("v_proj", "up_proj", "down_proj")
    ),
    "both low-rank": AdapterSpec(type="lokr", rank=1, alpha=5, factor=4, decompose_both=True),
    "scalar": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, use_scalar=True),
    "full with scalar": AdapterSpec(type="lokr", rank=16, alpha=5, factor=4, use_scalar=True),
    "Tucker": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, use_tucker=True),
    "cross-attention": AdapterSpec(type="lokr", rank=2, alpha=3, factor=4, attention="cross"),
}
# ComfyUI and PEFT have no weight decomposition like LyCORIS'.
DECOMPOSED = {
    "decomposed": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, weight_decompose=True),
    "full, decomposed": AdapterSpec(type="lokr", rank=16, alpha=5, factor=4, weight_decompose=True),
    "everything": AdapterSpec(
        type="lokr",
        rank=2,
        alpha=5,
        factor=8,
        decompose_both=True,
        use_tucker=True,
        use_scalar=True,
        weight_decompose=True,
    ),
}


def spec_params(specs: dict[str, AdapterSpec]) -> list[Any]:
    return [pytest.param(spec, id=name) for name, spec in specs.items()]


@pytest.fixture
def trained(transformer: nn.Module, decode: Decode, make_effective: MakeEffective, tmp_path: Path) -> Train:
    """Publishes an adapter that has an effect; returns its folder and what the model computes with it."""

    def train(spec: AdapterSpec) -> tuple[Path, Tensor]:
        with torch.no_grad():
            plain = decode(transformer)
            adapter = adapters.inject(transformer, spec, seed=1)
            # A fresh adapter is an update of zero; W / |W| · |W| is W but for its rounding.
            assert (decode(transformer) - plain).abs().max() <= (1e-5 if spec.weight_decompose else 0)
            make_effective(adapter)
            output = decode(transformer.eval())
        assert (output - plain).abs().max() > 0.01
        return write(adapter, tmp_path / "adapter"), output

    return train


def write(adapter: Adapter, folder: Path) -> Path:
    folder.mkdir()
    for name, data in adapters.publish(adapter).items():
        (folder / name).write_bytes(data)
    return folder


class OriginalDecoder(nn.Module):
    """The linear layers of a transformer, and its convolution, under their original paths."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        for path, layer in layers_of(transformer, nn.Linear, nn.Conv1d).items():
            *parents, name = path.split(".")
            module: nn.Module = self
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = module.get_submodule(parent)
            module.add_module(name, layer)

    def linears(self) -> Iterator[tuple[str, nn.Linear]]:
        return ((name, module) for name, module in self.named_modules() if isinstance(module, nn.Linear))

    def adaptable(self) -> Iterator[tuple[str, nn.Module]]:
        kinds = (nn.Linear, nn.Conv1d)
        return ((name, module) for name, module in self.named_modules() if isinstance(module, kinds))


Reader = Callable[[OriginalDecoder, Path], dict[str, Tensor]]


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that a layer, with whatever is hooked to it, applies."""
    shape = tuple(layer.get_parameter("weight").shape)
    inputs = torch.eye(math.prod(shape[1:])).view(-1, *shape[1:])
    with torch.no_grad():
        outputs: Tensor = layer(inputs) - layer(torch.zeros_like(inputs))
        return outputs.flatten(1).T.reshape(shape)


def set_weights(transformer: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    with torch.no_grad():
        for path, weight in weights.items():
            transformer.get_parameter(diffusers_name(path) + ".weight").copy_(weight)
    return transformer


def by_peft(decoder: OriginalDecoder, folder: Path) -> dict[str, Tensor]:
    """The app's LoRA: PeftModel.from_pretrained on the decoder."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of keys that it misses
        merged = PeftModel.from_pretrained(decoder, folder, is_trainable=False).merge_and_unload()
    return {path: linear.weight for path, linear in merged.linears()}


def by_app_lokr(decoder: OriginalDecoder, folder: Path) -> dict[str, Tensor]:
    """The app's LoKR: a network as the header says, on all of the decoder; then its weights, not strictly."""
    file = folder / "lokr_weights.safetensors"
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["lokr_config"])
    targets, dora = config.pop("target_modules"), config.pop("weight_decompose")
    LycorisNetwork.apply_preset({"target_name": targets})
    network = create_lycoris(decoder, 1.0, algo="lokr", dora_wd=dora, **config)
    network.apply_to()
    assert not network.load_weights(str(file)).get("unexpected keys")
    return {path: effective_weight(layer) for path, layer in decoder.adaptable()}


def by_lycoris(decoder: OriginalDecoder, folder: Path) -> dict[str, Tensor]:
    """LyCORIS' own way with a file alone: modules by the shapes of their tensors, then merged."""
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(folder / "lokr_weights.safetensors"), decoder)
        network.merge_to()
    return {path: linear.weight for path, linear in decoder.linears()}


def by_comfyui(decoder: OriginalDecoder, folder: Path) -> dict[str, Tensor]:
    """ComfyUI's rule for ACE-Step 1.5: comfy/lora.py and comfy/weight_adapter/{lora,lokr}.py."""
    file = next(
        folder / name
        for name in ("adapter_model.safetensors", "lokr_weights.safetensors")
        if (folder / name).exists()
    )
    tensors = load_file(file)
    merged = {}
    for path, layer in decoder.adaptable():
        weight = merged[path] = layer.get_parameter("weight").detach().clone()
        for prefix in (f"base_model.model.{path}", "lycoris_" + path.replace(".", "_")):
            alpha = tensors.pop(f"{prefix}.alpha", None)
            if f"{prefix}.lora_B.weight" in tensors:
                up, down = tensors.pop(f"{prefix}.lora_B.weight"), tensors.pop(f"{prefix}.lora_A.weight")
                lengths = weight.norm(dim=1, keepdim=True)
                weight += (1.0 if alpha is None else alpha / down.shape[0]) * up @ down
                if (scale := tensors.pop(f"{prefix}.dora_scale", None)) is not None:
                    assert scale.shape == lengths.shape  # by this it knows the rows
                    weight *= scale / lengths
                    tensors.pop(f"{prefix}.lora_magnitude_vector")  # "lora key not loaded"
            elif alpha is not None:
                rank = None
                factors = []
                for name in ("lokr_w1", "lokr_w2"):
                    if (factor := tensors.pop(f"{prefix}.{name}", None)) is None:
                        a, b = tensors.pop(f"{prefix}.{name}_a"), tensors.pop(f"{prefix}.{name}_b")
                        factor, rank = a @ b, b.shape[0]  # Tucker's core raises there, and is left over here
                    factors.append(factor)
                weight += (1.0 if rank is None else alpha / rank) * torch.kron(*factors).reshape(weight.shape)
    assert not tensors, f"lora key not loaded: {sorted(tensors)}"
    return merged


def by_diffusers_lora(transformer: nn.Module, folder: Path) -> nn.Module:
    AceStepPipeline(None, None, None, transformer, None, None).load_lora_weights(folder)
    return transformer


def by_diffusers_lokr(transformer: Any, folder: Path) -> Any:
    transformer.load_lora_adapter(folder, weight_name="diffusers_lokr_weights.safetensors")
    return transformer


def assert_same_function(decode: Decode, transformer: nn.Module, trained_output: Tensor) -> None:
    with torch.no_grad():
        difference = (decode(transformer.eval()) - trained_output).abs().max()
    assert difference <= 1e-4


@pytest.mark.parametrize("spec", spec_params(LORA | DORA))
@pytest.mark.parametrize("reader", [by_peft, by_comfyui])
def test_lora_merged_into_the_original_weights(
    spec: AdapterSpec, reader: Reader, trained: Train, new_transformer: NewTransformer, decode: Decode
) -> None:
    folder, output = trained(spec)
    weights = reader(OriginalDecoder(new_transformer()), folder)
    assert_same_function(decode, set_weights(new_transformer(), weights), output)


@pytest.mark.parametrize("spec", spec_params(LORA | DORA))
def test_lora_by_diffusers(
    spec: AdapterSpec, trained: Train, new_transformer: NewTransformer, decode: Decode
) -> None:
    folder, output = trained(spec)
    assert_same_function(decode, by_diffusers_lora(new_transformer(), folder), output)


FACTOR_ABOVE_ROOT = AdapterSpec(type="lokr", rank=2, alpha=5, factor=8)  # 32 = 4 · 8 here, 8 · 4 in PEFT


@pytest.mark.parametrize("spec", spec_params(LOKR | {"factor above the root": FACTOR_ABOVE_ROOT}))
@pytest.mark.parametrize("reader", [by_app_lokr, by_lycoris, by_comfyui])
def test_lokr_merged_into_the_original_weights(
    spec: AdapterSpec, reader: Reader, trained: Train, new_transformer: NewTransformer, decode: Decode
) -> None:
    folder, output = trained(spec)
    weights = reader(OriginalDecoder(new_transformer()), folder)
    assert_same_function(decode, set_weights(new_transformer(), weights), output)


@pytest.mark.parametrize("spec", spec_params(DECOMPOSED))
@pytest.mark.parametrize("reader", [by_app_lokr, by_lycoris])
def test_decomposed_lokr_merged_into_the_original_weights(
    spec: AdapterSpec, reader: Reader, trained: Train, new_transformer: NewTransformer, decode: Decode
) -> None:
    folder, output = trained(spec)
    assert [path.name for path in folder.iterdir()] == ["lokr_weights.safetensors"]
    weights = reader(OriginalDecoder(new_transformer()), folder)
    assert_same_function(decode, set_weights(new_transformer(), weights), output)


@pytest.mark.parametrize("spec", spec_params(LOKR))
def test_lokr_by_diffusers(
    spec: AdapterSpec, trained: Train, new_transformer: NewTransformer, decode: Decode
) -> None:
    folder, output = trained(spec)
    assert_same_function(decode, by_diffusers_lokr(new_transformer(), folder), output)


def test_a_lokr_that_diffusers_cannot_represent_has_no_file_for_it(
    trained: Train, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        folder, _ = trained(FACTOR_ABOVE_ROOT)
    assert [path.name for path in folder.iterdir()] == ["lokr_weights.safetensors"]
    assert "diffusers_lokr_weights.safetensors" in caplog.text


@pytest.mark.parametrize(
    "spec", spec_params(LORA | DORA | {f"lokr {name}": s for name, s in (LOKR | DECOMPOSED).items()})
)
def test_what_is_published_loads_here_as_the_same_function(
    spec: AdapterSpec, trained: Train, new_transformer: NewTransformer, decode: Decode
) -> None:
    folder, output = trained(spec)
    fresh = new_transformer()
    adapters.load(fresh, folder)
    assert_same_function(decode, fresh, output)


@pytest.mark.parametrize("with_metadata", [True, False])
def test_diffusers_own_format_loads_here(
    new_transformer: NewTransformer, decode: Decode, tmp_path: Path, with_metadata: bool
) -> None:
    alpha = 6 if with_metadata else 4  # diffusers' files without metadata mean alpha = rank
    writer = new_transformer()
    writer.add_adapter(
        LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    )
    AceStepPipeline.save_lora_weights(
        tmp_path,
        get_peft_model_state_dict(writer),
        transformer_lora_adapter_metadata=writer.peft_config["default"].to_dict() if with_metadata else None,
    )
    with torch.no_grad():
        output = decode(writer)
    fresh = new_transformer()
    adapters.load(fresh, tmp_path)
    assert_same_function(decode, fresh, output)
