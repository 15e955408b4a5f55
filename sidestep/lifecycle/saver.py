"""How a run is saved: a snapshot between two steps, sent to the output beside the training."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from sidestep.commitlog.log import Record
from sidestep.commitlog.writer import Writer
from sidestep.lifecycle.best import Best
from sidestep.lifecycle.events import EventsToSend
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.pending import Unsent
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.background import OneWorker
from sidestep.runtime.errors import AgainError, BadDataError, MissingInputError, StorageError
from sidestep.runtime.liveness import waiting
from sidestep.storage.retry import Retry
from sidestep.training.numbers import Progress
from sidestep.training.snapshot import Snapshot

log = logging.getLogger(__name__)

# How long a store may be gone, unless a newer snapshot waits to be sent, and this one is not the best.
# The store's own retries come before these.
RETRY = Retry(tries=1, seconds=600, first_pause=5, longest_pause=60, jitter=0)
SHARE_TO_END = 0.1  # of the time after notice: to sign off and tell the status, on a line that is still full
POLL_SECONDS = 0.02


class LostError(StorageError):
    """A checkpoint was damaged in the workspace before it was sent."""


@dataclass(frozen=True)
class _Taken:
    """A snapshot, as far as it says how it is committed."""

    name: str
    step: int
    is_best: bool = False  # it is not given up for a newer one
    ranked: tuple[int, ...] = ()  # the validated steps as of then, the best first


class Saver:
    """Commits snapshots in the background, one at a time.

    The training waits in two cases alone: while the state is copied, and where the snapshot before is
    still on its way. One that is given up for a newer one is no loss, but for the best: where that cannot be
    sent, the training ends, and the best waits on this machine's disk.

    Attributes:
        saved_step: of the newest snapshot that is whole on this machine's disk; -1 before the first.
    """

    def __init__(
        self,
        job: Job,
        reporter: Reporter,
        writer: Writer,
        snapshot: Snapshot,
        policy: CheckpointPolicy,
        events: EventsToSend,
        best: Best,
        retry: Retry = RETRY,
        origin: str = "",
    ) -> None:
        """
        Args:
            events: TensorBoard's files, which are sent before the record of their last step.
            best: knows which checkpoint stays as the best.
            origin: see `Writer.commit`.
        """
        self._job, self._reporter, self._writer, self._snapshot = job, reporter, writer, snapshot
        self._policy, self._events, self._best, self._origin = policy, events, best, origin
        self._hurry = threading.Event()  # a newer snapshot waits to be sent
        self._retry = replace(retry, sleep=self._hurry.wait)
        self._worker = OneWorker("checkpoint")
        self._on_the_way: list[Future[None]] = []
        self._failure: StorageError | None = None  # why the newest snapshot could not be sent
        self._taken = _Taken("", -1)  # the newest snapshot
        self.saved_step = -1

    def save(self, name: str, progress: Progress) -> None:
        """Take a snapshot now, and commit it as checkpoint `name` in the background.

        Where notice comes while the snapshot before is on its way, this one does not wait for that to end.
        """
        if not self._taken.is_best:
            self._hurry.set()
        with waiting():
            while not (self._is_idle() or self._job.preemption.requested):
                time.sleep(POLL_SECONDS)
        if self._is_idle():
            self._hurry.clear()
            self.check()
            taken = self._take(name, progress)
            self._on_the_way = [self._worker.submit(lambda: self._send(self._put(taken), taken))]
        else:
            self.save_in_time(name, progress)
        self._policy.saved()

    def send(self, unsent: Unsent, progress: Progress) -> None:
        """Commit, in the background, a checkpoint that is whole on this machine's disk, of this progress."""
        taken = self._taken = self._described(unsent.name, progress)
        self.saved_step = unsent.step
        self._on_the_way = [self._worker.submit(lambda: self._send(unsent.folder, taken))]

    def goes_on_from(self, step: int) -> None:
        """What was made up to `step` is committed already: until another one is made, nothing is to be saved.

        Else each attempt that makes none would commit it once more, and pass for one that comes further.
        """
        self._taken = replace(self._taken, step=step)

    def save_in_time(self, name: str, progress: Progress) -> None:
        """After notice: keep the state on this machine's disk first, then send as much as there is time for.

        A snapshot that is on its way goes first. A row of skipped steps is not saved: see `CheckpointPolicy`.
        Nor is anything behind the best one while that is on its way: the next attempt would go on from here,
        and the best would be lost. So it goes on from the best.
        """
        step = progress.step
        before = self._taken
        if step > before.step and step > 0 and not progress.skipped_in_row:
            if before.is_best:
                if not self._wait_until(self._is_idle):
                    return
                self.check()
            # The copy is in use until the snapshot before is on the disk.
            if not self._wait_until(lambda: self._is_idle() or self.saved_step == before.step):
                return
            taken = self._take(name, progress)
            folder = self._put(taken)
            if not self._wait_until(self._is_idle):
                return
            self._on_the_way.append(self._worker.submit(lambda: self._send(folder, taken)))
        self._wait_until(self._is_idle)
        self.check()

    def finish(self) -> None:
        """Wait until the last snapshot is committed.

        Raises StorageError where it could not be sent, AgainError where notice came first.
        """
        if not self._wait_until(self._is_idle):
            raise AgainError(
                "stopped while the last checkpoint was sent: it waits in the workspace of this machine\n"
                "  the same command sends it, or makes its steps again on another machine"
            )
        self.check()
        if isinstance(self._failure, LostError):
            raise self._failure
        if self._failure:
            raise StorageError(
                f"{self._failure}\n  all steps are made, but the last checkpoint could not be sent: it waits "
                "in the workspace of this machine, and the same command sends it"
            )

    def check(self) -> None:
        """Raise what ended the work in the background, but for passing faults of the store; TakenError
        where another writer has taken over."""
        self._writer.check()
        for way in self._on_the_way:
            if way.done():
                way.result()

    def _take(self, name: str, progress: Progress) -> _Taken:
        self._snapshot.take(progress)
        self._taken = self._described(name, progress)
        return self._taken

    def _described(self, name: str, progress: Progress) -> _Taken:
        best = self._best
        return _Taken(name, progress.step, best.wins(progress), tuple(best.ranked(progress)))

    def _put(self, taken: _Taken) -> Path:
        files = self._snapshot.files()
        folder = self._job.pending.put(taken.name, taken.step, files, self._writer.position)
        self.saved_step = taken.step
        return folder

    def _send(self, folder: Path, taken: _Taken) -> None:
        name = taken.name
        try:
            record = self._retry.call(
                lambda: self._commit(folder, taken),
                may_pass=lambda error: isinstance(error, StorageError) and not self._hurry.is_set(),
                failed=lambda error, pause: log.warning(
                    "%s could not be sent, next try in %.0f s: %s", name, pause, error
                ),
            )
        except StorageError as error:
            if taken.is_best:
                raise StorageError(
                    f"{error}\n  {name}, which has the lowest held-out loss, could not be sent: it waits in "
                    "the workspace of this machine, and the same command sends it and goes on"
                ) from error
            log.warning("%s could not be sent, the one before it is safe: %s", name, error)
            return
        except (MissingInputError, BadDataError):  # the commit compares what it has sent
            if self._job.pending.is_whole(folder):
                raise
            self._lose(folder, name)
            if taken.is_best:
                raise LostError(str(self._failure)) from None
            return
        self._job.pending.clear(folder)
        self._reporter.committed(record)
        log.info("Saved %s", record.folder)

    def _lose(self, folder: Path, name: str) -> None:
        """What is damaged in the workspace is not sent, as it would count as what was trained."""
        self._failure = LostError(
            f"{folder} was damaged or deleted before it was sent: the same command makes its steps again"
        )
        log.warning("%s is lost, the one before it is safe: %s", name, self._failure)

    def _commit(self, folder: Path, taken: _Taken) -> Record:
        name, step = taken.name, taken.step
        try:
            self._events.send()
            there = self._writer.checkpoints(name)
            self._best.folders[step] = there[0]
            kept = self._policy.keep(there, self._best.folder(taken.ranked, there))
            files = self._job.pending.digests(folder)
            record = self._writer.commit(folder, name, step, kept, self._origin, files)
        except StorageError as error:
            self._failure = error
            self._reporter.update(message=f"{name} could not be sent: {str(error).splitlines()[0]}")
            raise
        self._failure = None
        return record

    def _is_idle(self) -> bool:
        return all(way.done() for way in self._on_the_way)

    def _wait_until(self, is_so: Callable[[], bool]) -> bool:
        """Wait until something is so; False where the time after notice ends before."""
        preemption = self._job.preemption
        with waiting():
            while not is_so():
                if preemption.seconds_left() < SHARE_TO_END * preemption.grace_seconds:
                    return False
                time.sleep(POLL_SECONDS)
        return True
