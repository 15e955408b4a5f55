"""When what happens: steps, groups of samples, and the learning rate, all as functions of the step."""

import math
from dataclasses import dataclass

from sidestep.spec.schema import TrainSpec
from sidestep.training import draws

FINAL_LR_SHARE = 0.01
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Group:
    """The micro-batches whose gradients make one optimizer step."""

    epoch: int
    samples: tuple[int, ...]  # positions in the dataset
    first_index: int  # the run-wide number of the first micro-batch
    ends_epoch: bool


@dataclass(frozen=True)
class Schedule:
    """The whole run laid out: nothing here changes while it runs, so a step's number says all."""

    samples: int
    accumulation: int
    epochs: int
    max_steps: int | None
    lr: float
    warmup: int
    seed: int

    @classmethod
    def of(cls, train: TrainSpec, samples: int) -> "Schedule":
        """The schedule of `train` over `samples` songs."""
        assert samples > 0, "an empty dataset is refused before"
        return cls(
            samples=samples,
            accumulation=train.accumulation,
            epochs=train.epochs,
            max_steps=train.max_steps,
            lr=train.lr,
            warmup=train.warmup_steps,
            seed=train.seed,
        )

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.accumulation)

    @property
    def total_steps(self) -> int:
        planned = self.epochs * self.steps_per_epoch
        return min(planned, self.max_steps) if self.max_steps else planned

    def group(self, step: int) -> Group:
        """What step number `step` (from 0) trains on. An epoch's last group may be short."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.accumulation
        order = draws.order(self.seed, epoch, self.samples)
        return Group(
            epoch=epoch,
            samples=tuple(order[start : start + self.accumulation]),
            first_index=epoch * self.samples + start,
            ends_epoch=position == self.steps_per_epoch - 1,
        )

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to 1 % of the peak at the last step.

        The warm-up takes at most a tenth of the run, so that a short trial also trains.
        """
        warmup = min(self.warmup, int(self.total_steps * WARMUP_SHARE))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(self.total_steps - 1 - warmup, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.lr * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * cosine)
