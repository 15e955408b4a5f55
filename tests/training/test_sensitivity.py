"""Gradient norms by module, against plain autograd; and which songs they are taken over."""

from pathlib import Path

import pytest
import torch

from sidestep.acestep import load_model
from sidestep.acestep.names import diffusers_name
from sidestep.training import rng
from sidestep.training.flow import SamplingConfig, flow_loss
from sidestep.training.sensitivity import attention_weights, draw_batches, mean_gradient_norms
from tests.songs import song

SAMPLING = SamplingConfig("corrected", -0.4, 1.0, cfg_dropout=0.0, seed=5)
NULL = torch.zeros(1, 1, 64)
CPU = torch.device("cpu")


def test_they_are_the_means_of_what_autograd_gives(tiny_checkpoints: Path) -> None:
    transformer = load_model(tiny_checkpoints, "base", parts=("transformer",)).transformer
    batches = list(draw_batches([song(n) for n in range(3)], NULL, SAMPLING, 3, CPU))
    weights = attention_weights(transformer)
    assert list(weights) == [
        f"layers.{layer}.{part}_attn.{name}_proj"
        for layer in range(4)
        for part in ("self", "cross")
        for name in "qkvo"
    ]
    norms = mean_gradient_norms(transformer, weights, batches)
    parameters = dict(transformer.named_parameters())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in parameters.values())
    for module in ("layers.0.self_attn.q_proj", "layers.3.cross_attn.o_proj"):
        weight = parameters[f"{diffusers_name(module)}.weight"].requires_grad_(True)
        single = [
            float(torch.autograd.grad(flow_loss(transformer, batch), weight)[0].norm()) for batch in batches
        ]
        weight.requires_grad_(False)
        assert len(set(single)) == 3
        assert norms[module] == pytest.approx(sum(single) / 3, rel=1e-4)


def test_all_songs_are_drawn_before_one_comes_again() -> None:
    songs = [song(n, frames=10 + n) for n in range(4)]
    frames = [batch.latents.shape[1] for batch in draw_batches(songs, NULL, SAMPLING, 10, CPU)]
    assert frames[:8] == [10 + n for epoch in (0, 1) for n in rng.order(5, epoch, 4)]
    assert len(frames) == 10 and len(set(frames[8:])) == 2
