"""A range test: which learning rate trains, by a short ramp through all that come into question.

After L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017): the rate rises exponentially
from step to step, and the loss is taken on fixed draws on the way. It stays, then falls, then diverges.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from sidestep.training.schedule import Schedule

LOWEST, HIGHEST = 1e-5, 1e-1
SMOOTH = 2  # measurements on each side of one, with which its loss is averaged
LEAST_FALL = 0.002
"""Of the loss before the first step: a smaller fall is none."""
AGREEMENT = 2.0
"""The suggestions of the seeds are at most this factor apart, or there is none."""


class Ramp(Schedule):
    """A schedule whose rate rises from LOWEST to HIGHEST, by the same factor at each step."""

    def learning_rate(self, step: int) -> float:
        share = step / max(self.total_steps - 1, 1)
        return math.exp(math.log(LOWEST) + share * math.log(HIGHEST / LOWEST))


@dataclass(frozen=True)
class Curve:
    """One ramp.

    Attributes:
        seed: of what it has trained on.
        before: the loss before the first step.
        rates: rising, each that of the last step before a measurement.
        losses: on fixed draws, after these steps; the last may not be finite.
    """

    seed: int
    before: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> list[float]:
        """The losses that are finite, each averaged with its neighbours; there is none behind one that is
        not."""
        count = next((n for n, loss in enumerate(self.losses) if not math.isfinite(loss)), len(self.losses))
        losses = self.losses[:count]
        pieces = [losses[max(n - SMOOTH, 0) : n + SMOOTH + 1] for n in range(count)]
        return [sum(piece) / len(piece) for piece in pieces]


@dataclass(frozen=True)
class Suggestion:
    """The rate to take, None where there is none; and why."""

    rate: float | None
    reason: str


def suggest(curve: Curve) -> Suggestion:
    """What one ramp says: the rate at which the loss falls fastest, or a tenth of the one at which it is back
    where it began, if that is lower."""
    smoothed = curve.smoothed
    if len(smoothed) < 3:
        return Suggestion(None, f"the loss was not finite from a rate of {LOWEST:g} on")
    lowest = min(range(len(smoothed)), key=lambda n: smoothed[n])
    if curve.before - smoothed[lowest] < LEAST_FALL * curve.before:
        return Suggestion(None, "the loss fell at no rate")
    slopes = {n: smoothed[n + 1] - smoothed[n - 1] for n in range(1, min(lowest + 1, len(smoothed) - 1))}
    if not slopes:
        return Suggestion(None, f"the loss fell only at the lowest rate, {LOWEST:g}, or below")
    steepest = min(slopes, key=lambda n: slopes[n])
    if steepest == len(smoothed) - 2 and len(smoothed) == len(curve.losses):
        return Suggestion(None, f"the loss still fell fastest at the highest rate, {HIGHEST:g}")
    rate, reason = curve.rates[steepest], "the loss falls fastest there"
    back = next((n for n in range(lowest, len(smoothed)) if smoothed[n] >= curve.before), len(smoothed))
    if back < len(curve.rates) and curve.rates[back] / 10 < rate:
        return Suggestion(curve.rates[back] / 10, f"a tenth of {curve.rates[back]:.2g}, where all is lost")
    return Suggestion(rate, reason)


def agreed(suggestions: Sequence[Suggestion]) -> Suggestion:
    """What several ramps say together: their geometric mean, where they are at most AGREEMENT apart."""
    if missing := next((one for one in suggestions if one.rate is None), None):
        return Suggestion(None, missing.reason)
    rates = [one.rate for one in suggestions if one.rate is not None]
    said = ", ".join(f"{rate:.2g}" for rate in rates)
    if max(rates) > AGREEMENT * min(rates):
        return Suggestion(None, f"the seeds disagree by more than a factor of {AGREEMENT:g}: {said}")
    reasons = list(dict.fromkeys(one.reason for one in suggestions))
    return Suggestion(
        float(f"{geometric_mean(rates):.1e}"), f"{len(rates)} seeds say {said}: {'; '.join(reasons)}"
    )
