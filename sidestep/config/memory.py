"""What makes a model fit a small card: how frozen weights may be held, and what `auto` makes of it."""

from typing import Literal

Quantization = Literal["none", "8bit", "nf4"]
QUANTIZED: tuple[Quantization, ...] = ("8bit", "nf4")
"""From the one that rounds least."""

NF4_BLOCK = 64
"""Values of a 4-bit weight that share an fp32 scale."""

BESIDE_THE_WEIGHTS = 4.5e9
"""Bytes that training takes beside the decoder's weights, for `auto`: what an XL model with a LoRA of rank 64
does on a song of 240 s in bf16, with all layers recomputed."""

OTHERS = 0.1
"""The share of a GPU's memory that is left to what else runs on it: a desktop takes some."""


def bytes_held(values: int, rows: int, kind: Quantization, size: int) -> int:
    """Bytes of a weight of so many values and rows, each of `size` bytes where it is not quantized."""
    if kind == "none":
        return values * size
    return values + 4 * rows if kind == "8bit" else -(-values // 2) + 4 * -(-values // NF4_BLOCK)


def chosen_quantization(weights: dict[Quantization, int], memory: int | None) -> Quantization:
    """What `auto` is on a GPU of `memory` bytes: the first under which the decoder leaves enough of it.

    `weights` are their bytes under each. None is a CPU, whose memory is not scarce: nothing is quantized.
    """
    if memory is None:
        return "none"
    room = (1 - OTHERS) * memory - BESIDE_THE_WEIGHTS
    return next((kind for kind, size in weights.items() if size <= room), QUANTIZED[-1])
