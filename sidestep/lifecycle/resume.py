"""Where a run goes on: from the newest commit, from what waits to be sent, or from --resume-from."""

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from sidestep.commitlog.leftovers import CHECKPOINTS, is_called
from sidestep.commitlog.log import CommitLog, Record
from sidestep.config.adapter_files import WEIGHTS
from sidestep.config.job import JobSpec
from sidestep.data.sides import Sides
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.pending import Unsent
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError, SideStepError
from sidestep.storage.open import local_path, open_store
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull
from sidestep.training.numbers import NUMBERS_FILE, STATE_FILES, Numbers, numbers_in, read_numbers

log = logging.getLogger(__name__)

FOREIGN = ("training_state.pt", *(f"{folder}{file}" for folder in ("", "adapter/") for file in WEIGHTS))
"""What other trainers put into a checkpoint's folder, or one level below."""

LISTED = 10  # names that a message has of a place


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
    behind the newest commit, and nobody has typed it or set new_attempt.
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


def sides_of_run(commits: CommitLog) -> Sides | None:
    """Which songs the output's run holds out; None where it holds none out, or has no checkpoint yet."""
    for commit in commits.kept_commits(commits.tail()):
        try:
            data = commits.store.read_small(f"{commit.folder}/{NUMBERS_FILE}")
            return read_numbers(data, commit.folder).sides
        except (BadDataError, MissingInputError) as error:
            log.debug("%s does not say which songs are held out: %s", commit.folder, error)
    return None


def where_named(job: Job) -> str | None:
    """Where --resume-from leads, in words; None where the spec has none. Known without torch.

    Raises MissingInputError where it names no checkpoint, though this output is not finished and has not gone
    on from it.
    """
    train = job.spec.train
    if not train.resume_from:
        return None
    newest = job.commits.newest_commit(job.commits.tail())
    if newest and newest.kind == "done" and not (train.new_attempt or train.extend):
        return f"plays no part: the run in {job.output_store.place} is finished"
    if newest and has_gone_on(job.spec, job.commits, newest):
        return f"training has gone on from it already, to step {newest.step}"
    return _find_checkpoint(job.spec, job.output_store).place


def has_gone_on(spec: JobSpec, commits: CommitLog, newest: Record) -> bool:
    """Whether the newest commit is the checkpoint that --resume-from names, or came from it.

    That one may have been deleted since, as newer ones came: the log still knows it.
    """
    try:
        origin = _origin(_find_checkpoint(spec, commits.store))
        return origin in (newest.origin, newest.files[NUMBERS_FILE]["sha256"])
    except MissingInputError:
        own = commits.store.child(CHECKPOINTS)
        names = {name for folder, name in _searched(spec, commits.store) if _is_same(folder, own)}
        return newest.origin != "" and any(
            any(is_called(name, record.folder.rpartition("/")[2]) for name in names)
            and record.files[NUMBERS_FILE]["sha256"] == newest.origin
            for record in commits.back_from(newest)
            if record.files
        )


