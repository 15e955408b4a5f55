"""When a run is saved, and how: a snapshot between two steps, sent to the output beside the training."""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sidestep.commitlog.log import Record
from sidestep.commitlog.writer import Writer
from sidestep.config.training import CheckpointSpec
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.runtime.canonical import Parts
from sidestep.runtime.errors import AgainError, StorageError
from sidestep.runtime.preemption import Preemption
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Group, Schedule
from sidestep.training.snapshot import Snapshot

log = logging.getLogger(__name__)

RETRY_SECONDS = 600.0  # for so long a store may be gone, unless a newer snapshot waits to be sent
SHARE_TO_END = 0.1  # of the time after notice: to sign off and tell the status, on a line that is still full
RETRY_PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0)


class CheckpointPolicy:
    """After which steps a run is saved, and which checkpoints stay."""

    def __init__(self, spec: CheckpointSpec, schedule: Schedule) -> None:
        self._spec, self._schedule = spec, schedule
        self._last = time.monotonic()

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
        minutes = (time.monotonic() - self._last) / 60
        by_step = spec.every_steps is not None and step % spec.every_steps == 0
        by_time = spec.every_minutes is not None and minutes >= spec.every_minutes
        return f"checkpoint-step-{step}" if is_last or by_step or by_time else None

    def saved(self) -> None:
        """The minutes to the next checkpoint begin now."""
        self._last = time.monotonic()

    def keep(self, folders: Sequence[str]) -> list[str]:
        """Of checkpoints' folders, the newest first, those that are to stay."""
        return [
            folder
            for place, folder in enumerate(folders)
            if place < self._spec.keep or self._is_kept_for_good(folder)
        ]

    def _is_kept_for_good(self, folder: str) -> bool:
        every, found = self._spec.keep_every_epochs, re.search(r"/checkpoint-epoch-(\d+)", folder)
        return every is not None and found is not None and int(found[1]) % every == 0


class Saver:
    """Commits snapshots in a thread of its own, one at a time.

    The training waits in two cases alone: while the state is copied, and where the snapshot before is
    still on its way.
    """

    def __init__(
        self,
        writer: Writer,
        outbox: PendingCheckpoints,
        snapshot: Snapshot,
        files: Callable[[], dict[str, Parts]],
        send_before: Callable[[], None],
        keep: Callable[[Sequence[str]], list[str]],
        committed: Callable[[Record], None],
        failed: Callable[[str], None],
        origin: str = "",
    ) -> None:
        """
        Args:
            files: makes the checkpoint's files from the snapshot.
            send_before: sends what must be there before the record: logs and TensorBoard's files.
            keep: chooses among the checkpoints' folders, see `CheckpointPolicy.keep`.
            committed: told of every record.
            failed: told why a checkpoint could not be sent, each time it is tried in vain.
            origin: see `Writer.commit`.
        """
        self._writer, self._outbox, self._snapshot = writer, outbox, snapshot
        self._files, self._send_before, self._keep = files, send_before, keep
        self._committed, self._failed, self._origin = committed, failed, origin
        self._thread: threading.Thread | None = None
        self._is_waited_for = threading.Event()  # a newer snapshot waits to be sent
        self._error: BaseException | None = None
        self._failure: StorageError | None = None  # why the newest snapshot could not be sent
        self._taken_step = -1  # of the newest snapshot
        self.saved_step = -1  # of the newest snapshot that is whole on this machine's disk

    def save(self, name: str, progress: Progress, preemption: Preemption) -> None:
        """Take a snapshot now, and commit it as checkpoint `name` in the background.

        Where notice comes while the snapshot before is on its way, this one does not wait for that to end.
        """
        self._is_waited_for.set()
        while not (self._is_idle() or preemption.requested):
            time.sleep(0.02)
        if not self._is_idle():
            self.save_in_time(name, progress, preemption)
            return
        self._is_waited_for.clear()
        self.check()
        self._take(progress)
        self._start(lambda: self._put_and_send(name, progress.step))

    def send(self, folder: Path, name: str, step: int) -> None:
        """Commit, in the background, a checkpoint that is whole on this machine's disk."""
        self._taken_step = self.saved_step = step
        self._start(lambda: self._send(folder, name, step))

    def save_in_time(self, name: str, progress: Progress, preemption: Preemption) -> None:
        """After notice: keep the state on this machine's disk first, then send as much as there is time for.

        A snapshot that is on its way goes first. A row of skipped steps is not saved: see `CheckpointPolicy`.
        """
        if progress.step > self._taken_step and progress.step > 0 and not progress.skipped_in_row:
            # The copy is in use until the snapshot before is on the disk.
            if not _until(lambda: self._error is not None or self.saved_step == self._taken_step, preemption):
                return
            self._take(progress)
            folder = self._put(name, progress.step)
            if not _until(self._is_idle, preemption):
                return
            self._start(lambda: self._send(folder, name, progress.step))
        _until(self._is_idle, preemption)
        self.check()

    def finish(self, preemption: Preemption) -> None:
        """Wait until the last snapshot is committed.

        Raises StorageError where it could not be sent, AgainError where notice came first.
        """
        if not _until(self._is_idle, preemption):
            raise AgainError(
                "stopped while the last checkpoint was sent: it waits in the workspace of this machine\n"
                "  the same command sends it, or makes its steps again on another machine"
            )
        self.check()
        if self._failure:
            raise StorageError(
                f"{self._failure}\n  all steps are made, but the last checkpoint could not be sent: it waits "
                "in the workspace of this machine, and the same command sends it"
            )

    def check(self) -> None:
        """Raise what ended the thread, but for passing faults of the store; AgainError where fenced."""
        self._writer.check()
        if self._error is not None:
            raise self._error

    def _take(self, progress: Progress) -> None:
        self._snapshot.take(progress)
        self._taken_step = progress.step

    def _put(self, name: str, step: int) -> Path:
        folder = self._outbox.put(name, step, self._files(), self._writer.position)
        self.saved_step = step
        return folder

    def _put_and_send(self, name: str, step: int) -> None:
        self._send(self._put(name, step), name, step)

    def _send(self, folder: Path, name: str, step: int) -> None:
        give_up, pauses = time.monotonic() + RETRY_SECONDS, list(RETRY_PAUSES)
        while True:
            try:
                self._send_before()
                kept = self._keep(self._writer.checkpoints(name))
                record = self._writer.commit(folder, name, step, kept, self._origin)
            except StorageError as error:
                self._failure = error
                self._failed(f"{name} could not be sent: {str(error).splitlines()[0]}")
                pause = pauses.pop(0) if len(pauses) > 1 else pauses[0]
                if self._is_waited_for.is_set() or time.monotonic() + pause > give_up:
                    log.warning("%s could not be sent, the one before it is safe: %s", name, error)
                    return
                log.warning("%s could not be sent, next try in %.0f s: %s", name, pause, error)
                self._is_waited_for.wait(pause)
            else:
                self._failure = None
                self._outbox.clear(folder)
                self._committed(record)
                log.info("Saved %s", record.folder)
                return

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised by check(), in the thread that trains
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def _is_idle(self) -> bool:
        return self._thread is None or not self._thread.is_alive()


def _until(is_so: Callable[[], bool], preemption: Preemption) -> bool:
    """Wait until something is so; False where the time after notice ends before."""
    while not is_so():
        if preemption.seconds_left() < SHARE_TO_END * preemption.grace_seconds:
            return False
        time.sleep(0.02)
    return True
