"""DoRA: the same numbers as PEFT's, which has its own form of dropout, in training and in files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep.names import diffusers_name
from sidestep.adapters.dora import Dora, adapted_lengths
from sidestep.adapters.lora import LoraAdapter, lengths, matrices
from sidestep.config.adapter import AdapterSpec
from sidestep.runtime.errors import BadDataError, UsageError
from sidestep.training.dropout import Masks
from tests.facts import facts

from .conftest import Decode, MakeEffective, NewTransformer
from .test_readers import write

SPEC = AdapterSpec(
    rank=4, alpha=6, dropout=0, weight_decompose=True, target_modules=("q_proj", "v_proj", "up_proj")
)
MODULE = "layers.0.self_attn.q_proj"


def dora_of(transformer: nn.Module, make_effective: MakeEffective, spec: AdapterSpec = SPEC) -> LoraAdapter:
    adapter = adapters.inject(transformer, spec, seed=1)
    make_effective(adapter)
    assert isinstance(adapter, LoraAdapter)
    return adapter


def pefts(transformer: nn.Module, adapter: LoraAdapter) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """PEFT's own DoRA put into another transformer, with the same values: names, ours, and its parameters."""
    config = LoraConfig(
        r=4, lora_alpha=6, use_dora=True, target_modules=[diffusers_name(path) for path in adapter.layers]
    )
    inject_adapter_in_model(config, transformer, "default")
    own = adapter.parameters()
    for path in adapter.layers:
        layer: Any = transformer.get_submodule(diffusers_name(path))
        theirs = {
            f"{path}.lora_A.weight": layer.lora_A["default"].weight,
            f"{path}.lora_B.weight": layer.lora_B["default"].weight,
            f"{path}.lora_magnitude_vector": layer.lora_magnitude_vector["default"].weight,
        }
        for name, parameter in theirs.items():
            parameter.data.copy_(own[name])
            yield name, own[name], parameter


def test_it_is_pefts_forward_and_backward(
    new_transformer: NewTransformer, decode: Decode, make_effective: MakeEffective
) -> None:
    mine, other = new_transformer().train(), new_transformer().train()
    adapter = dora_of(mine, make_effective)
    pairs = list(pefts(other, adapter))
    assert len(pairs) == len(adapter.parameters())
    outputs = decode(mine), decode(other)
    with torch.no_grad():
        assert (outputs[0] - decode(new_transformer())).abs().max() > 0.1
    assert (outputs[0] - outputs[1]).abs().max() <= 1e-6 * outputs[1].abs().max()
    for output in outputs:
        output.pow(2).mean().backward()
    for name, one, its in pairs:
        assert one.grad is not None and its.grad is not None and its.grad.any(), name
        assert (one.grad - its.grad).norm() <= 1e-5 * its.grad.norm(), name


def test_a_bias_is_of_no_row() -> None:
    """ACE-Step's own layers have none."""
    torch.manual_seed(3)
    base = nn.Linear(6, 5)
    model = inject_adapter_in_model(
        LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["0"]), nn.Sequential(base)
    )
    layer: Any = model.get_submodule("0")
    mine = Dora(base)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        mine.weight.mul_(1.7)
        layer.lora_magnitude_vector["default"].weight.copy_(mine.weight)
        x = torch.randn(3, 6)
        assert torch.allclose(mine(layer, active_adapter="default", x=x, result=base(x)), model(x), atol=1e-6)


