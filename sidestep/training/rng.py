"""Every random draw is keyed, never taken from a running generator.

A draw depends on (seed, purpose, index) alone: on no process, rank, worker or history. A resumed run
therefore draws what the uninterrupted one would have drawn, with no sampler state to save.
"""

import hashlib
import random
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

LEVELS = 2**16
"""Of a mask's numbers: shares of dropped elements are multiples of 1 / LEVELS."""

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64's


def key(seed: int, purpose: str, index: int = 0) -> int:
    """A number below 2^63 that stands for (seed, purpose, index)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for one draw; what it gives is moved to the device, so GPUs draw the same."""
    return torch.Generator().manual_seed(key(seed, purpose, index))


def reseed_globals(seed: int, purpose: str, index: int = 0) -> None:
    """Seed Python's, NumPy's and torch's global generators, for draws inside libraries (dropout)."""
    number = key(seed, purpose, index)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - the global one is what libraries draw from
    torch.manual_seed(number)


def is_dropped(keys: Tensor, count: int, level: int) -> Tensor:
    """Which of `count` elements a dropout leaves out, for each of `keys` [N] (int64): bool [N, count].

    The share `level` / LEVELS is left out. Element i goes by the (i mod 4)th 16 bits, as a signed number, of
    output ⌊i / 4⌋ of SplitMix64 seeded with the key (Steele, Lea and Flood, 2014). So a mask depends on its
    key and on the element's number alone: any number of keys may be asked at once, and each device gives the
    same bits.
    """
    outputs = torch.arange(1, count // 4 + 2, device=keys.device)
    bits = keys[:, None] + outputs.mul_(_signed(_STEP))
    bits.bitwise_xor_(_shifted(bits, 30)).mul_(_signed(_FIRST))
    bits.bitwise_xor_(_shifted(bits, 27)).mul_(_signed(_SECOND))
    bits.bitwise_xor_(_shifted(bits, 31))
    return bits.view(torch.int16)[:, :count] < level - LEVELS // 2


def _shifted(bits: Tensor, by: int) -> Tensor:
    """`bits` shifted right with zeros from the left; torch's own shift repeats the sign."""
    return (bits >> by).bitwise_and_(2 ** (64 - by) - 1)


def _signed(number: int) -> int:
    """The 64 bits of `number` as torch's int64 has them."""
    return number - 2**64 if number >= 2**63 else number


@lru_cache(maxsize=4)  # each step asks for its epoch's
def order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    """The order of `count` samples in an epoch."""
    return tuple(torch.randperm(count, generator=generator(seed, "order", epoch)).tolist())
