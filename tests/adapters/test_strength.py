"""An adapter at a strength, and out of the model again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep.names import diffusers_name
from sidestep.runtime.errors import UsageError

from .conftest import Decode, NewTransformer

KINDS = ("lora-all", "lokr", "lokr-dora")


def with_weights(transformer: nn.Module, adapted: dict[str, Tensor], strength: float) -> nn.Module:
    """The model with W + strength · (W' − W) in its own weights."""
    with torch.no_grad():
        for path, weight in adapted.items():
            own = transformer.get_parameter(f"{diffusers_name(path)}.weight")
            own.add_(strength * (weight - own))
    return transformer


def adapted_weights(transformer: nn.Module, bare: nn.Module, adapter: adapters.Adapter) -> dict[str, Tensor]:
    found = {}
    for path in adapter.layers:
        weight = bare.get_parameter(f"{diffusers_name(path)}.weight").detach()
        found[path] = adapter.adapted(path, weight)
    return found


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_strength_scales_the_update(
    kind: str, golden: Path, new_transformer: NewTransformer, decode: Decode
) -> None:
    transformer, bare = new_transformer(), new_transformer()
    base = decode(bare)
    adapter = adapters.load(transformer, golden / "adapters" / "acestep-v15-base" / kind)
    whole, weights = decode(transformer), adapted_weights(transformer, bare, adapter)
    for strength in (0.5, -1.0, 2.0):
        adapter.set_strength(strength)
        wanted = decode(with_weights(new_transformer(), weights, strength))
        assert (decode(transformer) - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))
    adapter.set_strength(0)
    assert torch.equal(decode(transformer), base)
    adapter.set_strength(1)
    assert torch.equal(decode(transformer), whole)
    assert (whole - base).abs().max() > 0.1


@torch.no_grad()
def test_without_it_the_model_is_bare_again(
    golden: Path, new_transformer: NewTransformer, decode: Decode
) -> None:
    """Also after adapters of several kinds, each of which is what it is in a model that had none before."""
    folder = golden / "adapters" / "acestep-v15-base"
    transformer = new_transformer()
    base, modules = decode(transformer), {name: type(m) for name, m in transformer.named_modules()}
    for kind in (*KINDS, KINDS[0]):
        adapter = adapters.load(transformer, folder / kind)
        with pytest.raises(UsageError):
            adapters.load(transformer, folder / kind)
        fresh = new_transformer()
        adapters.load(fresh, folder / kind)
        assert torch.equal(decode(transformer), decode(fresh))
        adapter.remove()
        assert torch.equal(decode(transformer), base)
        assert {name: type(m) for name, m in transformer.named_modules()} == modules
