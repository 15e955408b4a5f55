"""Gradient checkpointing: how many layers are recomputed, which ones, and that no number changes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidestep.acestep import load_model
from sidestep.acestep.recompute import recompute_layers


def run(tiny_checkpoints: Path, ratio: float) -> tuple[list[int], int, list[Tensor]]:
    """How often each layer ran, what autograd kept in between, and some gradients."""
    transformer = load_model(tiny_checkpoints, "base", parts=("transformer",)).transformer
    weights = [layer.mlp.up_proj.weight.requires_grad_(True) for layer in transformer.layers]
    recompute_layers(transformer, ratio)
    counts = [0] * len(transformer.layers)

    def count(layer: nn.Module, _inputs: object) -> None:
        counts[list(transformer.layers).index(layer)] += 1

    for layer in transformer.layers:
        layer.register_forward_pre_hook(count)
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    generator = torch.Generator().manual_seed(0)
    time = torch.tensor([0.5])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = transformer(
            hidden_states=torch.randn(1, 40, 64, generator=generator),
            context_latents=torch.randn(1, 40, 128, generator=generator),
            encoder_hidden_states=torch.randn(1, 5, 64, generator=generator),
            timestep=time,
            timestep_r=time,
        ).sample
    kept_by_forward = kept
    gradients = torch.autograd.grad(output.square().sum(), weights)
    return counts, kept_by_forward, list(gradients)


@pytest.mark.parametrize(
    ("ratio", "runs"), [(0, [1, 1, 1, 1]), (0.5, [2, 2, 1, 1]), (0.8, [2, 2, 2, 1]), (1, [2, 2, 2, 2])]
)
def test_the_first_layers_are_recomputed(tiny_checkpoints: Path, ratio: float, runs: list[int]) -> None:
    counts, kept, gradients = run(tiny_checkpoints, ratio)
    assert counts == runs
    none, all_kept, wanted = run(tiny_checkpoints, 0)
    assert none == [1, 1, 1, 1]
    assert all(torch.equal(found, exact) for found, exact in zip(gradients, wanted, strict=True))
    assert (kept < all_kept) == (ratio > 0)
