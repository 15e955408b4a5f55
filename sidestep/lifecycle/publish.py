"""The result: `adapter/` in the output, made from committed bytes and mended from them."""

import hashlib
import logging
import shlex
from dataclasses import replace
from pathlib import Path

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.leftovers import clear_finished, is_called
from sidestep.commitlog.log import CommitLog, Record
from sidestep.commitlog.writer import take_over
from sidestep.config.adapter_files import APP_LOKR, APP_LORA, APP_LORA_CONFIG
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import parse_yaml
from sidestep.lifecycle.best import best_in
from sidestep.lifecycle.card import keep_card
from sidestep.lifecycle.output import ADAPTER, SPEC
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError, TakenError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store
from sidestep.training.numbers import STATE_FILES

log = logging.getLogger(__name__)

FOLDER = ADAPTER
BEST = "best"
"""Stands for the checkpoint with the lowest held-out loss, where one is asked for by name."""
LEASE_AT_MOST = 3600  # seconds, as in the schema
FILES = (APP_LORA_CONFIG, APP_LORA, APP_LOKR)
"""What may be in it: a LoRA's two files, or a LoKR's one."""


def publish(commits: CommitLog, done: Record, workspace: Workspace, newest: Record | None = None) -> None:
    """Make adapter/ what the run's end says: its last checkpoint or its best, or what `sidestep publish` has
    named since.

    Files that are so already are not written. What the run's writers have left unfinished, or kept too long,
    is cleared before.

    Args:
        newest: the newest record, where that is none of a checkpoint; by default `done`.

    Raises BadDataError or MissingInputError where the commit's files are not what they were, TakenError where
    the run has gone on since: then adapter/ is a later writer's.
    """
    newest = newest or done
    clear_finished(commits, replace(done, number=newest.number, generation=newest.generation))
    folder = commits.published(newest)
    if folder:
        by_end = folder == done.published
        why = "which has the lowest held-out loss" if by_end else "as `sidestep publish` has made it"
        log.info("The adapter is that of %s, %s", folder, why)
    try:
        _mend(commits, commit_of(commits, folder, newest) if folder else done, newest, workspace)
    except (BadDataError, MissingInputError) as error:
        if not folder:
            raise
        raise type(error)(
            f"{error}\n  {FOLDER}/ is to be that of {folder}: `sidestep publish` makes it from another one"
        ) from error


def publish_checkpoint(
    commits: CommitLog, workspace: Workspace, lease: Lease, name: str | None = None
) -> Record:
    """Make adapter/ what a checkpoint has, whether the run is finished or not, and return its commit.

    The log says so from then on: the same adapter is mended when the run is asked for again, and its
    checkpoint stays, until the run comes to another end.

    Args:
        name: of the checkpoint, such as checkpoint-epoch-50, or `BEST`; by default the newest whose adapter
            is whole.

    Raises MissingInputError where there is no checkpoint, or none of that name, BadDataError where it is
    damaged, TakenError where the run's writer is alive.
    """
    tail = commits.tail()
    wanted = _candidates(commits, tail, name)[0]
    if wanted.folder == _published_folder(commits, tail) and _is_published(commits, wanted):
        log.info("There is nothing to do")
        if tail:
            keep_card(commits.store, lambda: refuse_if_older(commits, tail))
        return wanted
    with workspace.temporary() as temporary:
        commit = fetch_adapter(commits, tail, name, Path(temporary))
        with take_over(commits, lease, None, machine=None) as writer:
            if writer.newest != commits.newest_commit(tail):  # the writer before had still added to the log
                commit = fetch_adapter(commits, commits.at(writer.position[0]), name, Path(temporary))
            published = writer.publish(commit)
            _send(commits, commit, published, Path(temporary))
            keep_card(commits.store, lambda: refuse_if_older(commits, published))
    return commit


def lease_of(store: Store, seconds: float) -> Lease:
    """The lease that the output's writer has by its job.yaml, at least `seconds`: one who beats more slowly
    than this machine would is alive, too."""
    try:
        values, _ = parse_yaml(store.read_small(SPEC), SPEC)
        own = float(values["runtime"]["lease_seconds"])
    except (MissingInputError, BadDataError, BadSpecError, KeyError, TypeError, ValueError):
        own = 0.0  # the run has not come so far, or its job.yaml is damaged
    return Lease(max(seconds, own) if own <= LEASE_AT_MOST else seconds)


def publish_command(spec: JobSpec, place: str, checkpoint: str = "") -> str:
    """The line that publishes a checkpoint, by default the newest, of the output at `place`, reached as
    `spec` says."""
    words = ["sidestep", "publish", place, *(["--checkpoint", checkpoint] if checkpoint else [])]
    for name, value in spec.storage.model_dump(exclude_defaults=True).items():
        flag = spec_fields()[("storage", name)].flags[0]
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, str(value)]
    return shlex.join(words)


