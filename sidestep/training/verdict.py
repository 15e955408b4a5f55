"""What a run's validations say of it: the best checkpoint, whether it is to end, whether it has learnt.

All of it is a pure function of the validations so far, which are part of each checkpoint. So a resumed run
comes to the same verdict as one that was never interrupted, and there is no counter that could be lost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sidestep.config.training import TrainSpec
from sidestep.runtime.words import counted
from sidestep.training.numbers import Progress, Validation

End = Literal["patience", "target_loss"]

DOUBT_SHARE = 0.25
"""Of a run, after which what has been learnt should show."""
DOUBT_SONGS = 5
"""Fewer held-out songs than these tell nothing for sure."""
ERRORS = 2.0
"""Standard errors by which a difference must be off zero to count as one."""


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        smoothed: step → the mean held-out loss of the last validations, NaN where its own is not finite.
        best: the step with the lowest of these; None before the first after step 0 that is finite.
        without_gain: validations in a row, the newest included, that were no improvement.
        end: why the run ends here, before its last step; None: it goes on.
    """

    smoothed: dict[int, float]
    best: int | None
    without_gain: int
    end: End | None

    @property
    def best_loss(self) -> float:
        """The smoothed held-out loss of the best step; NaN where there is none."""
        return math.nan if self.best is None else self.smoothed[self.best]


def judge(progress: Progress, train: TrainSpec) -> Verdict:
    """The verdict on all validations so far.

    The one before the first step is of the base model: nothing is kept of it, and nothing smoothed with it.
    One that is not finite is never best, and counts as no improvement.
    """
    smoothed = _smoothed(progress.validations, train.validation.window)
    best: int | None = None
    lowest = reference = math.inf
    without_gain = 0
    for step, loss in smoothed.items():
        if loss < lowest:  # never so for NaN
            best, lowest = step, loss
        if loss < reference - train.stop.min_delta:
            reference, without_gain = loss, 0
        elif step > progress.patient_from:
            without_gain += 1
    newest = next(reversed(smoothed.values()), math.nan)
    end: End | None = None
    if train.target_loss is not None and newest <= train.target_loss:
        end = "target_loss"
    elif train.stop.patience is not None and without_gain >= train.stop.patience:
        end = "patience"
    return Verdict(smoothed, best, without_gain, end)


def why_ended(progress: Progress, train: TrainSpec) -> str:
    """Why the run has ended before its last step, in words; "" where it has not."""
    verdict = judge(progress, train)
    match verdict.end:
        case "patience":
            by = f" by {train.stop.min_delta:g}" if train.stop.min_delta else ""
            return f"the held-out loss has not improved{by} in {counted(verdict.without_gain, 'validations')}"
        case "target_loss":
            return f"the held-out loss is at most train.target_loss, {train.target_loss:g}"
        case None:
            return ""


def ranked(validations: Mapping[int, Validation], window: int) -> list[int]:
    """The steps whose smoothed held-out loss is finite, the best first; of equal ones the first is better."""
    finite = {step: loss for step, loss in _smoothed(validations, window).items() if math.isfinite(loss)}
    return sorted(finite, key=lambda step: finite[step])


@dataclass(frozen=True)
class Gain:
    """How much lower the held-out loss is than before the first step: songs are compared in pairs."""

    mean: float  # below zero where it is lower
    error: float  # the standard error of that mean

    @property
    def is_sure(self) -> bool:
        """Whether the loss is lower by more than chance among these songs explains."""
        return self.mean < -ERRORS * self.error


def gain(validations: Mapping[int, Validation], step: int) -> Gain | None:
    """At `step`, against step 0; None where too few songs are held out to say, or a loss is not finite."""
    if 0 not in validations or step not in validations:
        return None
    then, now = validations[0].held_out.by_song, validations[step].held_out.by_song
    found = paired(then, now)
    return found if len(now) >= DOUBT_SONGS and math.isfinite(found.mean) else None


def paired(then: Sequence[float], now: Sequence[float]) -> Gain:
    """How much lower the losses `now` are than `then`, of the same songs in the same order.

    The error of a single song is infinite: nobody knows how songs differ.
    """
    differences = [after - before for before, after in zip(then, now, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    variance = (
        sum((difference - mean) ** 2 for difference in differences) / (count - 1) if count > 1 else math.inf
    )
    return Gain(mean, math.sqrt(variance / count))


def doubt(progress: Progress, total_steps: int) -> Gain | None:
    """The gain at the newest validation, where it is the one to be doubted: the first after `DOUBT_SHARE` of
    the run, if it is no sure gain. So it is asked once in a run."""
    late = [step for step in progress.validations if step >= DOUBT_SHARE * total_steps]
    if len(late) != 1:
        return None
    found = gain(progress.validations, late[0])
    return found if found and not found.is_sure else None


def _smoothed(validations: Mapping[int, Validation], window: int) -> dict[int, float]:
    """Step → the mean of the finite losses among the last `window` up to there; NaN where its own is not."""
    losses = {step: validations[step].held_out.mean for step in sorted(validations) if step > 0}
    steps = list(losses)
    smoothed = {}
    for number, step in enumerate(steps):
        latest = [losses[at] for at in steps[max(number + 1 - window, 0) : number + 1]]
        finite = [loss for loss in latest if math.isfinite(loss)]
        smoothed[step] = sum(finite) / len(finite) if math.isfinite(losses[step]) else math.nan
    return smoothed
