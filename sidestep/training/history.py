"""history.json: the losses, learning rates and songs of a run, as plain numbers and text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sidestep.data.index import ONE, Share
from sidestep.data.sides import Sides, Song, by_hash
from sidestep.runtime.canonical import json_bytes
from sidestep.training.levels import by_level
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
    share: Share = ONE
    trigger: str = ""  # its trigger word


def with_shares(songs: Sequence[SongFacts], shares: Sequence[Share]) -> list[SongFacts]:
    """The songs, and how much of the run each was; `shares` in the same order."""
    return [replace(song, share=share) for song, share in zip(songs, shares, strict=True)]


@dataclass(frozen=True)
class HeldOut:
    """Which of a run's songs are held out.

    Attributes:
        sides: of each song, whether it is.
        names: in the order of a validation's losses, of copies one.
        smoothed: step → the held-out loss that the best checkpoint goes by, see `training.verdict`.
    """

    sides: Sequence[bool]
    names: Sequence[str]
    smoothed: Mapping[int, float]

    @classmethod
    def of(cls, songs: Sequence[Song], sides: Sides, smoothed: Mapping[int, float]) -> "HeldOut":
        """Of all songs of a run, in their order."""
        held_out = sides.are_held_out(songs)
        order = by_hash(songs, [number for number, is_out in enumerate(held_out) if is_out])
        return cls(held_out, [songs[number].name for number in order], smoothed)


def history_bytes(
    progress: Progress,
    learning_rates: Sequence[float],
    songs: Sequence[SongFacts],
    lr_groups: Mapping[str, float] | None = None,
    held_out: HeldOut | None = None,
) -> bytes:
    """The content of history.json. What is not finite, as the loss of a skipped step, is null.

    {"losses": [by step, from the first], "running_mean": […], "learning_rates": […],
     "evaluations": {"<step>": loss on fixed draws}, "songs": [{"name", "seconds", "caption"}]}
    A song's `repeats` and `weight` are there where they are not 1.

    With `lr_groups`, there are also "learning_rates_by_group": {"<group>": [by step]}.

    With songs held out, these have "held_out": true, and there are also "held_out": [names] and
     "validations": {"<step>": {"held_out": loss, "trained": loss, "smoothed": held-out loss,
     "by_level": {"0.3-0.4": held-out loss}, "by_song": [held-out losses, by name]}}
    """
    content: dict[str, Any] = {
        "losses": [_number(loss) for loss in progress.losses],
        "running_mean": [_number(mean) for mean in running_mean(progress.losses)],
        "learning_rates": [_number(rate) for rate in learning_rates],
        "evaluations": {str(step): _number(loss) for step, loss in sorted(progress.evaluations.items())},
        "songs": [_song(song) for song in songs],
    }
    if lr_groups:
        content["learning_rates_by_group"] = {
            name: [_number(rate * factor) for rate in learning_rates] for name, factor in lr_groups.items()
        }
    if held_out:
        for song, is_out in zip(content["songs"], held_out.sides, strict=True):
            song |= {"held_out": True} if is_out else {}
        content["held_out"] = list(held_out.names)
        content["validations"] = _validations(progress, held_out.smoothed)
    return json_bytes(content)


def _song(song: SongFacts) -> dict[str, Any]:
    share = {name: value for name, value in asdict(song.share).items() if value != 1}
    return {"name": song.name, "seconds": song.seconds, "caption": song.caption, **share}


def _validations(progress: Progress, smoothed: Mapping[int, float]) -> dict[str, dict[str, Any]]:
    return {
        str(step): {
            "held_out": _number(found.held_out.mean),
            "trained": _number(found.trained.mean),
            "smoothed": _number(smoothed.get(step, math.nan)),
            "by_level": {
                level: _number(loss)
                for level, loss in by_level(progress.timesteps, found.held_out.by_draw).items()
            },
            "by_song": [_number(loss) for loss in found.held_out.by_song],
        }
        for step, found in sorted(progress.validations.items())
    }


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
