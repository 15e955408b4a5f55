"""After which steps a run is saved, and which of its checkpoints stay."""

import re
import time
from collections.abc import Callable, Sequence

from sidestep.config.training import CheckpointSpec
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Group, Schedule


class CheckpointPolicy:
    """What `train.checkpoint` says, for one attempt at a run."""

    def __init__(
        self, spec: CheckpointSpec, schedule: Schedule, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spec, self._schedule, self._clock = spec, schedule, clock
        self._saved = clock()

    def due(self, progress: Progress, group: Group) -> str | None:
        """The name of the checkpoint to make after this step; None where none is due.

        None is within a row of skipped steps: should it stop the run, the newest checkpoint is from before.
        """
        spec, step, epoch = self._spec, progress.step, group.epoch + 1
        is_last = step == self._schedule.total_steps
        if progress.skipped_in_row and not is_last:
            return None
        by_epoch = [spec.every_epochs, spec.keep_every_epochs or spec.every_epochs]
        if group.ends_epoch and (is_last or any(epoch % every == 0 for every in by_epoch)):
            return f"checkpoint-epoch-{epoch}"
        minutes = (self._clock() - self._saved) / 60
        by_step = spec.every_steps is not None and step % spec.every_steps == 0
        by_time = spec.every_minutes is not None and minutes >= spec.every_minutes
        return f"checkpoint-step-{step}" if is_last or by_step or by_time else None

    def saved(self) -> None:
        """The minutes to the next checkpoint begin now."""
        self._saved = self._clock()

    def keep(self, folders: Sequence[str]) -> list[str]:
        """Of checkpoints' folders, the newest first, those that are to stay."""
        return [
            folder
            for number, folder in enumerate(folders)
            if number < self._spec.keep or self._is_kept_for_good(folder)
        ]

    def _is_kept_for_good(self, folder: str) -> bool:
        every, found = self._spec.keep_every_epochs, re.search(r"/checkpoint-epoch-(\d+)", folder)
        return every is not None and found is not None and int(found[1]) % every == 0
