"""Gradient checkpointing of a share of the decoder's layers: memory for time, the same numbers."""

from contextlib import nullcontext
from typing import Any

from diffusers import AceStepTransformer1DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sidestep.acestep.attention import attending_to, mask_of_conditions


def recompute_layers(transformer: AceStepTransformer1DModel, ratio: float) -> None:
    """Drop the activations of the first `ratio` (0 to 1) of the layers and recompute them when needed.

    The first ones, because the backward pass comes to them last: what the others kept is free by then,
    so that a layer's recomputed activations never add to the peak.
    """
    recomputed = set(transformer.layers[: recomputed_layers(len(transformer.layers), ratio)])

    def call(layer: nn.Module, *inputs: Any) -> Tensor:
        if layer not in recomputed:
            return layer(*inputs)  # type: ignore[no-any-return]
        mask = mask_of_conditions()  # the backward pass is elsewhere: of a GPU, in another thread
        # The random state is kept by default, so that dropout draws the same again.
        output: Tensor = checkpoint(
            *(layer, *inputs), use_reentrant=False, context_fn=lambda: (nullcontext(), attending_to(mask))
        )
        return output

    if recomputed:
        transformer.enable_gradient_checkpointing(call)


def recomputed_layers(count: int, ratio: float) -> int:
    """How many of `count` layers are recomputed."""
    return round(ratio * count)
