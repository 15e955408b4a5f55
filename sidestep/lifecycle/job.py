"""One attempt at a job: where it works, what it says of itself while it does, and how it ended.

A job may take many attempts, on many machines. Each finds in the output's status.json what those before it
have spent, tells there every few seconds what it is doing, and leaves its log beside it. It says nothing
there while another attempt may be at work, nor after a later one has begun to.
"""

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from sidestep.commitlog.lease import Lease, Watch
from sidestep.commitlog.log import CommitLog, Record
from sidestep.config.job import JobSpec
from sidestep.lifecycle.output import Output
from sidestep.lifecycle.status import FILE, HEARTBEAT_SECONDS, Commit, Phase, Spent, Status, now
from sidestep.runtime import liveness
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import AgainError, BadDataError, ExitCode, MissingInputError, SideStepError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.workspace import open_workspace
from sidestep.storage.open import open_store

log = logging.getLogger(__name__)


class Attempt:
    """What every task of a job works with. Use it as a context manager.

    Attributes:
        spec, workspace, output, preemption: of this job.
        commits: the output's commit log.
        tail: its newest record as this attempt began.
        lease: how long its writer stays the writer without a sign of life.
        watch: over the last writer of the output, begun as this attempt began; None where there was none.
        status: what status.json says, or will say.
        gpus: how many GPUs this attempt has used, for the receipt.
    """

    def __init__(self, spec: JobSpec, preemption: Preemption) -> None:
        self.spec, self.preemption = spec, preemption
        preemption.set_grace(spec.runtime.grace_seconds)
        self.workspace = open_workspace(spec.runtime.workspace)
        self.output = Output(open_store(spec.output_place, spec.storage), self.workspace)
        self.commits = CommitLog(self.output.store)
        self.tail = tail = self.commits.tail()
        self.lease = Lease(spec.runtime.lease_seconds)
        self.watch = Watch(self.output.store, tail.generation, self.lease) if tail else None
        self.status = Status(name=spec.name, task=spec.task)
        self.before = read_status(self.output) or Status(name=spec.name, task=spec.task, attempt=0)
        self.gpus = 0
        self._phases: dict[str, float] = {}
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._is_told, self._told_failure = False, False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell_regularly, name="status", daemon=True)

    def __enter__(self) -> Self:
        liveness.begin(self.workspace.root)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if not self._is_told:
            return
        self._thread.join(timeout=self.preemption.seconds_left() if self.preemption.requested else None)
        self._close_phase()
        self.status.state, self.status.exit_code = _ending(error)
        if error is not None:
            self.status.message = str(error).splitlines()[0] if str(error) else "stopped by a signal"
        self._tell()
        self._send_log()

    def begin(self, phase: Phase) -> None:
        """Something is done from now on. The first phase of an attempt begins its log and its status."""
        self._close_phase()
        self.status.phase = phase
        if not self._is_told and (self.watch is None or self.watch.is_free()):
            self.speak()

    def speak(self) -> None:
        """Tell from now on: this attempt is the one that works on the output."""
        if self._is_told:
            return
        self._is_told = True
        self.before = read_status(self.output) or self.before
        ended_well = self.before.state in ("done", "failed")
        spent = self.before.spent.model_copy(deep=True)
        self.status.generation = max(self.status.generation, self.before.generation)
        spent.attempts = self.status.attempt = max(self.before.attempt, spent.attempts) + 1
        spent.preemptions += self.before.attempt > 0 and not ended_well
        self.before = self.before.model_copy(update={"spent": spent})
        self.output.begin_log(self.status.attempt)
        self._tell()
        self._thread.start()

    def became_writer(self, generation: int) -> None:
        """Nobody else is the writer of the output: what others say of it, who are not, is overwritten."""
        self.report(generation=generation)

    def resumed_at(self, step: int) -> None:
        """The attempt goes on after `step`: what the one before had made beyond it is made again."""
        if self.before.state != "done" and (self.before.step or 0) > step:
            self.before.spent.steps_repeated += (self.before.step or 0) - step

    def report(self, **changes: Any) -> None:
        """What status.json will say next: fields of `Status`."""
        with self._lock:
            self.status = self.status.model_copy(update=changes)

    def committed(self, record: Record) -> None:
        """A checkpoint is safe."""
        self.report(last_commit=Commit(folder=record.folder, step=record.step, at=now()), message="")

    def spent(self) -> Spent:
        """What all attempts have cost until now."""
        spent = self.before.spent.model_copy(deep=True)
        running = {**self._phases}
        running[self.status.phase] = running.get(self.status.phase, 0) + time.monotonic() - self._since
        for phase, seconds in running.items():
            spent.seconds[phase] = round(spent.seconds.get(phase, 0) + seconds, 1)
        spent.gpu_seconds = round(spent.gpu_seconds + self.gpus * sum(running.values()), 1)
        return spent

    def _close_phase(self) -> None:
        now_ = time.monotonic()
        phase = self.status.phase
        self._phases[phase] = self._phases.get(phase, 0) + now_ - self._since
        self._since = now_

    def _tell_regularly(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            self.status.heartbeat, self.status.spent = now(), self.spent()
            content = self.status.model_dump(mode="json")
        try:
            there = read_status(self.output)
            if there and there.is_later_than(self.status):
                return
            self.output.store.write_bytes(FILE, json_bytes(content))
            self._told_failure = False
        except SideStepError as error:
            if not self._told_failure:
                log.warning("%s could not be written, and is tried again: %s", FILE, error)
            self._told_failure = True

    def _send_log(self) -> None:
        try:
            self.output.send("logs")
        except SideStepError as error:
            log.warning("The log could not be sent: %s", error)


def read_status(output: Output) -> Status | None:
    """What the output's status.json says; None where there is none, or none that can be read."""
    try:
        return Status.read(output.store.read_bytes(FILE), f"{output.store.place}/{FILE}")
    except MissingInputError:
        return None
    except BadDataError as error:
        log.warning("%s; it is begun anew", error)
        return None


def _ending(error: BaseException | None) -> tuple[Any, int]:
    match error:
        case None:
            return "done", ExitCode.DONE
        case KeyboardInterrupt() | AgainError():
            return "preempted", ExitCode.AGAIN
        case SideStepError():
            return "failed", error.exit_code
        case _:
            return "failed", ExitCode.BUG
