"""The one writer of an output: it takes the log over, adds commits to it, and learns when it is fenced.

Every record is created with the number after the last one that this writer knows. Where another writer
has taken over meanwhile, that number exists, and creating it fails: whoever was paused, cut off or given
up for lost can therefore harm nothing when it comes back.

A delete has no such condition, and may be carried out long after it was asked for. It harms nothing either,
because what it names is never used again:

- Only the newest generation deletes, and asks the log anew right before each delete whether it is that.
- It deletes what the newest commit does not keep. Each later commit keeps some of these and its own, new one.
- It deletes in folders of its own and of older generations. Later ones write to folders of their own, and one
  writer makes no checkpoint twice under a name that it has deleted.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidestep.commitlog.lease import FOLDER as HEARTBEATS
from sidestep.commitlog.lease import Heartbeat, Lease, Watch, generation_of
from sidestep.commitlog.leftovers import CHECKPOINTS, clear_unfinished, delete_unkept
from sidestep.commitlog.log import LOST, CommitLog, FileEntry, Record, file_digest, record_path
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import AgainError, BadDataError, SideStepError, TakenError

log = logging.getLogger(__name__)


class Writer:
    """The right to add to a commit log, for as long as nobody else takes it.

    As a context manager it gives signs of life in the background, and signs off at the end.

    Attributes:
        generation: how many writers this output has had, with this one.
        newest: the newest commit, this writer's or an earlier one's; None before the first.
        published: the folder of the checkpoint that adapter/ was made from, where `publish` has; see Record.
        machines: the kinds of machines that have written to this output, in their order.
        heartbeat: this writer's sign of life.
    """

    def __init__(
        self, commits: CommitLog, taken: Record, newest: Record | None, lease: Lease, published: str = ""
    ) -> None:
        self.commits, self.generation, self._nonce = commits, taken.generation, taken.nonce
        self.newest, self.machines, self.published = newest, taken.machines, published
        self._number = taken.number
        self._deleted: set[str] = set()  # folders
        self.heartbeat = Heartbeat(commits.store, self.generation, lease, self._is_last)

    def __enter__(self) -> Self:
        self.heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def position(self) -> tuple[int, str]:
        """The number of the last record that this writer knows of and made, and its nonce."""
        return self._number, self._nonce

    def add_machine(self, machine: dict[str, Any]) -> None:
        """From the next record on, it has written to this output, too."""
        if machine not in self.machines:
            self.machines = [*self.machines, machine]

    def check(self) -> None:
        """Raise TakenError where the heartbeat found out that another writer has taken over."""
        if self.heartbeat.lost.is_set():
            raise self._fenced()

    def check_now(self) -> None:
        """Raise TakenError where another writer has taken over, by the log as it is at this moment.

        Asked before files are written or deleted that writers have under the same names: the adapter, the
        curves, the receipt. A pause between this and the write is not covered.
        """
        if self._is_last():
            return
        raise self._fenced()

    def checkpoints(self, name: str) -> list[str]:
        """Return the folders that checkpoints will have once `name` is committed, the newest first."""
        target = f"{CHECKPOINTS}/{name}" + (f".g{self.generation}" if self.generation > 1 else "")
        return [target, *(kept for kept in (self.newest.kept if self.newest else []) if kept != target)]

    def commit(
        self,
        folder: Path,
        name: str,
        step: int,
        kept: Sequence[str],
        origin: str = "",
        files: Mapping[str, FileEntry] | None = None,
    ) -> Record:
        """Make the files in the local `folder` the newest checkpoint, called `name` ("checkpoint-epoch-5").

        Files go first, into a folder that no other generation writes to; then the record that makes them
        count; then checkpoints that are no longer kept are deleted. Once sent, the files are compared with
        their digests: the local disk is not safe, and no record may name what was not meant.

        Args:
            kept: those of `checkpoints(name)` that are to stay, besides the one that is published.
            origin: sha256 of the state that --resume-from gave this run; without one, the last commit's.
            files: what the checkpoint consists of, each with its `file_digest`; without it, what `folder`
                holds now.

        Returns:
            The record. After a StorageError the same commit may be made again, or a newer one.

        Raises:
            TakenError: another writer has taken over. Nothing of this commit counts.
            MissingInputError: a file in `folder` is gone. Nothing of this commit counts.
            BadDataError: a file in `folder` has changed, or may not be read as one. The same.
            StorageError: the store is out of reach. The record may be there all the same.
        """
        self._catch_up()
        target = self.checkpoints(name)[0]
        assert target not in self._deleted, f"{target} may still be deleted by a request on its way"
        digests = _digests(folder, sorted(path.name for path in folder.iterdir())) if files is None else files
        if self.newest and (self.newest.folder, self.newest.files) == (target, digests):
            committed = self.newest  # by an earlier try, of which only the answer was lost
        else:
            for file in digests:
                self.commits.store.upload(folder / file, f"{target}/{file}")
            if _digests(folder, digests) != digests:
                raise BadDataError(f"{folder} was changed while it was sent")
            committed = self._append(
                Record(
                    kind="commit",
                    generation=self.generation,
                    nonce=self._nonce,
                    folder=target,
                    step=step,
                    files=dict(digests),
                    # As asked for, also where a commit has turned out to be in the log meanwhile.
                    kept=[
                        *kept,
                        *(at for at in self.checkpoints(name) if at == self.published and at not in kept),
                    ],
                    origin=origin or (self.newest.origin if self.newest else ""),
                    machines=self.machines,
                    published=self.published,
                )
            )
        self.newest = committed
        self._delete_all_but(committed.kept)
        return committed

    def finish(self, published: str = "") -> Record:
        """Record that the run is done with its newest commit, and return the record. Raises as `commit`.

        Args:
            published: the folder of the checkpoint that adapter/ is made from, one that is kept; by default
                that of the newest commit.
        """
        assert self.newest, "a run ends with a commit"
        assert published in ("", *self.newest.kept), f"{published} may be deleted at any time"
        self.published = "" if published == self.newest.folder else published
        record = replace(self.newest, kind="done", generation=self.generation, nonce=self._nonce)
        return self._append(replace(record, machines=self.machines, published=self.published))

    def publish(self, commit: Record) -> Record:
        """Record that adapter/ is what `commit` has, one that the newest commit keeps; return the record.

        It has no files, so nobody goes on from it; what is kept stays as it is. Raises as `commit`.
        """
        if not self.newest or commit.folder not in self.newest.kept:  # it may be deleted at any time
            raise AgainError(
                f"the log of {self.commits.store.place} has just lost the record of {commit.folder}\n"
                "  run the same command again"
            )
        made = self._append(
            Record(
                kind="publish",
                generation=self.generation,
                nonce=self._nonce,
                folder=commit.folder,
                step=commit.step,
                kept=self.newest.kept,
                machines=self.machines,
            )
        )
        self.published = commit.folder
        return made

    def release(self) -> None:
        """Say that this writer has ended, so that the next one need not wait for its lease."""
        try:
            self.heartbeat.release()
        except SideStepError as error:
            log.warning(
                "The next run will wait for this one's lease, as its end could not be told: %s", error
            )

    def _append(self, record: Record) -> Record:
        while True:
            there = _created(self.commits, replace(record, number=self._number + 1))
            if there.nonce != self._nonce:
                raise self._fenced()
            self._note(there)
            if there.content() == replace(record, number=there.number).content():
                return there

    def _catch_up(self) -> None:
        """Learn of the records of this writer whose answers were lost. Raises TakenError where another has
        taken over."""
        for there in self._following():
            if there.nonce != self._nonce:
                raise self._fenced()
            self._note(there)

    def _note(self, there: Record) -> None:
        """The log has got to this record, which is this writer's: an earlier try, given up for lost, had got
        through; or it stands in for one that nobody has completed."""
        self._number = there.number
        if there.files:
            self.newest = there

    def _is_last(self) -> bool:
        """Whether nobody else has added to the log. Asked by the heartbeat's thread, too."""
        return all(there.nonce == self._nonce for there in self._following())

    def _following(self) -> Iterator[Record]:
        """The records after those that this writer knows of."""
        number = self._number + 1
        while self.commits.store.stat(record_path(number)):
            yield self.commits.at(number)
            number += 1

    def _fenced(self) -> TakenError:
        return TakenError(
            f"another run has taken {self.commits.store.place} over: this one stops\n"
            "  what it had committed is safe, and the other one has gone on from there"
        )

    def _delete_all_but(self, kept: Sequence[str]) -> None:
        delete_unkept(self.commits.store, kept, self.generation, self._is_last, self._deleted.add)


