"""What TensorBoard is told: which losses at which noise level, and the means over them."""

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sidestep.training.flow import SamplingConfig
from sidestep.training.history import RunningLoss, running_mean
from sidestep.training.metrics import Metrics
from sidestep.training.schedule import Group


def test_losses_by_timestep_are_those_that_drew_it(tmp_path: Path) -> None:
    law = SamplingConfig("corrected", 0.0, 2.0, 0.0, seed=3)
    losses = [float(number) for number in range(200)]
    losses[7] = math.nan
    group = Group(epoch=0, samples=tuple(range(200)), first_index=1000, ends_epoch=False)
    with Metrics(tmp_path, 1) as metrics:
        metrics.losses_by_timestep(law, group, losses, 1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    expected: dict[str, list[float]] = {}
    for index, loss in enumerate(losses, start=1000):
        t = float(law.timestep(index))
        low = math.floor(t * 10) / 10
        if math.isfinite(loss):
            expected.setdefault(f"loss_by_timestep/{low:.1f}-{low + 0.1:.1f}", []).append(loss)
    assert len(expected) == 10
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, found in expected.items():
        assert [event.value for event in events.Scalars(tag)] == [pytest.approx(sum(found) / len(found))]


def test_the_running_loss() -> None:
    running = RunningLoss()
    assert math.isnan(running.value)
    running.add(4.0)
    assert running.value == 4.0
    running.add(math.nan)  # a skipped step
    assert running.value == 4.0
    running.add(2.0)
    assert running.value == pytest.approx((0.98 * 4 + 2) / 1.98)
    assert RunningLoss([4.0, math.inf, 2.0]).value == running.value  # as a resumed run has it


def test_the_running_mean_has_a_value_for_each_step() -> None:
    assert running_mean([3.0, math.nan, 1.0]) == [3.0, 3.0, 1.0]
    means = running_mean([1.0] * 50 + [2.0] * 50)
    assert means[49] == 1.0
    assert 1.9 < means[-1] < 2.0


def test_pure_noise_is_in_the_last_level(tmp_path: Path) -> None:
    """Vanilla training draws t = 1, too."""
    law = SamplingConfig("vanilla", 0.0, 1.0, 0.0, seed=3)
    index = next(index for index in range(1000) if float(law.timestep(index)) == 1.0)
    with Metrics(tmp_path, 1) as metrics:
        metrics.losses_by_timestep(law, Group(0, (0,), index, ends_epoch=False), [2.5], 1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("loss_by_timestep/0.9-1.0")] == [2.5]
