"""Gradient checkpointing of a share of the decoder's layers: memory for time, the same numbers."""

from typing import Any

from diffusers import AceStepTransformer1DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute_layers(transformer: AceStepTransformer1DModel, ratio: float) -> None:
    """Drop the activations of the first `ratio` (0 to 1) of the layers and recompute them when needed.

    The first ones, because the backward pass comes to them last: what the others kept is free by then,
    so that a layer's recomputed activations never add to the peak.
    """
    recomputed = set(transformer.layers[: recomputed_layers(len(transformer.layers), ratio)])

    def call(layer: nn.Module, *inputs: Any) -> Tensor:
        # The random state is kept by default, so that dropout draws the same again.
        output: Tensor = (
            checkpoint(layer, *inputs, use_reentrant=False) if layer in recomputed else layer(*inputs)
        )
        return output

    if recomputed:
        transformer.enable_gradient_checkpointing(call)


def recomputed_layers(count: int, ratio: float) -> int:
    """How many of `count` layers are recomputed."""
    return round(ratio * count)
