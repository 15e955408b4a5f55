"""Noise levels of a validation: the middles of equal shares of what training draws."""

import pytest
import torch

from sidestep.training.timesteps import VANILLA_STEPS, corrected_timesteps, midpoints


@pytest.mark.parametrize(("mu", "sigma"), [(-0.4, 1.0), (0.3, 0.5)])
def test_corrected_midpoints_are_the_quantiles_of_what_training_draws(mu: float, sigma: float) -> None:
    drawn = corrected_timesteps(200_000, mu, sigma, torch.Generator().manual_seed(1)).double()
    expected = torch.quantile(drawn, (torch.arange(16, dtype=torch.float64) + 0.5) / 16)
    torch.testing.assert_close(
        torch.tensor(midpoints("corrected", 16, mu, sigma), dtype=torch.float64), expected, atol=0.005, rtol=0
    )


def test_vanilla_midpoints_are_the_eight_steps_in_equal_shares() -> None:
    assert midpoints("vanilla", 16, 0, 1) == [t for t in sorted(VANILLA_STEPS) for _ in range(2)]
