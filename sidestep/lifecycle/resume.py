"""Where a run goes on: from the newest commit, from what waits to be sent, or from --resume-from."""

import hashlib
import logging
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from sidestep.commitlog.leftovers import CHECKPOINTS, is_called
from sidestep.commitlog.log import CommitLog, Record
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.pending import Unsent
from sidestep.runtime.errors import BadSpecError, MissingInputError, SideStepError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull
from sidestep.training.numbers import NUMBERS_FILE, STATE_FILES, Numbers, numbers_in

log = logging.getLogger(__name__)

_ADAPTERS = ("adapter_model.safetensors", "lokr_weights.safetensors", "pytorch_lora_weights.safetensors")
FOREIGN = ("training_state.pt", *(f"{folder}{file}" for folder in ("", "adapter/") for file in _ADAPTERS))
"""What other trainers put into a checkpoint's folder, or one level below."""

CRASH_LOOP = 5  # attempts in a row without a checkpoint


@dataclass(frozen=True)
class ResumePoint:
    """Where training begins.

    Attributes:
        place: of the run that it goes on with, for messages.
        newest: the newest commit when this was found.
        folder: of the checkpoint, on this machine; None: it begins at the beginning.
        numbers: what the checkpoint says of itself; None where there is none.
        origin: sha256 of the state that --resume-from gave, "" where it did not.
        unsent: the checkpoint, where it waited on this machine and is still to be committed.
    """

    place: str
    newest: Record | None
    folder: Path | None = None
    numbers: Numbers | None = None
    origin: str = ""
    unsent: Unsent | None = None


def find_resume_point(job: Job, folder: Path) -> ResumePoint:
    """Where the run goes on, by the newest record of the log.

    A commit is downloaded into `folder`, which is emptied for it.

    Raises MissingInputError where --resume-from names no checkpoint, BadSpecError where it would go back
    behind the newest commit and the spec does not say so.
    """
    commits, place = job.commits, job.output_store.place
    tail = commits.tail()
    newest = commits.newest_commit(tail)
    if job.spec.train.resume_from and (point := _asked_for(job, newest)):
        return point
    if unsent := job.pending.unsent(commits, newest):
        log.info("Going on from %s, which waited on this machine to be sent", unsent.name)
        return ResumePoint(place, newest, unsent.folder, numbers_in(unsent.folder), unsent=unsent)
    for file in folder.iterdir():
        file.unlink()
    if commits.fetch_newest(folder, tail):
        return ResumePoint(place, newest, folder, numbers_in(folder))
    return ResumePoint(place, newest)


def has_gone_on(spec: JobSpec, commits: CommitLog, newest: Record) -> bool:
    """Whether the newest commit is the checkpoint that --resume-from names, or came from it.

    That one may have been deleted since, as newer ones came: the log still knows it.
    """
    try:
        origin = _origin(_find_checkpoint(spec, commits.store))
        return origin in (newest.origin, newest.files[NUMBERS_FILE]["sha256"])
    except MissingInputError:
        name = str(spec.train.resume_from).rstrip("/").rpartition("/")[2]
        return newest.origin != "" and any(
            is_called(name, record.folder.rpartition("/")[2])
            and record.files[NUMBERS_FILE]["sha256"] == newest.origin
            for record in commits.back_from(newest)
        )


def check_crash_loop(job: Job) -> None:
    """Raise SideStepError (70) where many attempts in a row have ended before their first checkpoint."""
    place, last = job.output_store.place, islice(job.commits.back_from(job.commits.tail()), CRASH_LOOP)
    row = sum(1 for _ in takewhile(lambda record: record.kind == "take-over", last))
    if row == CRASH_LOOP and not job.spec.train.new_attempt:
        raise SideStepError(
            f"{CRASH_LOOP} attempts in a row ended before their first checkpoint, in {place}\n"
            "  its logs/ may say why; on machines that are soon taken away, a smaller "
            "train.checkpoint.every_minutes helps\n"
            "  with --new-attempt, it is tried again"
        )


def _asked_for(job: Job, newest: Record | None) -> ResumePoint | None:
    """What --resume-from names; None where this output has gone on from there already."""
    spec, output = job.spec, job.output_store
    if newest and has_gone_on(spec, job.commits, newest):
        log.info("Going on from the newest checkpoint, which came from %s", spec.train.resume_from)
        return None
    store = _find_checkpoint(spec, output)
    if newest and not spec.train.new_attempt:
        raise BadSpecError(
            f"train.resume_from goes back to {store.place}, and the newest checkpoint of {output.place} is "
            f"{newest.folder}, after step {newest.step}\n"
            "  without it, training goes on from the newest; with --new-attempt, it goes back, and later "
            "checkpoints count no more"
        )
    log.info("Resuming from %s", store.place)
    files = [file for file in store.list_files() if "/" not in file.path]
    folder = pull(store, files, job.workspace, title="Pulling the checkpoint")
    return ResumePoint(str(spec.train.resume_from), newest, folder, numbers_in(folder), _origin(store))


def _origin(store: Store) -> str:
    return hashlib.sha256(store.read_bytes(NUMBERS_FILE)).hexdigest()


def _find_checkpoint(spec: JobSpec, output: Store) -> Store:
    """What --resume-from names: a path or URI, or a checkpoint under <output_dir>/checkpoints."""
    wish = str(spec.train.resume_from).rstrip("/")
    name = wish.rpartition("/")[2]
    there = sorted({file.path.split("/")[1] for file in output.list_files(CHECKPOINTS)})
    same = [folder for folder in there if is_called(name, folder)]
    # The newest generation is meant.
    same.sort(key=lambda folder: int(folder.rpartition(".g")[2]) if folder != name else 1, reverse=True)
    stores = [open_store(wish, spec.storage), *(output.child(f"{CHECKPOINTS}/{folder}") for folder in same)]
    for store in stores:
        if all(store.stat(file) for file in STATE_FILES):  # a listing might be of a whole bucket
            return store
    if foreign := [file for file in FOREIGN if stores[0].stat(file)]:
        raise MissingInputError(
            f"{stores[0].place} is a checkpoint of another trainer ({', '.join(foreign)}): training cannot go"
            f" on from it, as it lacks {' and '.join(STATE_FILES)}\n"
            "  its adapter can be used as it is: `sidestep export`, or sidestep.adapters.load"
        )
    raise MissingInputError(
        f"no checkpoint at {stores[0].place} or {output.place}/{CHECKPOINTS}/{name}\n"
        f"  there: {', '.join(there) or 'none yet'}\n"
        "  without --resume-from, training goes on from the newest by itself"
    )