def test_with_dropout_it_is_the_documented_form(
    transformer: nn.Module, make_effective: MakeEffective
) -> None:
    """y = m / ‖W + ΔW‖ · (W·x + alpha / rank · B·A·dropout(x)), the divisor without a gradient."""
    adapter = dora_of(transformer, make_effective, SPEC.model_copy(update={"dropout": 0.5}))
    masks = Masks(adapter, seed=3)
    masks.begin([7], torch.device("cpu"))
    layer: Any = adapter.layers[MODULE].train()
    x = torch.randn(1, 9, layer.in_features, generator=torch.Generator().manual_seed(2))
    output = layer(x)
    output.pow(2).sum().backward()
    with torch.no_grad():
        kept = layer.lora_dropout["default"](torch.ones_like(x))  # 0 or 2, the same mask again
    assert 0.3 < (kept == 0).float().mean() < 0.7

    weight = layer.base_layer.weight
    leaves = [lengths(layer), *matrices(layer).values()]
    m, a, b = (leaf.detach().clone().requires_grad_() for leaf in leaves)
    norm = (weight + 1.5 * b @ a).norm(dim=1).detach()
    expected = m / norm * (x @ weight.T + 1.5 * (x * kept) @ a.T @ b.T)
    expected.pow(2).sum().backward()
    assert torch.allclose(output, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(leaves, (m, a, b), strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).norm() <= 1e-5 * other.grad.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_begins_as_the_base_bit_for_bit(
    new_transformer: NewTransformer, decode: Decode, dtype: torch.dtype
) -> None:
    """In half precision too, where lengths of bfloat16, as PEFT has them, would be off by 0.4 %."""
    transformer = new_transformer().to(dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        plain = decode(transformer)
        adapters.inject(transformer, SPEC, seed=1)
        assert torch.equal(decode(transformer), plain)


def test_lengths_are_of_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, up, down = (torch.randn(shape, generator=generator) for shape in ((8, 16), (8, 4), (4, 16)))
    with torch.autocast("cpu", torch.bfloat16):
        found = adapted_lengths(weight, up, down, 1.5)
    assert torch.allclose(found, (weight + 1.5 * up @ down).norm(dim=1), rtol=1e-6)


@pytest.mark.parametrize("strength", [0, 0.3, 1, 1.7])
def test_a_strength_is_between_base_and_adapted(
    transformer: nn.Module, make_effective: MakeEffective, strength: float
) -> None:
    adapter = dora_of(transformer, make_effective)
    layer: Any = adapter.layers[MODULE]
    x = torch.randn(1, 9, layer.in_features, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        base, adapted = layer.base_layer(x), layer(x)
        adapter.set_strength(strength)
        if strength == 0:
            assert torch.equal(layer(x), base)
        assert torch.allclose(layer(x), base + strength * (adapted - base), atol=1e-5)


def test_published_again_from_a_model_without_weights_it_is_the_same(
    transformer: nn.Module, golden: Path, make_effective: MakeEffective, tmp_path: Path
) -> None:
    """As `sidestep export` reads it: ComfyUI's lengths cannot be made anew, and are the file's."""
    import json

    from sidestep.acestep.loading import shapes_alone

    folder = write(dora_of(transformer, make_effective), tmp_path / "adapter")
    config = json.loads((golden / "checkpoints/acestep-v15-base/config.json").read_text())
    adapter = adapters.load(shapes_alone(config), folder)
    files = adapters.publish(adapter)
    first, second = load_file(folder / "adapter_model.safetensors"), tmp_path / "second.safetensors"
    second.write_bytes(files["adapter_model.safetensors"])
    again = load_file(second)
    assert first.keys() == again.keys() and any(key.endswith("dora_scale") for key in first)
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())


def test_ones_in_comfyuis_form_alone_are_refused(
    transformer: nn.Module, new_transformer: NewTransformer, make_effective: MakeEffective, tmp_path: Path
) -> None:
    folder = write(dora_of(transformer, make_effective), tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    only = {key: tensor for key, tensor in tensors.items() if "magnitude" not in key}
    save_file(only, tmp_path / "comfy.safetensors")
    with pytest.raises(BadDataError, match=facts("comfy.safetensors", "dora_scale", "lora_magnitude_vector")):
        adapters.load(new_transformer(), tmp_path / "comfy.safetensors")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t, key: t.pop(key), ["1 missing", "lora_magnitude_vector"]),
        (lambda t, key: t.update({key: torch.ones(3)}), ["lora_magnitude_vector", "[3]"]),
        (
            lambda t, key: t.update({key.replace("lora_magnitude_vector", "dora_scale"): torch.ones(3, 1)}),
            ["dora_scale", "[3, 1]"],
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    transformer: nn.Module,
    new_transformer: NewTransformer,
    make_effective: MakeEffective,
    tmp_path: Path,
    edit: Any,
    told: list[str],
) -> None:
    folder = write(dora_of(transformer, make_effective), tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors, f"base_model.model.{MODULE}.lora_magnitude_vector")
    save_file(tensors, file)
    with pytest.raises(BadDataError, match=facts(*told)):
        adapters.load(new_transformer(), folder)


def test_it_is_no_sum(
    transformer: nn.Module, new_transformer: NewTransformer, make_effective: MakeEffective
) -> None:
    from sidestep.adapters.combine import Part, check_linear, resized_lora, summed_lora

    adapter = dora_of(transformer, make_effective)
    part = Part(adapter, 1.0, "my-dora")
    check_linear([part])
    for refused in (
        lambda: check_linear([part, part]),
        lambda: check_linear([part._replace(weight=0.5)]),
        lambda: summed_lora([part], new_transformer()),
        lambda: resized_lora(adapter, 2, new_transformer(), "my-dora"),
    ):
        with pytest.raises(UsageError, match=facts("my-dora", "weight_decompose")):
            refused()


def test_merged_into_the_weights_it_is_the_same_function(
    new_transformer: NewTransformer, decode: Decode, make_effective: MakeEffective
) -> None:
    transformer, plain = new_transformer(), new_transformer()
    adapter = dora_of(transformer, make_effective)
    with torch.no_grad():
        for path in adapter.layers:
            weight: Tensor = plain.get_parameter(diffusers_name(path) + ".weight")
            weight.copy_(adapter.adapted(path, weight.clone()))
        assert (decode(plain) - decode(transformer)).abs().max() <= 1e-5
