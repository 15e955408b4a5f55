"""Which checkpoint of a run has the lowest held-out loss, and stays for that.

Which step is the best follows from the validations in the state (`training.verdict`). Its checkpoint is
found in the commit log, by the step that its record says.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sidestep.commitlog.log import CommitLog, Record
from sidestep.config.training import TrainSpec
from sidestep.lifecycle.identity import recorded
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.training.numbers import NUMBERS_FILE, Numbers, Progress, read_numbers
from sidestep.training.verdict import judge, ranked

log = logging.getLogger(__name__)


@dataclass
class Best:
    """Follows one attempt at a run.

    Attributes:
        folders: step → the folder of its checkpoint, of those that were committed and may be the best.
    """

    train: TrainSpec
    folders: dict[int, str] = field(default_factory=dict)

    @property
    def is_kept(self) -> bool:
        """Whether the best checkpoint stays, for good or to be published at the end."""
        return self.train.best or self.train.publish == "best"

    def wins(self, progress: Progress) -> bool:
        """Whether no step before has been better than this one, so that its checkpoint must be made."""
        is_validated = progress.step in progress.validations
        return is_validated and self.is_kept and judge(progress, self.train).best == progress.step

    def ranked(self, progress: Progress) -> list[int]:
        """The validated steps, the best first; none where the best is not kept."""
        return ranked(progress.validations, self.train.validation.window) if self.is_kept else []

    def to_publish(self, progress: Progress, kept: Iterable[str]) -> str:
        """Of the folders that are `kept`, the one to make adapter/ from; "": that of the last checkpoint."""
        return self.folder(self.ranked(progress), kept) if self.train.publish == "best" else ""

    def folder(self, steps: Sequence[int], folders: Iterable[str]) -> str:
        """Of `folders`, that of the first of the ranked `steps` that has one; "" where none has."""
        there = set(folders)
        return next((self.folders[step] for step in steps if self.folders.get(step) in there), "")


def best_commit(commits: CommitLog, tail: Record | None, steps: Sequence[int]) -> Record | None:
    """The kept checkpoint of the first of the ranked `steps` that has one; of two of one step, the newer.

    A step has none where its checkpoint was not kept, as `train.best` was off then; where a better one has
    come since, and the run has gone back behind that; and in an output that another one's run goes on in.
    """
    found: dict[int, Record] = {}
    for record in commits.kept_commits(tail):
        found.setdefault(record.step, record)
        if record.step in steps[:1]:
            break
    return next((found[step] for step in steps if step in found), None)


def best_in(commits: CommitLog, tail: Record | None) -> Record:
    """The best of an output's checkpoints, by the validations that the newest of them tells of.

    Raises MissingInputError where none has been validated.
    """
    numbers = _newest_numbers(commits, tail)
    progress, window = numbers.progress, recorded(numbers.recipe, "train.validation.window")
    steps = ranked(progress.validations, window)
    found = best_commit(commits, tail, steps)
    if found is None:
        raise MissingInputError(
            f"no checkpoint in {commits.store.place} has been validated, so none is the best\n"
            "  a run is judged by songs that it holds out: train.validation.share, train.validation.songs\n"
            "  of this one, name a checkpoint"
        )
    if found.step != steps[0]:
        log.warning("The best was that of step %d, which is not kept; this one is after it", steps[0])
    return found


def _newest_numbers(commits: CommitLog, tail: Record | None) -> Numbers:
    """What the newest whole checkpoint says of its run. Raises MissingInputError where there is none."""
    for record in commits.kept_commits(tail):
        try:
            return read_numbers(commits.store.read_small(f"{record.folder}/{NUMBERS_FILE}"), record.folder)
        except (BadDataError, MissingInputError) as error:
            log.warning("Checkpoint %s is damaged and is not used: %s", record.folder, error)
    raise MissingInputError(f"no checkpoint in {commits.store.place} is whole: none can be published")