def take_over(
    commits: CommitLog, lease: Lease, watch: Watch | None, machine: dict[str, Any] | None
) -> Writer:
    """Become the writer of an output, after the one before has ended or lost its lease.

    Args:
        watch: the watch over the writer before, begun when this run began; None where there was none.
        machine: what kind of machine this is, and its versions, for the records; None: it trains nothing.

    Returns:
        The writer, which gives no further sign of life until it is entered as a context manager.

    Raises:
        TakenError: another writer is alive.
    """
    nonce, taken = uuid.uuid4().hex, LOST
    while True:
        tail = commits.tail(at_least=taken.number)
        if tail and (watch is None or watch.generation != tail.generation):
            watch = Watch(commits.store, tail.generation, lease)
        if watch:
            watch.wait()
        newest = commits.newest_commit(tail)
        machines = list(tail.machines) if tail else []
        machines += [machine] if machine is not None and machine not in machines else []
        wanted = Record(
            kind="take-over",
            generation=tail.generation + 1 if tail else 1,
            nonce=nonce,
            machines=machines,
            number=tail.number + 1 if tail else 1,
        )
        taken = _created(commits, wanted)
        if taken.nonce == nonce:
            _delete_old_heartbeats(commits, taken.generation)
            clear_unfinished(commits.store, taken.generation - 1)
            return Writer(commits, taken, newest, lease, commits.published(tail))


def _created(commits: CommitLog, record: Record) -> Record:
    """The record of that number: this one, unless another was there before, or something that is none.

    A request that is repeated after a network failure finds its own first try there: the nonce tells.
    """
    if commits.store.create(record_path(record.number), record.content()):
        return record
    return commits.at(record.number)


def _digests(folder: Path, files: Iterable[str]) -> dict[str, FileEntry]:
    with local_errors(folder):
        return {file: file_digest(folder / file) for file in files}


def _delete_old_heartbeats(commits: CommitLog, generation: int) -> None:
    """However late, it is of a writer that has been taken over: each has a heartbeat of its own."""
    try:
        for file in commits.store.list_files(HEARTBEATS):
            if 0 < generation_of(file.path) < generation:
                commits.store.delete(file.path)
    except SideStepError as error:
        log.warning("An older heartbeat could not be deleted: %s", error)
