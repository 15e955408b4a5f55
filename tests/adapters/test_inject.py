"""A new adapter: what it trains, how it starts, and that it trains in every mode of the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sidestep import adapters
from sidestep.adapters import Adapter
from sidestep.config.adapter import AdapterSpec
from sidestep.runtime.errors import BadSpecError, UsageError
from tests.facts import facts, tells

from .conftest import Decode, MakeEffective, NewTransformer

LORA = AdapterSpec(rank=4, alpha=8, dropout=0)
LOKR = AdapterSpec(type="lokr", rank=2, alpha=8, factor=4)
DORA = LORA.model_copy(update={"weight_decompose": True})
both_kinds = pytest.mark.parametrize("spec", [LORA, LOKR], ids=["lora", "lokr"])
all_kinds = pytest.mark.parametrize("spec", [LORA, DORA, LOKR], ids=["lora", "dora", "lokr"])


def values(adapter: Adapter) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in adapter.parameters().items()}


@all_kinds
def test_only_the_adapter_trains_under_stable_names(transformer: nn.Module, spec: AdapterSpec) -> None:
    transformer.requires_grad_(True)  # as diffusers makes it
    adapter = adapters.inject(transformer, spec, seed=1)
    parameters = adapter.parameters()
    assert adapter.kind == spec.type
    assert list(parameters) == sorted(parameters)
    last = {"lora": "lora_A.weight", "lokr": "lokr_w1"}[spec.type]
    assert next(iter(parameters)) == f"layers.0.cross_attn.k_proj.{last}"
    trained = {id(p) for p in transformer.parameters() if p.requires_grad}
    assert trained == {id(p) for p in parameters.values()}


@both_kinds
def test_the_start_depends_on_seed_and_names_alone(
    new_transformer: NewTransformer, spec: AdapterSpec
) -> None:
    torch.manual_seed(1)
    first = values(adapters.inject(new_transformer(), spec, seed=1))
    torch.manual_seed(2)
    fewer = spec.model_copy(update={"target_modules": ("v_proj",)})
    second = values(adapters.inject(new_transformer(), fewer, seed=1))
    other = values(adapters.inject(new_transformer(), spec, seed=2))
    assert second
    assert all(torch.equal(first[name], second[name]) for name in second)
    random = [name for name in first if first[name].any()]
    assert len(random) >= len(first) // 2
    assert not any(torch.equal(first[name], other[name]) for name in random)
    assert len({tuple(first[name].flatten()[:3].tolist()) for name in random}) == len(random)


def test_the_law_of_the_start_is_the_libraries(transformer: nn.Module) -> None:
    adapter = adapters.inject(transformer, AdapterSpec(rank=64, target_modules=("down_proj",)), seed=3)
    matrix = adapter.parameters()["layers.0.mlp.down_proj.lora_A.weight"]
    bound = matrix.shape[1] ** -0.5
    assert 0.98 * bound < matrix.abs().max() <= bound
    assert abs(matrix.std() - bound / 3**0.5) < 0.02 * bound


@all_kinds
def test_a_half_precision_base_has_a_full_precision_adapter(
    transformer: nn.Module, decode: Decode, spec: AdapterSpec, make_effective: MakeEffective
) -> None:
    adapter = adapters.inject(transformer.to(torch.bfloat16), spec, seed=1)
    make_effective(adapter)
    assert {p.dtype for p in adapter.parameters().values()} == {torch.float32}
    assert transformer.get_parameter("layers.0.mlp.up_proj.weight").dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        decode(transformer).float().pow(2).mean().backward()
    for parameter in adapter.parameters().values():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.grad.any()


@all_kinds
def test_gradient_checkpointing_changes_no_gradient(
    new_transformer: NewTransformer, decode: Decode, spec: AdapterSpec, make_effective: MakeEffective
) -> None:
    def gradients(checkpointing: bool) -> list[Tensor | None]:
        transformer = new_transformer().train()
        adapter = adapters.inject(transformer, spec.model_copy(update={"dropout": 0.3}), seed=1)
        make_effective(adapter)
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        torch.manual_seed(5)  # dropout
        decode(transformer).pow(2).mean().backward()
        return [parameter.grad for parameter in adapter.parameters().values()]

    pairs = list(zip(gradients(True), gradients(False), strict=True))
    for one, other in pairs:
        assert one is not None and other is not None
        assert torch.equal(one, other) and one.any()


def test_dropout_acts_in_training_alone(
    transformer: nn.Module, decode: Decode, make_effective: MakeEffective
) -> None:
    adapter = adapters.inject(transformer, LORA.model_copy(update={"dropout": 0.5}), seed=1)
    make_effective(adapter)
    with torch.no_grad():
        assert torch.equal(decode(transformer), decode(transformer))  # the model came in eval mode
        transformer.train()
        assert not torch.equal(decode(transformer), decode(transformer))


def test_ranks_by_pattern_the_most_specific_first(transformer: nn.Module) -> None:
    pattern = {"q_proj": 2, "layers.1.self_attn.q_proj": 7, "self_attn.q_proj": 3}
    adapter = adapters.inject(transformer, LORA.model_copy(update={"rank_pattern": pattern}), seed=1)
    ranks = {name: p.shape[0] for name, p in adapter.parameters().items() if "lora_A" in name}
    assert ranks["layers.1.self_attn.q_proj.lora_A.weight"] == 7
    assert ranks["layers.0.self_attn.q_proj.lora_A.weight"] == 3
    assert ranks["layers.0.cross_attn.q_proj.lora_A.weight"] == 2
    assert ranks["layers.0.self_attn.v_proj.lora_A.weight"] == 4
    layer: Any = transformer.get_submodule("layers.1.self_attn.to_q")
    assert layer.scaling["default"] == 8 / 7


def test_a_pattern_that_fits_nothing_is_refused(transformer: nn.Module) -> None:
    spec = LORA.model_copy(update={"rank_pattern": {"up_proj": 2}})
    with pytest.raises(BadSpecError, match=facts("rank_pattern", "up_proj")):
        adapters.inject(transformer, spec, seed=1)
    with pytest.raises(BadSpecError, match=facts("alpha_pattern", "up_proj")):
        adapters.inject(transformer, LORA.model_copy(update={"alpha_pattern": {"up_proj": 2}}), seed=1)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("lokr", {"rank_pattern": {"q_proj": 2}}),
        ("lokr", {"alpha_pattern": "q_proj=2"}),
        ("lora", {"factor": 4}),
        ("lora", {"use_scalar": True}),
    ],
)
def test_a_setting_of_the_other_kind_is_refused(kind: str, setting: dict[str, Any]) -> None:
    other = {"lora": "lokr", "lokr": "lora"}[kind]
    with pytest.raises(ValidationError, match=facts(*setting, other, f"adapter.type is {kind}")):
        AdapterSpec.model_validate({"type": kind, **setting})
    spec = AdapterSpec.model_validate({"type": other, **setting})
    assert AdapterSpec.model_validate(spec.model_dump()) == spec
    plain = AdapterSpec.model_validate({"type": kind})
    assert AdapterSpec.model_validate(plain.model_dump()) == plain


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_are_refused_with_the_reason(transformer: nn.Module, bias: str) -> None:
    with pytest.raises(ValidationError, match=facts("bias", "none")):
        AdapterSpec.model_validate({"bias": bias})
    adapter = adapters.inject(transformer, AdapterSpec.model_validate({"bias": "none"}), seed=1)
    layers: dict[str, Any] = dict(adapter.layers)
    assert all(layer.base_layer.bias is None for layer in layers.values())


def test_alphas_by_pattern(transformer: nn.Module) -> None:
    patterns = {
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"v_proj": 3, "layers.1.cross_attn.v_proj": 5},
    }
    adapters.inject(transformer, LORA.model_copy(update=patterns), seed=1)
    layers: dict[str, Any] = dict(transformer.named_modules())
    scales = {
        path: layers[path].scaling["default"]
        for path in ("layers.0.self_attn.to_q", "layers.0.self_attn.to_v", "layers.1.cross_attn.to_v")
    }
    assert list(scales.values()) == [8 / 4, 3 / 2, 5 / 2]


def test_a_small_decomposed_update_of_a_bfloat16_base_is_not_rounded_away(
    new_transformer: NewTransformer,
) -> None:
    """A thousandth of the weights is less than bfloat16's step: added up in bfloat16, it would vanish."""
    spec = LOKR.model_copy(update={"weight_decompose": True, "target_modules": ("q_proj",)})
    updates = []
    for dtype in (torch.float32, torch.bfloat16):
        transformer = new_transformer().to(torch.bfloat16).to(dtype)  # the same weights in both
        layer: Any = adapters.inject(transformer, spec, seed=1).layers["layers.0.self_attn.q_proj"]
        layer.org_forward = torch.zeros_like  # what remains is the update
        with torch.no_grad():
            layer.lokr_w2_b.fill_(1e-4)
            updates.append(layer(torch.eye(layer.shape[1], dtype=dtype)).float())
    size = layer.org_module[0].weight.float().norm()
    assert 0 < updates[0].norm() < 1e-3 * size
    assert (updates[1] - updates[0]).norm() < 0.01 * updates[0].norm()


