"""Every random draw is keyed, never taken from a running generator.

A draw depends on (seed, purpose, index) alone: on no process, rank, worker or history. A resumed run
therefore draws what the uninterrupted one would have drawn, with no sampler state to save.
"""

import hashlib
import random

import numpy as np
import torch


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


def order(seed: int, epoch: int, count: int) -> list[int]:
    """The order of `count` samples in an epoch."""
    return torch.randperm(count, generator=generator(seed, "order", epoch)).tolist()