def check_crash_loop(job: Job) -> None:
    """Raise SideStepError (70) where `runtime.max_attempts` in a row ended before their first checkpoint.

    Attempts of older versions left no other trace than their take-over records.
    """
    most = job.spec.runtime.max_attempts
    place, last = job.output_store.place, islice(job.commits.back_from(job.commits.tail()), most)
    row = sum(1 for _ in takewhile(lambda record: record.kind == "take-over", last))
    if row == most and not job.spec.train.new_attempt:
        raise SideStepError(
            f"{most} attempts in a row ended before their first checkpoint, in {place}\n"
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
    origin = _origin(store)
    if newest and not spec.train.new_attempt:
        _refuse_to_go_back(job, store, origin, newest)
    log.info("Resuming from %s", store.place)
    files = [file for file in store.list_files() if "/" not in file.path]
    folder = pull(store, files, job.workspace, title="Pulling the checkpoint")
    numbers = numbers_in(folder)
    if newest:
        log.warning(
            "--resume-from goes back to step %d, from step %d of the newest checkpoint: what was made since "
            "counts no more, and nothing is deleted for it. The same command will go on from here",
            *(numbers.progress.step, newest.step),
        )
    return ResumePoint(str(spec.train.resume_from), newest, folder, numbers, origin)


def _refuse_to_go_back(job: Job, store: Store, origin: str, newest: Record) -> None:
    """Raise BadSpecError, unless somebody has typed where to go back to, among the run's own checkpoints.

    A spec's file or a variable would have each restart of a container go back.
    """
    is_own = any(
        record.files and record.files[NUMBERS_FILE]["sha256"] == origin
        for record in job.commits.back_from(newest)
    )
    if is_own and job.may_go_back:
        return
    once = ", as it does once where --resume-from is typed," if is_own else ""
    raise BadSpecError(
        f"train.resume_from goes back to {store.place}, and the newest checkpoint of "
        f"{job.output_store.place} is {newest.folder}, after step {newest.step}\n"
        f"  without it, training goes on from the newest; with --new-attempt, it goes back{once} and later "
        "checkpoints count no more"
    )


def _origin(store: Store) -> str:
    return hashlib.sha256(store.read_bytes(NUMBERS_FILE)).hexdigest()


def _find_checkpoint(spec: JobSpec, output: Store) -> Store:
    """What --resume-from names: the place as it is written, or else the newest generation of that name in a
    folder of checkpoints. Raises MissingInputError, with what lies at each."""
    written = open_store(str(spec.train.resume_from), spec.storage)
    if _has_state(written):
        return written
    searched = _searched(spec, output)
    for folder, name in searched:
        for found in _generations(name, _names(folder)):
            if _has_state(store := folder.child(found)):
                return store
    folders = [folder for folder, _ in searched]
    if CommitLog(written).tail():  # a run's whole output
        folders.append(written.child(CHECKPOINTS))
    is_ours = any(_has_state(folder.child(name)) for folder in folders for name in _names(folder))
    if not is_ours and (foreign := [file for file in FOREIGN if written.stat(file)]):
        raise MissingInputError(
            f"{written.place} is a checkpoint of another trainer ({', '.join(foreign)}): training cannot go "
            f"on from it, as it lacks {' and '.join(STATE_FILES)}\n"
            "  its adapter can be used as it is: `sidestep export`, or sidestep.adapters.load"
        )
    there = {store.place: _listed(_names(store)) for store in (written, *folders)}
    raise MissingInputError(
        "\n  ".join(
            [
                f"no checkpoint to go on from at {spec.train.resume_from}",
                *(f"at {place}: {listed}" for place, listed in there.items()),
                f"a checkpoint has {' and '.join(STATE_FILES)}; without --resume-from, training goes on from "
                "the newest by itself",
            ]
        )
    )


def _searched(spec: JobSpec, output: Store) -> list[tuple[Store, str]]:
    """The folders of checkpoints that --resume-from may mean, each with the checkpoint's name, in order.

    That of the output that stands before the name, where upstream has its checkpoints; the one that the place
    is in; and for a bare name the job's own.
    """
    wish = str(spec.train.resume_from).rstrip("/")
    path = local_path(wish)
    parent, name = (str(path.parent), path.name) if path else wish.rpartition("/")[::2]
    found = []
    if not parent.endswith(":/"):  # a bucket's name is no checkpoint's
        above = open_store(parent, spec.storage)
        found.append((above.child(CHECKPOINTS), name))
        if parent.rpartition("/")[2] == CHECKPOINTS:
            found.append((above, name))
    if "/" not in wish:
        found.append((output.child(CHECKPOINTS), name))
    return found


def _has_state(store: Store) -> bool:
    return all(store.stat(file) for file in STATE_FILES)  # a listing might be of a whole bucket


def _generations(name: str, folders: Iterable[str]) -> list[str]:
    """Of checkpoints' folders those of that name, the newest generation first."""
    called = [folder for folder in folders if is_called(name, folder)]
    return sorted(
        called, key=lambda folder: int(folder.rpartition(".g")[2]) if folder != name else 1, reverse=True
    )


def _names(store: Store) -> list[str]:
    """What lies in a place, without what is further below."""
    return sorted({file.path.partition("/")[0] for file in store.list_files()})


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}" or "nothing"


def _is_same(one: Store, other: Store) -> bool:
    """Whether two stores are of one place, through whatever links."""
    if one.local_root and other.local_root:
        return os.path.realpath(one.local_root) == os.path.realpath(other.local_root)
    return one.place == other.place
