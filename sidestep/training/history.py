"""history.json: the losses, learning rates and songs of a run, as plain numbers and text."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sidestep.runtime.canonical import json_bytes
from sidestep.training.numbers import Progress

FILE = "history.json"
RUNNING_SHARE = 0.05  # of a run that the running mean looks back over
SMOOTH_WEIGHT = 0.98  # of a loss, against the one after it: about the last fifty count


@dataclass(frozen=True)
class SongFacts:
    """A song as the report shows it. Name and caption are what its file says, so they may be any text."""

    name: str
    seconds: float
    caption: str


def history_bytes(progress: Progress, learning_rates: Sequence[float], songs: Sequence[SongFacts]) -> bytes:
    """The content of history.json. What is not finite, as the loss of a skipped step, is null.

    {"losses": [by step, from the first], "running_mean": […], "learning_rates": […],
     "evaluations": {"<step>": loss on fixed draws}, "songs": [{"name", "seconds", "caption"}]}
    """
    content: dict[str, Any] = {
        "losses": [_number(loss) for loss in progress.losses],
        "running_mean": [_number(mean) for mean in running_mean(progress.losses)],
        "learning_rates": [_number(rate) for rate in learning_rates],
        "evaluations": {str(step): _number(loss) for step, loss in sorted(progress.evaluations.items())},
        "songs": [asdict(song) for song in songs],
    }
    return json_bytes(content)


def running_mean(losses: Sequence[float]) -> list[float]:
    """An exponential mean over the losses of each step, of the same length.

    A skipped step, whose loss is not finite, leaves it as it was.
    """
    weight = 2 / (1 + max(RUNNING_SHARE * len(losses), 1))
    means: list[float] = []
    for loss in losses:
        before = means[-1] if means else math.nan
        if not math.isfinite(loss):
            means.append(before)
        else:
            means.append(before + weight * (loss - before) if math.isfinite(before) else loss)
    return means


class RunningLoss:
    """The mean of the losses so far, each weighing `SMOOTH_WEIGHT` times the one after it.

    Divided by the sum of the weights, so that it begins at the first loss, not near zero (the correction of
    Adam, Kingma and Ba 2015, section 3). A skipped step, whose loss is not finite, leaves it as it was.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._sum = self._weights = 0.0
        for loss in losses:
            self.add(loss)

    def add(self, loss: float) -> None:
        if math.isfinite(loss):
            self._sum = SMOOTH_WEIGHT * self._sum + loss
            self._weights = SMOOTH_WEIGHT * self._weights + 1

    @property
    def value(self) -> float:
        """NaN before the first loss."""
        return self._sum / self._weights if self._weights else math.nan


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
