"""Dropout of the adapter: a mask goes by seed, sample, module and element, and by nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep.loading import load_model
from sidestep.acestep.names import diffusers_name
from sidestep.adapters import Adapter
from sidestep.adapters.lokr import flat
from sidestep.config.adapter import AdapterSpec
from sidestep.training import rng
from sidestep.training.dropout import Masks
from tests.songs import MakeSpec, song, write_songs
from tests.training.trainers import trainer_of

CPU = torch.device("cpu")
MODULE = "layers.0.self_attn.q_proj"
SPLITMIX_OF_0 = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
"""The generator's first outputs with seed 0, as its authors' code gives them."""


def spec_of(type_: str, **options: Any) -> AdapterSpec:
    options = {"rank": 4, "dropout": 0.5, "target_modules": (MODULE, "layers.1.mlp.up_proj"), **options}
    return AdapterSpec(type=type_, **options)


@pytest.fixture
def transformer(golden: Path) -> nn.Module:
    model: nn.Module = load_model(golden / "checkpoints", "base", parts=("transformer",)).transformer
    return model


@torch.no_grad()
def decode(transformer: Any, adapter: Adapter) -> Tensor:
    """What it makes of two samples, with an adapter that has an effect."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in adapter.parameters().items():
        parameter.copy_(torch.full_like(parameter, 0.1 if "lora_A" in name else 0.2))
    widths = {"hidden_states": 64, "context_latents": 128}
    inputs = {name: torch.randn(2, 12, width, generator=generator) for name, width in widths.items()}
    inputs["encoder_hidden_states"] = torch.ones(2, 5, transformer.condition_embedder.in_features)
    time = torch.full((2,), 0.5)
    output: Tensor = transformer(**inputs, timestep=time, timestep_r=time, return_dict=False)[0]
    return output


def keys(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def test_a_mask_is_splitmix64_by_16_bits() -> None:
    lanes = [number >> 16 * lane & 0xFFFF for number in SPLITMIX_OF_0 for lane in range(4)]
    for level in (1, 0x1234, 0x8000, 0xE220, 0xE221, 0xFFFF):
        [mask] = rng.is_dropped(keys(0), len(lanes), level).tolist()
        assert mask == [(lane ^ 0x8000) < level for lane in lanes]  # as signed numbers are ordered


@pytest.mark.parametrize("count", [1, 3, 4, 5, 1000])
def test_any_number_of_masks_is_drawn_at_once(count: int) -> None:
    numbers = [rng.key(7, f"dropout/{name}", sample) for name in "ab" for sample in (0, 1, 10**9)]
    together = rng.is_dropped(keys(*numbers), count, 0x8000)
    assert together.shape == (6, count) and together.dtype == torch.bool
    for number, mask in zip(numbers, together, strict=True):
        assert torch.equal(mask, rng.is_dropped(keys(number), count, 0x8000)[0])
        assert torch.equal(mask, rng.is_dropped(keys(number), count + 3, 0x8000)[0, :count])


def test_masks_are_as_good_as_drawn() -> None:
    """Their shares, and how often two agree: of neighbouring samples, modules, elements."""
    count, rate = 200_000, 0.1
    level = round(rate * rng.LEVELS)
    numbers = [rng.key(1, f"dropout/{name}", sample) for name in "ab" for sample in range(8)]
    masks = rng.is_dropped(keys(*numbers), count, level).double()
    error = 5 * (rate * (1 - rate) / count) ** 0.5
    assert (masks.mean(1) - rate).abs().max() < error
    shifted = [(masks[:, by:] * masks[:, :-by]).mean(1) for by in (1, 2, 3, 4, 5, 64, 2048)]
    assert (torch.stack(shifted) - rate**2).abs().max() < error
    pairs = (masks @ masks.T / count)[~torch.eye(len(masks), dtype=torch.bool)]
    assert (pairs - rate**2).abs().max() < error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_is_scaled_up(transformer: nn.Module, dtype: torch.dtype) -> None:
    masks = Masks(adapters.inject(transformer, spec_of("lora", dropout=0.25), seed=1), seed=3)
    dropout = named(transformer, MODULE, "lora").train()
    x = torch.ones(2, 50, 40, dtype=dtype)
    masks.begin([5, 6], CPU)
    once = dropout(x)
    assert torch.equal(dropout(x), once) and once.dtype == dtype
    assert set(once.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75, dtype=dtype))}
    masks.begin([6], CPU)
    assert torch.equal(dropout(x[:1]), once[1:])
    assert torch.equal(dropout.eval()(x), x)


