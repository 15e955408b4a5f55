"""A range test's curves: what they suggest, and when they suggest nothing."""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import geometric_mean

import pytest

from sidestep.config.training import TrainSpec
from sidestep.training.ramp import HIGHEST, LOWEST, Curve, Ramp, Suggestion, agreed, suggest

COUNT = 24
RATES = tuple(LOWEST * (HIGHEST / LOWEST) ** (n / (COUNT - 1)) for n in range(COUNT))


def curve(loss: Callable[[float], float]) -> Curve:
    return Curve(0, loss(0), RATES, tuple(loss(rate) for rate in RATES))


def falls_at(middle: float, diverges_at: float = math.inf) -> Callable[[float], float]:
    """A loss of 3 that falls by 1 around a rate, and is lost from another one on."""

    def loss(rate: float) -> float:
        fallen = 1 / (1 + (middle / rate) ** 2) if rate else 0.0
        return 3 - fallen + (min(rate / diverges_at, 50) ** 4 if rate else 0.0)

    return loss


@pytest.mark.parametrize("middle", [1e-4, 1e-3, 7e-3])
def test_the_rate_at_which_the_loss_falls_fastest(middle: float) -> None:
    found = suggest(curve(falls_at(middle)))
    assert found.rate and middle / 1.5 <= found.rate <= middle * 1.5


def test_a_tenth_of_the_rate_at_which_all_is_lost_where_that_is_lower() -> None:
    found = suggest(curve(falls_at(3e-3, diverges_at=6e-3)))
    assert found.rate and 4e-4 < found.rate < 1.2e-3
    assert "a tenth" in found.reason


def test_what_is_not_finite_ends_a_ramp() -> None:
    found = suggest(curve(lambda rate: math.nan if rate > 1e-2 else falls_at(1e-3)(rate)))
    assert found.rate == suggest(curve(falls_at(1e-3))).rate


@pytest.mark.parametrize(
    "loss",
    [
        lambda rate: 3.0,
        lambda rate: 3.0 - 0.003 * (rate > 1e-3),  # within LEAST_FALL
        lambda rate: 3 + rate,
        falls_at(1.0),  # beyond the highest
        lambda rate: math.nan if rate else 3.0,
    ],
)
def test_no_suggestion(loss: Callable[[float], float]) -> None:
    found = suggest(curve(loss))
    assert found.rate is None and found.reason
    assert agreed([found, Suggestion(1e-3, "")]) == Suggestion(None, found.reason)


@pytest.mark.parametrize(
    ("rates", "is_agreed"),
    [((1e-3, 1.2e-3, 1.4e-3), True), ((1e-3, 1e-3, 2e-3), True), ((1e-3, 1e-3, 2.1e-3), False)],
)
def test_seeds_agree_within_a_factor_of_two(rates: tuple[float, ...], is_agreed: bool) -> None:
    found = agreed([Suggestion(rate, "why") for rate in rates])
    assert (found.rate is not None) == is_agreed
    assert found.rate is None or found.rate == pytest.approx(geometric_mean(rates), rel=0.05)
    assert all(f"{rate:.2g}" in found.reason for rate in rates)


def test_the_rate_rises_by_the_same_factor_from_end_to_end() -> None:
    ramp = Ramp.of(TrainSpec(epochs=21, max_steps=21, scheduler="cosine"), 4)
    rates = [ramp.learning_rate(step) for step in range(21)]
    assert rates[0] == pytest.approx(LOWEST) and rates[-1] == pytest.approx(HIGHEST)
    assert all(after / before == pytest.approx(rates[1] / rates[0]) for before, after in pairwise(rates))