@both_kinds
def test_one_adapter_to_a_model(transformer: nn.Module, golden: Path, spec: AdapterSpec) -> None:
    adapters.inject(transformer, spec, seed=1)
    with pytest.raises(UsageError):
        adapters.load(transformer, golden / "adapters" / "acestep-v15-base" / "lokr")


def test_lokr_says_where_alpha_has_no_effect(
    new_transformer: NewTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="sidestep"):
        adapters.inject(new_transformer(), LOKR, seed=1)
        assert not caplog.messages
        adapters.inject(new_transformer(), LOKR.model_copy(update={"rank": 16}), seed=1)
    assert any(tells(line, "alpha", "32 of 32", "rank 16") for line in caplog.messages)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"use_tucker": True}, ["use_tucker"]),
        ({"decompose_both": True, "rank": 2}, ["decompose_both", "32 of 32", "rank 2"]),
        ({"weight_decompose": True}, ["weight_decompose", "ComfyUI"]),
    ],
)
def test_lokr_says_where_an_option_surprises(
    transformer: nn.Module, caplog: pytest.LogCaptureFixture, options: dict[str, Any], told: list[str]
) -> None:
    with caplog.at_level("INFO", logger="sidestep"):
        adapters.inject(transformer, LOKR.model_copy(update=options), seed=1)
    assert any(tells(line, *told) for line in caplog.messages)


def test_lokr_leaves_other_modules_and_lycoris_settings_alone(transformer: nn.Module) -> None:
    from lycoris import LycorisNetwork

    before = (LycorisNetwork.TARGET_REPLACE_MODULE, LycorisNetwork.TARGET_REPLACE_NAME)
    adapters.inject(transformer, LOKR.model_copy(update={"target_modules": ("q_proj",)}), seed=1)
    hooked = [name for name, module in transformer.named_modules() if "forward" in vars(module)]
    assert len(hooked) == 8 and all(name.endswith("to_q") for name in hooked)
    assert before == (LycorisNetwork.TARGET_REPLACE_MODULE, LycorisNetwork.TARGET_REPLACE_NAME)
