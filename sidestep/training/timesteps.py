"""The distributions of the timestep t that training draws from; t = 1 is pure noise, t = 0 the song."""

from math import exp, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

VANILLA_STEPS = (1.0, 0.9545454545, 0.9, 0.8333333, 0.75, 0.6428571, 0.5, 0.3)
"""Eight even steps, shifted by 3: 3t / (1 + 2t). What the turbo models were distilled at."""


def corrected_timesteps(count: int, mu: float, sigma: float, generator: torch.Generator) -> Tensor:
    """`count` draws of max(sigmoid(a), sigmoid(b)) with a, b ~ N(mu, sigma), as the original trains.

    Its mean is 0.535 at mu −0.4, sigma 1 (0.418 would be that of one draw). fp32.
    """
    normal = torch.randn(2, count, generator=generator)
    return torch.sigmoid(mu + sigma * normal).amax(dim=0)


def vanilla_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """`count` draws, uniform over the eight turbo steps. fp32."""
    return torch.tensor(VANILLA_STEPS)[torch.randint(len(VANILLA_STEPS), (count,), generator=generator)]


def midpoints(mode: str, count: int, mu: float, sigma: float) -> list[float]:
    """The t at the middle of each of `count` equal shares of a mode's distribution, rising.

    For corrected mode, the larger of two has the distribution function F², so its quantile at u is F's at √u.
    """
    shares = [(number + 0.5) / count for number in range(count)]
    if mode == "corrected":
        normal = NormalDist(mu, sigma)
        return [1 / (1 + exp(-normal.inv_cdf(sqrt(share)))) for share in shares]
    steps = sorted(VANILLA_STEPS)
    return [steps[int(share * len(steps))] for share in shares]
