"""The one writer of an output: it takes the log over, adds commits to it, and learns when it is fenced.

Every record is created with the number after the last one that this writer knows. Where another writer
has taken over meanwhile, that number exists, and creating it fails: whoever was paused, cut off or given
up for lost can therefore harm nothing when it comes back.
"""

import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidestep.commitlog.lease import FOLDER as HEARTBEATS
from sidestep.commitlog.lease import Heartbeat, Watch, heartbeat_path
from sidestep.commitlog.log import CommitLog, Record, file_digest, record_path
from sidestep.runtime.errors import AgainError, SideStepError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/checkpoint-(epoch|step)-(?P<number>\d+)(\.g\d+)?")


class Writer:
    """The right to add to a commit log, for as long as nobody else takes it.

    Attributes:
        generation: how many writers this output has had, with this one.
        newest: the newest commit, this writer's or an earlier one's; None before the first.
        machines: the kinds of machines that have written to this output, in their order.
    """

    def __init__(self, log: CommitLog, taken: Record, newest: Record | None, lease_seconds: float) -> None:
        self.log, self.generation, self._nonce = log, taken.generation, taken.nonce
        self.newest, self.machines = newest, taken.machines
        self._number = taken.number
        self._heartbeat = Heartbeat(log.store, self.generation, lease_seconds, self._is_last)

    @property
    def position(self) -> tuple[int, str]:
        """The number of the last record that this writer knows of and made, and its nonce."""
        return self._number, self._nonce

    def check(self) -> None:
        """Raise AgainError where another writer has taken over: this one must stop."""
        if self._heartbeat.lost.is_set():
            raise self._fenced()

    def checkpoints(self, name: str) -> list[str]:
        """The folders of the output's checkpoints, the newest first, once `name` is committed."""
        target = f"{CHECKPOINTS}/{name}" + (f".g{self.generation}" if self.generation > 1 else "")
        return [target, *(kept for kept in (self.newest.kept if self.newest else []) if kept != target)]

    def commit(self, folder: Path, name: str, step: int, kept: Sequence[str], origin: str = "") -> Record:
        """Make the files in the local `folder` the newest checkpoint, called `name` ("checkpoint-epoch-5").

        Files go first, into a folder that no other generation writes to; then the record that makes them
        count; then checkpoints that are no longer kept are deleted.

        Args:
            kept: those of `checkpoints(name)` that are to stay.
            origin: sha256 of the state that --resume-from gave this run; without one, the last commit's.

        Raises AgainError where another writer has taken over, and what the store raises.
        """
        self._refuse_if_fenced()
        target = self.checkpoints(name)[0]
        files = sorted(path.name for path in folder.iterdir())
        digests = {file: file_digest(folder / file) for file in files}
        for file in files:
            self.log.store.upload(folder / file, f"{target}/{file}")
        self.newest = self._append(
            Record(
                *("commit", self.generation, self._nonce, target, step, digests),
                kept=list(kept),
                origin=origin or (self.newest.origin if self.newest else ""),
                machines=self.machines,
            )
        )
        self._delete_all_but(kept)
        return self.newest

    def finish(self) -> Record:
        """Say that the run is done with its newest commit."""
        assert self.newest, "a run ends with a commit"
        record = replace(self.newest, kind="done", generation=self.generation, nonce=self._nonce)
        return self._append(replace(record, machines=self.machines))

    def release(self) -> None:
        """Say that this writer has ended, so that the next one need not wait for its lease."""
        try:
            self._heartbeat.release()
        except SideStepError as error:
            log.warning(
                "The next run will wait for this one's lease, as its end could not be told: %s", error
            )

    def _append(self, record: Record) -> Record:
        while True:
            there = _created(self.log, replace(record, number=self._number + 1))
            if there.nonce != self._nonce:
                raise self._fenced()
            self._number += 1
            if there.content() == record.content():
                return there
            self.newest = there  # an earlier try, given up for lost, had got through

    def _refuse_if_fenced(self) -> None:
        if not self._is_last():
            raise self._fenced()

    def _is_last(self) -> bool:
        """Whether nobody else has added to the log."""
        following = self._number + 1
        return (
            self.log.store.stat(record_path(following)) is None
            or self.log.read(following).nonce == self._nonce
        )

    def _fenced(self) -> AgainError:
        return AgainError(
            f"another run has taken {self.log.store.place} over: this one stops\n"
            "  what it had committed is safe, and the other one has gone on from there"
        )

    def _delete_all_but(self, kept: Sequence[str]) -> None:
        """Delete checkpoints that no commit needs: older ones, and those whose writer was lost before its
        record. What fails now is deleted after the next commit."""
        store = self.log.store
        try:
            for file in store.list_files(CHECKPOINTS):
                folder = file.path.rpartition("/")[0]
                if folder not in kept and _CHECKPOINT.fullmatch(folder):
                    store.delete(file.path)
        except SideStepError as error:
            log.warning("An older checkpoint could not be deleted, and is kept for now: %s", error)


def take_over(
    log_: CommitLog,
    lease_seconds: float,
    watch: Watch | None,
    machine: dict[str, Any],
) -> Writer:
    """Become the writer of an output, after the one before has ended or lost its lease.

    Args:
        watch: the watch over the writer before, begun when this run began; None where there was none.
        machine: what kind of machine this is, and its versions, for the records.

    Raises AgainError where another writer is alive.
    """
    nonce = uuid.uuid4().hex
    while True:
        tail = log_.tail()
        if tail and (watch is None or watch.generation != tail.generation):
            watch = Watch(log_.store, tail.generation, lease_seconds)
        if watch:
            watch.wait()
        newest = log_.newest_commit(tail)
        number = tail.number + 1 if tail else 1
        machines = list(tail.machines) if tail else []
        machines += [machine] if machine not in machines else []
        generation = tail.generation + 1 if tail else 1
        taken = _created(log_, Record("take-over", generation, nonce, machines=machines, number=number))
        if taken.nonce == nonce:
            _delete_old_heartbeats(log_, taken.generation)
            return Writer(log_, taken, newest, lease_seconds)


def _created(log_: CommitLog, record: Record) -> Record:
    """The record of that number: this one, unless another was there before.

    A request that is repeated after a network failure finds its own first try there: the nonce tells.
    """
    if log_.store.create(record_path(record.number), record.content()):
        return record
    return log_.read(record.number)


def _delete_old_heartbeats(log_: CommitLog, generation: int) -> None:
    try:
        for file in log_.store.list_files(HEARTBEATS):
            if file.path < heartbeat_path(generation):
                log_.store.delete(file.path)
    except SideStepError as error:
        log.warning("An older heartbeat could not be deleted: %s", error)
