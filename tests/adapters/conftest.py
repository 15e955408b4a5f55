"""A small transformer, something to run through it, and an adapter that has an effect."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sidestep.acestep.loading import load_model
from sidestep.adapters import Adapter

Decode = Callable[[nn.Module], Tensor]
NewTransformer = Callable[[], Any]  # a model of diffusers, whose types mypy does not follow
MakeEffective = Callable[[Adapter], None]


@pytest.fixture
def new_transformer(golden: Path) -> NewTransformer:
    """Each call loads the golden base variant's transformer anew."""
    return lambda: load_model(golden / "checkpoints", "base", parts=("transformer",)).transformer


@pytest.fixture
def transformer(new_transformer: NewTransformer) -> nn.Module:
    model: nn.Module = new_transformer()
    return model


@pytest.fixture(scope="session")
def expected(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "expected.safetensors")


@pytest.fixture
def decode(expected: dict[str, Tensor]) -> Decode:
    """The golden decoder call on a transformer."""
    names = ("hidden_states", "context_latents", "encoder_hidden_states", "timestep")
    inputs = {name: expected[f"acestep-v15-base/decoder.{name}"] for name in names}

    def run(transformer: nn.Module) -> Tensor:
        output: Tensor = transformer(**inputs, timestep_r=inputs["timestep"], return_dict=False)[0]
        return output

    return run


@pytest.fixture
def make_effective() -> MakeEffective:
    """Move every tensor of a fresh adapter, as training would: its update is no longer zero."""

    @torch.no_grad()
    def move(adapter: Adapter) -> None:
        generator = torch.Generator().manual_seed(7)
        for parameter in adapter.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)

    return move
