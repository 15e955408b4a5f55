"""Runs beside each other: what their held-out songs say of them, and where their settings differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from sidestep.training.numbers import Progress
from sidestep.training.verdict import DOUBT_SONGS, Gain, Verdict, paired

MEASURE = (
    *("model_variant", "weights", "train.mode", "train.timestep_mu", "train.timestep_sigma"),
    *("train.chunk_duration", "train.validation.draws"),
)
"""Settings that decide what a held-out loss is of. Of another seed it has other noise, and counts."""


@dataclass(frozen=True)
class Run:
    """An output as far as it is compared.

    Attributes:
        label: what the others know it by.
        state: how far it is, in words.
        adapter_step: the step of the checkpoint that adapter/ is, or would be if it were published now.
        settings: all that decides its numbers, by name.
        songs: digests of its held-out songs, in the order of their losses; empty: that is not known.
        seconds: of all its attempts; None: that is not known. So it is of the cost.
    """

    label: str
    place: str
    state: str
    adapter_step: int
    settings: Mapping[str, Any]
    songs: tuple[str, ...]
    progress: Progress
    verdict: Verdict
    seconds: float | None = None
    cost: float | None = None

    @cached_property
    def held_out(self) -> dict[int, float]:
        """Step → the mean loss on the held-out songs, from the base model's on."""
        return {step: found.held_out.mean for step, found in sorted(self.progress.validations.items())}

    @property
    def measured(self) -> int | None:
        """The step of the validation that its adapter goes by: the newest up to it that is finite."""
        steps = [
            step
            for step, loss in self.held_out.items()
            if 0 < step <= self.adapter_step and math.isfinite(loss)
        ]
        return max(steps, default=None)

    @property
    def by_song(self) -> list[float]:
        """The held-out loss of each song there, in an order that is the same in each run."""
        assert self.measured is not None
        losses = self.progress.validations[self.measured].held_out.by_song
        return [loss for _, loss in sorted(zip(self.songs or range(len(losses)), losses, strict=True))]

    @property
    def loss(self) -> float:
        """The held-out loss that its adapter goes by; NaN where it has none."""
        return math.nan if self.measured is None else self.held_out[self.measured]

    @property
    def measure(self) -> dict[str, Any]:
        """What its held-out loss is a loss of. Losses of different measures say nothing of each other."""
        songs = sorted(self.songs) or [self.place]
        return {"held-out songs": songs, **{name: self.settings.get(name) for name in MEASURE}}


@dataclass(frozen=True)
class Difference:
    """How a run does against the best one that is measured as it is."""

    run: Run
    best: Run
    gain: Gain  # of `best`: below zero where it has the lower loss

    @property
    def is_sure(self) -> bool:
        """Whether chance among these songs does not explain it."""
        return len(self.best.by_song) >= DOUBT_SONGS and self.gain.is_sure

    @property
    def in_words(self) -> str:
        count = len(self.best.by_song)
        songs = f"{count} song{'s' if count > 1 else ''}"
        if count == 1:
            by = f"{-self.gain.mean:.4f} on a single song, which says nothing for sure"
        else:
            by = f"{-self.gain.mean:.4f} ± {self.gain.error:.4f} (paired over {songs}, ± one standard error)"
        if self.is_sure:
            return f"{self.best.label} is better than {self.run.label}: its held-out loss is lower by {by}"
        both = f"{self.best.label} and {self.run.label}"
        said = f"{both} cannot be told apart for sure: the first is lower by {by}"
        return f"{said}; fewer than {DOUBT_SONGS} songs are held out" if 1 < count < DOUBT_SONGS else said


@dataclass(frozen=True)
class Judgement:
    """Which of some runs is the best, as far as their held-out songs tell.

    Attributes:
        best: by held-out loss, where all that have one are measured alike; None where nobody can say.
        is_sure: whether it is better than each of those by more than chance explains.
        is_of_all: whether each run has one.
        remarks: sentences, the most important first.
    """

    best: Run | None
    is_sure: bool
    is_of_all: bool
    remarks: list[str]

    @property
    def headline(self) -> str:
        if self.best is None:
            return "The held-out songs cannot tell which is better"
        known = "" if self.is_of_all else ", of those that have one"
        what = f"{self.best.label}: it has the lowest held-out loss{known}"
        return f"Use {what}" if self.is_sure else f"No sure winner. Begin with {what}"


def judge_runs(runs: Sequence[Run]) -> Judgement:
    """Set runs that are measured alike against the best of them, song by song."""
    measured = [run for run in runs if run.measured is not None]
    remarks: list[str] = []
    alike = _alike(measured)
    differences: list[Difference] = []
    for group in alike:
        best = min(group, key=lambda run: run.loss)
        differences += [
            Difference(run, best, paired(run.by_song, best.by_song)) for run in group if run is not best
        ]
    remarks += [difference.in_words for difference in differences]
    if len(alike) > 1:
        groups = "; ".join(", ".join(run.label for run in group) for group in alike)
        names = ", ".join(_differing([group[0].measure for group in alike]))
        remarks.append(f"Their held-out losses cannot be compared between {groups}: they differ in {names}")
    for run in runs:
        if not run.held_out:
            remarks.append(
                f"{run.label} holds no song out: its losses say how well it knows the songs that it trains "
                "on, and not whether it is better"
            )
        elif run.measured is None:
            remarks.append(f"{run.label} has no held-out loss yet that is finite")
        elif run.verdict.best is not None and run.loss > run.held_out[run.verdict.best]:
            remarks.append(
                f"{run.label} was at its best after step {run.verdict.best}, and its adapter is of step "
                f"{run.adapter_step}: `sidestep publish` makes it that of another checkpoint that is kept"
            )
    best_of_all = min(measured, key=lambda run: run.loss) if len(alike) == 1 and len(measured) > 1 else None
    is_sure = best_of_all is not None and all(difference.is_sure for difference in differences)
    return Judgement(best_of_all, is_sure, len(measured) == len(runs), remarks)


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Setting → its value in each run, for those that are not the same in all."""
    names = sorted({name for run in runs for name in run.settings})
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    def by_measure(run: Run) -> str:
        return repr(run.measure)

    return [list(group) for _, group in groupby(sorted(runs, key=by_measure), by_measure)]


def _differing(measures: Sequence[Mapping[str, Any]]) -> list[str]:
    first = measures[0]
    return [name for name in first if any(other[name] != first[name] for other in measures)]
