"""The laws of t, as numbers."""

import pytest
import torch

from sidestep.training import rng
from sidestep.training.timesteps import VANILLA_STEPS, corrected_timesteps, vanilla_timesteps

COUNT = 100_000


def test_corrected_is_the_larger_of_two_draws() -> None:
    timesteps = corrected_timesteps(COUNT, -0.4, 1.0, rng.generator(0, "timestep"))
    assert timesteps.dtype == torch.float32
    assert float(timesteps.mean()) == pytest.approx(0.535, abs=0.01)
    assert 0 < float(timesteps.min()) < float(timesteps.max()) < 1
    # P(max ≤ median of one draw) is a quarter, not a half.
    below = (timesteps <= torch.sigmoid(torch.tensor(-0.4))).float().mean()
    assert float(below) == pytest.approx(0.25, abs=0.01)


def test_mu_and_sigma_move_the_law() -> None:
    later = corrected_timesteps(COUNT, 0.4, 1.0, rng.generator(0, "timestep"))
    narrow = corrected_timesteps(COUNT, -0.4, 0.1, rng.generator(0, "timestep"))
    assert float(later.mean()) > 0.65
    assert float(narrow.std()) < 0.03


def test_vanilla_hits_exactly_the_eight_steps_evenly() -> None:
    timesteps = vanilla_timesteps(COUNT, rng.generator(0, "timestep"))
    values, counts = timesteps.unique(return_counts=True)
    assert values.tolist() == sorted(torch.tensor(VANILLA_STEPS).tolist())
    assert counts.float().div(COUNT).sub(1 / 8).abs().max() < 0.01
    shifted = [3 * t / (1 + 2 * t) for t in (k / 8 for k in range(8, 0, -1))]
    assert pytest.approx(shifted, abs=1e-6) == VANILLA_STEPS
