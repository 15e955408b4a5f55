"""A run laid out: the songs and the learning rate of each step, as functions of its number."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sidestep.config.optimizers import Scheduler
from sidestep.config.training import TrainSpec
from sidestep.training import rng

FINAL_LR_SHARE = 0.01
WARMUP_SHARE = 0.1
RESTART_CYCLES = 4


@dataclass(frozen=True)
class Entry:
    """A sample of a step."""

    song: int  # its position in the dataset
    index: int  # its number in the run, by which all its draws are keyed
    visit: int  # how often the run has seen the song before


@dataclass(frozen=True)
class Group:
    """The samples whose gradients make one optimizer step."""

    epoch: int
    samples: tuple[int, ...]  # positions in the dataset
    visits: tuple[int, ...]  # how often the run has seen each of them before
    first_index: int  # the run-wide number of the first of them
    ends_epoch: bool

    @property
    def entries(self) -> list[Entry]:
        """The samples, in their order."""
        seen = zip(self.samples, self.visits, strict=True)
        return [Entry(song, self.first_index + n, visit) for n, (song, visit) in enumerate(seen)]


@dataclass(frozen=True)
class Schedule:
    """The whole run laid out: nothing here changes while it runs, so a step's number says all."""

    samples: int  # of an epoch
    samples_per_step: int
    epochs: int
    max_steps: int | None
    lr: float
    scheduler: Scheduler
    warmup: int
    seed: int
    songs: tuple[int, ...] = ()  # of each sample of an epoch, where songs come more than once

    @classmethod
    def of(cls, train: TrainSpec, samples: int | Sequence[int]) -> "Schedule":
        """The schedule of `train` over so many songs, or over songs that come so often in an epoch each."""
        each = [1] * samples if isinstance(samples, int) else samples
        songs = tuple(song for song, times in enumerate(each) for _ in range(times))
        assert songs, "an empty dataset is refused before"
        assert train.lr is not None and train.scheduler is not None, "resolved by the schema"
        return cls(
            samples=len(songs),
            samples_per_step=train.samples_per_step,
            epochs=train.epochs,
            max_steps=train.max_steps,
            lr=train.lr,
            scheduler=train.scheduler,
            warmup=train.warmup_steps,
            seed=train.seed,
            songs=songs if len(songs) > len(each) else (),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last may have fewer songs than the others."""
        return -(-self.samples // self.samples_per_step)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run: those of its epochs, or `max_steps` where these are fewer."""
        planned = self.epochs * self.steps_per_epoch
        return min(planned, self.max_steps) if self.max_steps else planned

    def group(self, step: int) -> Group:
        """The samples of step number `step` (from 0). An epoch's last group may be short."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.samples_per_step
        drawn = rng.order(self.seed, epoch, self.samples)[start : start + self.samples_per_step]
        return Group(
            epoch=epoch,
            samples=tuple(self.songs[sample] for sample in drawn) if self.songs else drawn,
            visits=tuple(self._visit(epoch, sample) for sample in drawn),
            first_index=epoch * self.samples + start,
            ends_epoch=position == self.steps_per_epoch - 1,
        )

    def is_validated(self, step: int, every_epochs: int) -> bool:
        """Whether a validation follows `step` steps: before the first, after the last, and after epochs."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        return step in (0, self.total_steps) or (rest == 0 and epoch % every_epochs == 0)

    def _visit(self, epoch: int, sample: int) -> int:
        """How often the song of an epoch's sample has been seen, as far as that follows from its number."""
        if not self.songs:
            return epoch
        song = self.songs[sample]
        first = bisect_left(self.songs, song)
        return epoch * (bisect_right(self.songs, song) - first) + sample - first

    def learning_rate(self, step: int) -> float:
        """Linear warm-up to the peak, then what the scheduler says; it ends at 1 % of the peak or stays.

        The warm-up takes at most a tenth of the run, so that a short trial also trains.
        """
        warmup = min(self.warmup, int(self.total_steps * WARMUP_SHARE))
        if self.scheduler == "constant":
            warmup = 0
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * self._share(step - warmup, self.total_steps - warmup)

    def _share(self, step: int, steps: int) -> float:
        """The share of the peak at `step` of the `steps` after warm-up."""
        match self.scheduler:
            case "constant" | "constant_with_warmup":
                return 1.0
            case "linear":
                return _between(1 - _progress(step, 0, steps))
            case "cosine":
                return _between(_cosine(_progress(step, 0, steps)))
            case "cosine_restarts":
                # Cycle n has the steps from ⌈n · steps / cycles⌉ on: each ends low, also the last.
                cycle = step * RESTART_CYCLES // steps
                start, end = (-(-n * steps // RESTART_CYCLES) for n in (cycle, cycle + 1))
                return _between(_cosine(_progress(step, start, end)))


def _progress(step: int, start: int, end: int) -> float:
    """0 at the first of the steps from `start` up to `end`, 1 at the last; 0 where there is only one."""
    return (step - start) / max(end - start - 1, 1)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _between(share: float) -> float:
    return FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * share
