"""Steps, groups and learning rates as numbers."""

import pytest

from sidestep.spec.schema import TrainSpec
from sidestep.training.schedule import Schedule


def schedule(samples: int, **settings: object) -> Schedule:
    return Schedule.of(TrainSpec.model_validate(settings), samples)


def test_every_sample_once_an_epoch_and_a_short_last_group() -> None:
    plan = schedule(7, accumulation=4, epochs=3)
    assert (plan.steps_per_epoch, plan.total_steps) == (2, 6)
    groups = [plan.group(step) for step in range(6)]
    assert [len(group.samples) for group in groups] == [4, 3] * 3
    assert [group.first_index for group in groups] == [0, 4, 7, 11, 14, 18]
    assert [group.ends_epoch for group in groups] == [False, True] * 3
    for epoch in range(3):
        samples = groups[2 * epoch].samples + groups[2 * epoch + 1].samples
        assert sorted(samples) == list(range(7))


def test_max_steps_ends_the_run_early() -> None:
    assert schedule(7, accumulation=4, epochs=3, max_steps=4).total_steps == 4
    assert schedule(7, accumulation=4, epochs=3, max_steps=99).total_steps == 6


def test_warm_up_then_cosine_to_one_percent() -> None:
    plan = schedule(10, accumulation=1, epochs=20, warmup_steps=10, lr=1e-4)
    rates = [plan.learning_rate(step) for step in range(plan.total_steps)]
    assert rates[:10] == pytest.approx([1e-5 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1e-4)
    assert rates[10 + (199 - 10) // 2] == pytest.approx(1e-4 * 0.505, rel=0.02)
    assert rates[-1] == pytest.approx(1e-6)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_warm_up_takes_at_most_a_tenth() -> None:
    plan = schedule(10, accumulation=1, epochs=10, warmup_steps=1000)
    assert max(range(100), key=plan.learning_rate) == 9


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_runs_train_at_full_rate_first(steps: int) -> None:
    assert schedule(1, epochs=steps, warmup_steps=100, lr=1e-3).learning_rate(0) == pytest.approx(1e-3)
