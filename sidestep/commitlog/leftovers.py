"""What earlier writers have left behind: checkpoints that no commit keeps, and files that were not completed.

Who calls this has the newest record of the log; only `clear_abandoned` needs none. All of it may be
carried out late, by one who was taken over meanwhile: what is deleted here is never used again. A
checkpoint's folder that the newest commit does not keep is kept by no later one, and later generations
write to folders of their own; a temporary file and an upload in parts have names that no other one has.
"""

import logging
import re
from collections.abc import Callable, Collection

from sidestep.commitlog.log import CommitLog, Record, record_path
from sidestep.runtime.errors import SideStepError
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DAY = 24 * 60 * 60  # seconds
_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/checkpoint-(epoch|step)-\d+(\.g(?P<generation>\d+))?")


def clear_finished(commits: CommitLog, done: Record) -> None:
    """Delete what the writers of a finished run have left, unless another one has taken it over."""

    def is_last() -> bool:
        return commits.store.stat(record_path(done.number + 1)) is None

    delete_unkept(commits.store, done.kept, done.generation, is_last)
    clear_unfinished(commits.store, done.generation)


def delete_unkept(
    store: Store,
    kept: Collection[str],
    generation: int,
    may_delete: Callable[[], bool],
    deleting: Callable[[str], object] = lambda folder: None,
) -> None:
    """Delete checkpoints that no commit needs: older ones, and those whose writer was lost before its record.

    What fails now is deleted after the next commit.

    Args:
        kept: the folders that the newest commit keeps.
        generation: of that commit's writer; folders of later ones are left alone.
        may_delete: asked before each delete: whether that commit is still the newest.
        deleting: told of each folder before.
    """
    try:
        for file in store.list_files(CHECKPOINTS):
            folder = file.path.rpartition("/")[0]
            if folder in kept or not 0 < generation_of(folder) <= generation:
                continue
            if not may_delete():
                log.info("Another run has taken over: older checkpoints are left to it")
                return
            deleting(folder)
            store.delete(file.path)
    except SideStepError as error:
        log.warning("An older checkpoint could not be deleted, and is kept for now: %s", error)


def clear_abandoned(store: Store) -> None:
    """Delete what was begun in a place more than a day ago and never completed. Anybody may, at any time."""
    clear_unfinished(store, generation=0)


def clear_unfinished(store: Store, generation: int) -> None:
    """Delete files that were being written, and never will be complete.

    Those of checkpoints by writers up to `generation`, and others that have not grown for a day, by the
    store's own clock: tensors are sent by who is not the writer, and a slow line is no dead one.
    """
    try:
        for left in store.unfinished():
            made_by = generation_of(left.path.rpartition("/")[0])
            if made_by <= generation if made_by else left.age > DAY:
                log.debug("Clearing %s, which was never completed", left.path)
                store.discard(left)
    except SideStepError as error:
        log.warning("What earlier attempts left incomplete could not be cleared: %s", error)


def generation_of(folder: str) -> int:
    """Return the generation that writes to a checkpoint's folder; 0 where it is no checkpoint's."""
    match = _CHECKPOINT.fullmatch(folder)
    return int(match["generation"] or 1) if match else 0


def is_called(name: str, folder: str) -> bool:
    """Whether a checkpoint's folder has this name. Later generations add theirs to it."""
    return re.fullmatch(rf"{re.escape(name)}(\.g\d+)?", folder) is not None
