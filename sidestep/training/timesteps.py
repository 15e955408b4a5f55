"""The distributions of the timestep t that training draws from; t = 1 is pure noise, t = 0 the song."""

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