def test_modules_have_masks_of_their_own(transformer: nn.Module) -> None:
    adapter = adapters.inject(transformer, spec_of("lora", target_modules=("q_proj", "v_proj")), seed=1)
    masks = Masks(adapter, seed=3)
    masks.begin([0], CPU)
    seen = [named(transformer, path, "lora").train()(torch.ones(1, 9, 9)) for path in adapter.layers]
    assert len(seen) == len({mask.numpy().tobytes() for mask in seen}) == 16


@pytest.mark.parametrize(
    ("type_", "options"),
    [("lora", {}), ("lora", {"weight_decompose": True}), ("lokr", {}), ("lokr", {"weight_decompose": True})],
    ids=["lora", "dora", "lokr", "lokr-wd"],
)
def test_the_masks_of_a_step_go_by_its_samples_alone(
    type_: str, options: dict[str, Any], make_spec: MakeSpec
) -> None:
    """Of two songs as long as each other: whatever was trained before, and where layers are recomputed."""
    folder = write_songs(Path("songs"), [song(n) for n in range(2)])
    adapter = spec_of(type_, **options).model_dump(mode="json")

    def masks(recompute: bool, before: int | None = None) -> list[Tensor]:
        trainer = trainer_of(
            make_spec(dataset_dir=folder, gradient_checkpointing=recompute, adapter=adapter, epochs=9)
        )
        if before:
            trainer.step(before)
        seen: list[Tensor] = []
        named(trainer.model, MODULE, type_).register_forward_hook(
            lambda module, inputs, output: seen.append(module.forward(torch.ones_like(inputs[0])) == 0)
        )
        trainer.step(0)
        return seen

    first, second = masks(recompute=False)
    assert first.shape == second.shape and 0.4 < first.float().mean() < 0.6
    assert not torch.equal(first, second)
    forward, backward, *_ = masks(recompute=True, before=5)
    assert torch.equal(forward, first) and torch.equal(backward, first)


@pytest.mark.parametrize("options", [{}, {"weight_decompose": True}], ids=["plain", "wd"])
def test_dropout_of_a_lokr_acts_in_training_alone(transformer: nn.Module, options: dict[str, Any]) -> None:
    adapter = adapters.inject(transformer, spec_of("lokr", **options), seed=1)
    bare = decode(transformer.train(), adapter)
    masks = Masks(adapter, seed=3)
    dropped = []
    for sample in (0, 0, 1):
        masks.begin([sample] * 2, CPU)
        dropped.append(decode(transformer.train(), adapter))
    assert torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[0], dropped[2]) and not torch.equal(dropped[0], bare)
    assert torch.equal(decode(transformer.eval(), adapter), bare)
    masks.law = 1  # under which a LoKR has none
    assert torch.equal(decode(transformer.train(), adapter), bare)


def test_law_1_is_torch_s_own_dropout(transformer: nn.Module) -> None:
    adapter = adapters.inject(transformer, spec_of("lora"), seed=1)
    rng.reseed_globals(3, "micro-batch", 8)
    by_peft = decode(transformer.train(), adapter)
    masks = Masks(adapter, seed=3)
    masks.law = 1
    masks.begin([8], CPU)
    assert torch.equal(decode(transformer.train(), adapter), by_peft)
    masks.begin([9], CPU)
    assert not torch.equal(decode(transformer.train(), adapter), by_peft)


def named(model: nn.Module, path: str, type_: str) -> Any:
    """The dropout of the layer at `path`."""
    path = diffusers_name(path) if type_ == "lora" else flat(path)
    end = f"{path}.lora_dropout.default" if type_ == "lora" else f"{path}.drop"
    [found] = [module for name, module in model.named_modules() if name.endswith(end)]
    return found
