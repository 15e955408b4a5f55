"""After which steps a run is saved, and which of its checkpoints stay."""

import re
import time
from collections.abc import Callable, Sequence

from sidestep.config.training import CheckpointSpec
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Group, Schedule


def name_after(group: Group, step: int) -> str:
    """What a checkpoint is called that there has to be after this step."""
    return f"checkpoint-epoch-{group.epoch + 1}" if group.ends_epoch else f"checkpoint-step-{step}"


class CheckpointPolicy:
    """What `train.checkpoint` says, for one attempt at a run."""

    def __init__(
        self, spec: CheckpointSpec, schedule: Schedule, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spec, self._schedule, self._clock = spec, schedule, clock
        self._saved = clock()
        self._milestone = spec.milestone_epochs(schedule.epochs)

    def due(self, progress: Progress, group: Group, *, must: bool = False) -> str | None:
        """The name of the checkpoint to make after this step; None where none is due.

        None is within a row of skipped steps: should it stop the run, the newest checkpoint is from before.

        Args:
            must: whether there has to be one, as the run ends here, or as it is the best.
        """
        spec, step, epoch = self._spec, progress.step, group.epoch + 1
        must = must or step == self._schedule.total_steps
        if progress.skipped_in_row and not must:
            return None
        by_epoch = [spec.every_epochs, self._milestone or spec.every_epochs]
        if group.ends_epoch and (must or any(epoch % every == 0 for every in by_epoch)):
            return name_after(group, step)
        minutes = (self._clock() - self._saved) / 60
        by_step = spec.every_steps is not None and step % spec.every_steps == 0
        by_time = spec.every_minutes is not None and minutes >= spec.every_minutes
        return f"checkpoint-step-{step}" if must or by_step or by_time else None

    def saved(self) -> None:
        """The minutes to the next checkpoint begin now."""
        self._saved = self._clock()

    def keep(self, folders: Sequence[str], best: str = "") -> list[str]:
        """Of checkpoints' folders, the newest first, those that are to stay; `best` is one of them.

        Where a run went back and came to an epoch again, the newer of its checkpoints is the one that stays.
        """
        kept, epochs = list[str](), set[int | None]()
        for number, folder in enumerate(folders):
            epoch = self._milestone_in(folder)
            is_milestone = epoch is not None and epoch not in epochs
            if number < self._spec.keep or is_milestone or folder == best:
                kept.append(folder)
            epochs.add(epoch)
        return kept

    @property
    def milestones(self) -> int:
        """How many checkpoints of the whole run stay for good, besides the newest."""
        epochs = self._schedule.total_steps // self._schedule.steps_per_epoch
        return epochs // self._milestone if self._milestone else 0

    def _milestone_in(self, folder: str) -> int | None:
        """The epoch after which a checkpoint was made, where those of that epoch stay for good."""
        every, found = self._milestone, re.search(r"/checkpoint-epoch-(\d+)", folder)
        epoch = int(found[1]) if found else None
        return epoch if every and epoch and epoch % every == 0 else None