def warn_of_dots(*names: str) -> None:
    """Say which of these folder names the ACE-Step app cannot load an adapter by.

    It calls a module of the model by the folder's name, and there a dot parts a module from its own.
    """
    for name in sorted({name for name in names if "." in name}):
        log.warning(
            "The ACE-Step app cannot load an adapter whose folder's name has a dot: for the app, call it %s "
            "instead of %s",
            *(without_dots(name), name),
        )


def without_dots(name: str) -> str:
    """The name with each dot as a hyphen: `blues.v1` → `blues-v1`."""
    return name.replace(".", "-")


def _candidates(commits: CommitLog, tail: Record | None, name: str | None) -> list[Record]:
    """The commits to publish, the best first. Raises MissingInputError where there is none."""
    there = list(commits.kept_commits(tail))
    if not there:
        raise MissingInputError(
            f"no checkpoint in {commits.store.place}: there is nothing to publish\n"
            "  name the output_dir of a job that has trained as far as its first checkpoint"
        )
    if name is None:
        return there
    if name == BEST:
        return [best_in(commits, tail)]
    wanted = name.rstrip("/").rpartition("/")[2]
    if not (named := [commit for commit in there if is_called(wanted, commit.folder.rpartition("/")[2])]):
        raise MissingInputError(
            f"{commits.store.place} has no checkpoint {name}\n"
            f"  there: {', '.join(commit.folder.rpartition('/')[2] for commit in there)}"
        )
    return named[:1]


def fetch_adapter(commits: CommitLog, tail: Record | None, name: str | None, folder: Path) -> Record:
    """Download the adapter of a checkpoint into the local `folder`, and return its commit.

    `name` and what is raised are those of `publish_checkpoint`.
    """
    candidates = _candidates(commits, tail, name)
    if name is not None:
        commits.fetch(_adapter_of(candidates[0]), folder)
        return candidates[0]
    whole = commits.fetch_first(map(_adapter_of, candidates), folder)
    if whole is None:
        raise BadDataError(f"every checkpoint in {commits.store.place} is damaged: none can be published")
    return next(commit for commit in candidates if commit.folder == whole.folder)


def _adapter_of(commit: Record) -> Record:
    """The commit, of whose files the adapter's alone count."""
    files = {name: entry for name, entry in commit.files.items() if name not in STATE_FILES}
    return replace(commit, files=files)


def _published_folder(commits: CommitLog, tail: Record | None) -> str:
    """The folder of the checkpoint that adapter/ is to be; "" where the run has not come so far."""
    newest = commits.newest_commit(tail)
    by_end = newest.folder if newest and newest.kind == "done" else ""
    return commits.published(tail) or by_end


def check_published(commits: CommitLog) -> None:
    """Raise BadDataError where adapter/ is not, file by file, what the log says that it is to be."""
    tail = commits.tail()
    folder = _published_folder(commits, tail)
    if tail and folder and not _is_published(commits, commit_of(commits, folder, tail)):
        raise BadDataError(
            f"{commits.store.place}/{FOLDER} is not the adapter of {folder}, as it is to be: a file was "
            f"changed, or its writing was cut off\n  run the job again, or `sidestep publish "
            f"{commits.store.place} --checkpoint {folder.rpartition('/')[2]}`, which mends it"
        )


def _mend(commits: CommitLog, commit: Record, newest: Record, workspace: Workspace) -> None:
    if _is_published(commits, commit):
        return
    with workspace.temporary() as temporary:
        commits.fetch(_adapter_of(commit), Path(temporary))
        _send(commits, commit, newest, Path(temporary))


def commit_of(commits: CommitLog, folder: str, tail: Record) -> Record:
    """The commit of a checkpoint that is kept. Raises MissingInputError where its record is lost."""
    for commit in commits.kept_commits(tail):
        if commit.folder == folder:
            return commit
    raise MissingInputError(f"the commit of {folder} is lost from the log of {commits.store.place}")


def _send(commits: CommitLog, commit: Record, newest: Record, folder: Path) -> None:
    """Write adapter/ from the local `folder`, while `newest` is the newest record."""
    for name in _adapter_of(commit).files:
        refuse_if_older(commits, newest)
        commits.store.upload(Path(folder, name), f"{FOLDER}/{name}")
    log.info("Wrote the adapter to %s/%s", commits.store.place, FOLDER)


def refuse_if_older(commits: CommitLog, newest: Record) -> None:
    """Raise TakenError where the run has gone on since `newest`: what it publishes is a later writer's."""
    tail = commits.tail()
    if tail and tail.number > newest.number:
        raise TakenError(
            f"another run has gone on in {commits.store.place}: this one stops, and leaves {FOLDER}/ and the "
            "report to it"
        )


def _is_published(commits: CommitLog, commit: Record) -> bool:
    """Whether adapter/ is what the commit has."""
    return all(
        _is_there(commits, f"{FOLDER}/{name}", entry["sha256"])
        for name, entry in _adapter_of(commit).files.items()
    )


def _is_there(commits: CommitLog, path: str, sha256: str) -> bool:
    try:
        return hashlib.sha256(commits.store.read_bytes(path)).hexdigest() == sha256
    except MissingInputError:
        return False
