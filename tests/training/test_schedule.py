"""Steps, groups and learning rates as numbers."""

import math

import pytest

from sidestep.config.training import TrainSpec
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


CURVES = {  # of 44 steps with 4 of warm-up: the shares of the peak at the steps in SHOWN
    "cosine": (1.0, 0.505, 0.01),
    "cosine_restarts": (1.0, 1.0, 0.01),
    "linear": (1.0, 0.505, 0.01),
    "constant_with_warmup": (1.0, 1.0, 1.0),
    "constant": (1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("scheduler", CURVES)
def test_every_curve_as_values(scheduler: str) -> None:
    plan = schedule(1, epochs=44, warmup_steps=4, lr=1e-4, scheduler=scheduler)
    shares = [plan.learning_rate(step) / 1e-4 for step in range(44)]
    first, middle, last = CURVES[scheduler]
    assert shares[:4] == pytest.approx([1] * 4 if scheduler == "constant" else [0.25, 0.5, 0.75, 1])
    assert (shares[4], shares[43]) == pytest.approx((first, last))
    middles = shares[24:25] if scheduler == "cosine_restarts" else [(shares[23] + shares[24]) / 2]
    assert middles == pytest.approx([middle])
    if scheduler == "cosine_restarts":  # the same ten steps four times over
        cycle = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * n / 9)) for n in range(10)]
        assert shares[4:] == pytest.approx(cycle * 4)
    if scheduler == "linear":
        assert shares[4:] == pytest.approx([1 - 0.99 * n / 39 for n in range(40)])
    if scheduler == "cosine":
        assert shares[4:] == pytest.approx(
            [0.01 + 0.495 * (1 + math.cos(math.pi * n / 39)) for n in range(40)]
        )


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("scheduler", CURVES)
def test_runs_of_any_length_stay_between_the_floor_and_the_peak(steps: int, scheduler: str) -> None:
    plan = schedule(1, epochs=steps, lr=1.0, scheduler=scheduler)
    rates = [plan.learning_rate(step) for step in range(steps)]
    assert rates[0] == 1.0
    assert all(0.01 - 1e-9 <= rate <= 1.0 for rate in rates)
    if steps > 1 and scheduler in ("cosine", "linear"):
        assert rates[-1] == pytest.approx(0.01)


def test_prodigy_has_defaults_of_its_own() -> None:
    for settings, resolved in (
        ({}, (1e-4, "cosine")),
        ({"optimizer_type": "adafactor"}, (1e-4, "cosine")),
        ({"optimizer_type": "prodigy"}, (1.0, "constant")),
        ({"optimizer_type": "prodigy", "lr": 0.5, "scheduler": "linear"}, (0.5, "linear")),
    ):
        train = TrainSpec.model_validate(settings)
        assert (train.lr, train.scheduler) == resolved
        assert TrainSpec.model_validate(train.model_dump()) == train
