"""What validations say of a run, as a table: losses in, best step and end out."""

from math import inf, nan
from typing import Any

import pytest

from sidestep.config.training import TrainSpec
from sidestep.training.numbers import Losses, Progress, Validation
from sidestep.training.verdict import Gain, doubt, gain, judge, ranked


def losses(*by_song: float) -> Losses:
    return Losses(by_song, (sum(by_song) / len(by_song),))


def validated(*held_out: float, every: int = 10) -> Progress:
    """Validations at step 0, `every`, … with these held-out losses of one song."""
    made = {n * every: Validation(losses(loss), losses(1.0)) for n, loss in enumerate(held_out)}
    return Progress(step=max(made), validations=made)


def spec(**settings: Any) -> TrainSpec:
    validation = {"share": 0.2, "window": settings.pop("window", 1)}
    return TrainSpec.model_validate({"validation": validation, **settings})


@pytest.mark.parametrize(
    ("held_out", "settings", "best", "without_gain", "end"),
    [
        ((1.0,), {}, None, 0, None),  # the base model alone
        ((0.1, 1.0, 0.9), {}, 20, 0, None),  # it is no candidate, however low
        ((1.0, 0.9, 0.8, 0.85, 0.84), {}, 20, 2, None),
        ((1.0, 0.9, 0.8, 0.85, 0.84), {"stop": {"patience": 2}}, 20, 2, "patience"),
        ((1.0, 0.9, 0.8, 0.85, 0.84), {"stop": {"patience": 3}}, 20, 2, None),
        ((1.0, 0.9, 0.95, 0.8, 0.85), {"stop": {"patience": 2}}, 30, 1, None),  # gain begins anew
        ((1.0, 0.9, 0.85, 0.81), {"stop": {"patience": 2, "min_delta": 0.1}}, 30, 2, "patience"),
        ((1.0, 0.9, 0.85, 0.79), {"stop": {"patience": 3, "min_delta": 0.1}}, 30, 0, None),
        ((1.0, 0.9, nan, nan), {"stop": {"patience": 2}}, 10, 2, "patience"),  # no improvement
        ((1.0, nan, 0.9, 0.8), {"stop": {"patience": 2}}, 30, 0, None),  # and none for ever
        ((1.0, inf, 0.9), {}, 20, 0, None),
        ((1.0, 0.5, 0.5), {}, 10, 1, None),  # of equal ones the first is better
        ((1.0, 0.5), {"target_loss": 0.5}, 10, 0, "target_loss"),
        ((1.0, 0.4, 0.6), {"target_loss": 0.5}, 10, 1, None),  # an extended run ends by the newest
        ((0.4, 0.51), {"target_loss": 0.5}, 10, 0, None),
        ((1.0, nan), {"target_loss": 0.5}, None, 1, None),
        ((1.0, 0.9, 0.6, 0.9, 0.6), {"window": 3}, 40, 0, None),  # means .9 .75 .8 .7
        ((1.0, 0.9, nan, 0.5), {"window": 2}, 30, 0, None),  # of what is finite in the window
    ],
)
def test_verdicts(
    held_out: tuple[float, ...],
    settings: dict[str, Any],
    best: int | None,
    without_gain: int,
    end: str | None,
) -> None:
    verdict = judge(validated(*held_out), spec(**settings))
    assert (verdict.best, verdict.without_gain, verdict.end) == (best, without_gain, end)


def test_after_an_extension_patience_begins_anew() -> None:
    progress = validated(1.0, 0.9, 0.95, 0.96, 0.97)
    progress.patient_from = 30
    verdict = judge(progress, spec(stop={"patience": 2}))
    assert (verdict.best, verdict.without_gain, verdict.end) == (10, 1, None)


def test_a_window_is_of_validations_after_the_first_step() -> None:
    verdict = judge(validated(9.0, 1.0, 0.5), spec(window=3))
    assert verdict.smoothed == {10: 1.0, 20: 0.75}


def test_a_loss_that_is_not_finite_is_not_smoothed_away() -> None:
    smoothed = judge(validated(1.0, 0.5, nan, 0.3), spec(window=2)).smoothed
    assert (smoothed[10], smoothed[30]) == (0.5, 0.3) and smoothed[20] != smoothed[20]


def test_a_gain_within_two_standard_errors_is_not_sure() -> None:
    assert not Gain(-0.19, 0.1).is_sure and Gain(-0.21, 0.1).is_sure and not Gain(0.3, 0.1).is_sure


def test_songs_are_compared_in_pairs() -> None:
    before, after = (1.0, 2.0, 3.0, 4.0, 5.0), (0.9, 1.8, 2.9, 3.8, 4.9)
    validations = {0: Validation(losses(*before), losses(1)), 8: Validation(losses(*after), losses(1))}
    found = gain(validations, 8)
    assert found is not None and found.is_sure
    assert found.mean == pytest.approx(-0.14)
    assert found.error == pytest.approx(0.0244949)


@pytest.mark.parametrize("songs", [(1.0,) * 4, (1.0, 1.0, 1.0, 1.0, nan)])
def test_few_songs_or_one_that_is_not_finite_say_nothing(songs: tuple[float, ...]) -> None:
    validations = {step: Validation(losses(*songs), losses(1)) for step in (0, 8)}
    assert gain(validations, 8) is None


def test_doubt_is_told_once_after_a_quarter_of_the_run() -> None:
    same = Validation(losses(1.0, 1.1, 0.9, 1.0, 1.0), losses(1))
    progress = Progress(validations=dict.fromkeys((0, 10, 20), same))
    assert doubt(progress, 100) is None
    progress.validations[25] = same
    assert doubt(progress, 100) == Gain(0.0, 0.0)
    progress.validations[30] = same
    assert doubt(progress, 100) is None


def test_a_gain_that_is_sure_is_not_doubted() -> None:
    before, after = (1.0, 1.1, 0.9, 1.0, 1.0), (0.9, 1.0, 0.8, 0.89, 0.91)
    made = {0: Validation(losses(*before), losses(1)), 30: Validation(losses(*after), losses(1))}
    assert gain(made, 30) is not None and doubt(Progress(validations=made), 100) is None


def test_ranked() -> None:
    """What is not finite has no rank, nor has the base model; of equal ones the first is better."""
    found = ranked(validated(0.1, 0.9, nan, 0.5, 0.9, 0.5, inf).validations, window=1)
    assert found == [30, 50, 10, 40]
    assert ranked(validated(1.0, 0.9, 0.5, 1.0).validations, window=2) == [20, 30, 10]
    assert ranked({}, window=3) == []
