"""Cards of just the size that something needs."""

import math

from sidestep.config.memory import BESIDE_THE_WEIGHTS, OTHERS


def least_memory(weights: float) -> int:
    """Bytes of the smallest GPU that `auto` holds so many bytes of weights on."""
    return math.ceil((weights + BESIDE_THE_WEIGHTS) / (1 - OTHERS))
