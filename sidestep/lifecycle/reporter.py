"""What an attempt at a job says of itself: status.json, its log in the output, its signs of life.

A job may take many attempts, on many machines. Each finds in the output's status.json what those before it
have spent, tells there every few seconds what it is doing, and leaves its log beside it. It says nothing
there while another attempt may be at work, nor after a later one has begun to.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sidestep.commitlog.lease import Lease, Watch
from sidestep.commitlog.log import Record
from sidestep.lifecycle.attempts import (
    Attempt,
    attempts_of,
    bound_reached,
    check_attempts,
    content_of,
    create_attempt,
    path_of,
    position,
    said_since,
    spent_by,
)
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.status import HEARTBEAT_SECONDS, Commit, Phase, Spent, Status, now
from sidestep.lifecycle.watching import Watching, ending, last_words
from sidestep.runtime import liveness
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError

log = logging.getLogger(__name__)


class Reporter:
    """Tells what this attempt does. Use it as a context manager around the job's tasks.

    Attributes:
        lease: how long this job's writer stays the writer without a sign of life.
        watch: over the last writer of the output, begun as this attempt began; None where there was none.
        before: what status.json said as this attempt began to tell.
        watching: whoever else hears of it.
        bound: the bound on hours or cost that the job has reached, for which it was told to end.
    """

    def __init__(
        self,
        job: Job,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        *,
        watching: Watching | None = None,
    ) -> None:
        self._job, self._heartbeat_seconds = job, heartbeat_seconds
        tail = None if job.shard else job.commits.tail()  # a shard's files are in no writer's way
        self.lease = Lease(job.spec.runtime.lease_seconds)
        self.watch = Watch(job.output_store, tail.generation, self.lease) if tail else None
        nothing = Status(
            name=job.spec.name, task=job.spec.task, attempt=0, heartbeat_seconds=heartbeat_seconds
        )
        self._is_damage_told = False
        self.before = self._read() or nothing
        self._status = nothing
        self._spent_before = Spent()
        self._others: dict[int, Attempt] = {}  # that were there before this one
        self._clock, self._since = clock, clock()
        self._seconds: dict[str, float] = {}  # by phase, of those that are over
        self._gpus = 0
        self._has_stepped = False
        self._lock = threading.Lock()
        self._is_told, self._told_failure = False, False
        self._number, self._attempt = 0, Attempt()  # 0: it is not counted yet
        self.bound = ""
        self.watching = watching or Watching(job.spec, job.preemption)
        self.watching.follow(self.status)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell_regularly, name="status", daemon=True)

    def __enter__(self) -> Self:
        liveness.begin(self._job.workspace.root, lambda: self.awaits_first_step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if not self._is_told:
            self.tell_end(error)
            return
        preemption = self._job.preemption
        self._thread.join(timeout=preemption.seconds_left() if preemption.requested else None)
        self.tell_end(error)

    def tell_end(self, error: BaseException | None) -> None:
        """Tell how this attempt ends, and send its log, where it has told anything."""
        state, exit_code = ending(error)
        self.watching.ended(error)  # first: a store may hang
        self._keep_attempt(exit_code)
        if not self._is_told:
            return
        if self._job.shard:
            self._look_beside()
        self.update(state=state, exit_code=exit_code)
        if error is not None:
            self.update(message=last_words(error))
        self.tell()
        try:
            self._job.output.send(self._job.output.logs)
        except SideStepError as failure:
            log.warning("The log could not be sent: %s", failure)

    @property
    def phase(self) -> Phase:
        """What is being done."""
        return self._status.phase

    @property
    def awaits_first_step(self) -> bool:
        """Whether this attempt trains and has not made a step yet."""
        return self.phase == "train" and not self._has_stepped

    def count(self) -> None:
        """Count this attempt, as it is known that there is something to do: it is a fact from now on.

        Raises SideStepError (70) where a bound of the job is reached already.
        """
        if self._number:
            return
        store, spec = self._job.output_store, self._job.spec
        others, before, at = attempts_of(store, self._job.shard), self.before, position(self._job)
        earlier = before.spent if not others and before.spent.attempts else None
        spent = spent_by(others, before.spent.steps_repeated) if others else before.spent
        check_attempts(spec, others, at, store.place)
        if reached := bound_reached(spec, spent):
            raise SideStepError(reached)
        first_free = max(*others, before.attempt, before.spent.attempts, 0) + 1
        own = Attempt(at=at, earlier=earlier)
        self._number, self._attempt = create_attempt(store, first_free, own, self._job.shard)
        self._others = others
        self._spent_before = spent.model_copy(update={"attempts": self._number})

    def begin(self, phase: Phase, gpus: int | None = None) -> None:
        """Something is done from now on. The first phase begins this attempt's log and its status.

        Args:
            gpus: how many GPUs this attempt uses, once that is known.
        """
        self.count()
        with self._lock:
            self._seconds, self._since = self._seconds_by_phase(), self._clock()
            self._gpus = self._gpus if gpus is None else gpus
            self._status = self._status.model_copy(update={"phase": phase})
        if not self._is_told and (self.watch is None or self.watch.is_free()):
            self.speak()

    def speak(self) -> None:
        """Tell from now on: this attempt is the one that works on the output."""
        if self._is_told:
            return
        self.before = before = self._read() or self.before
        self.count()
        self._look_beside()
        self.update(attempt=self._number, generation=max(self._status.generation, before.generation))
        self._job.output.begin_log(self._number)
        self._is_told = True  # not before: where no log can be begun, nothing is told
        self.watching.begun()
        self.tell()
        self._thread.start()

    def recall(self, spent: Spent) -> None:
        """status.json is gone or damaged; the receipt of the finished run still tells what was `spent`."""
        self.before = self.before.model_copy(
            update={"state": "done", "attempt": spent.attempts, "spent": spent}
        )

    def resumed_at(self, step: int) -> None:
        """The attempt goes on after `step`: what the one before had made beyond it is made again."""
        repeated = (self.before.step or 0) - step
        if self.before.state != "done" and repeated > 0:
            with self._lock:
                steps = self._spent_before.steps_repeated + repeated
                self._spent_before = self._spent_before.model_copy(update={"steps_repeated": steps})

    def committed(self, record: Record) -> None:
        """A checkpoint is safe."""
        self.watching.trackers.committed(record.step)
        self.update(last_commit=Commit(folder=record.folder, step=record.step, at=now()), message="")

    def update(self, **changes: Any) -> None:
        """What status.json will say next: fields of `Status`."""
        with self._lock:
            self._has_stepped = self._has_stepped or "step" in changes
            self._status = self._status.model_copy(update=changes)

    def status(self) -> Status:
        """What the attempt is doing, and what all have cost until now."""
        return self._status.model_copy(update=self._of_now())

    def spent(self) -> Spent:
        """What all attempts have cost until now."""
        before, seconds = self._spent_before, self._seconds_by_phase()
        totals = {phase: round(before.seconds.get(phase, 0) + own, 1) for phase, own in seconds.items()}
        gpu_seconds = round(before.gpu_seconds + self._gpus * sum(seconds.values()), 1)
        return before.model_copy(update={"seconds": before.seconds | totals, "gpu_seconds": gpu_seconds})

    def _of_now(self) -> dict[str, Any]:
        return {"spent": self.spent(), "gpus": self.watching.gpus.latest()}

    def _seconds_by_phase(self) -> dict[str, float]:
        """This attempt's, with those of the phase that it is in."""
        phase = self._status.phase
        running = self._seconds.get(phase, 0) + self._clock() - self._since
        return {**self._seconds, phase: running}

    def _look_beside(self) -> None:
        """Count no attempt as cut off that has ended well since this one was counted, as it waited for that
        one; nor any at a shard that goes on beside this one."""
        if not self._others:
            return
        try:
            newer = said_since(self._job.output_store, self._others, self._job.shard)
        except SideStepError as error:
            log.debug("The other attempts could not be looked at: %s", error)
            return
        at_it = [n for n, one in newer.items() if one.code is None] if self._job.shard else []
        with self._lock:
            repeated = self._spent_before.steps_repeated
            spent = spent_by({**self._others, **newer}, repeated, at_it)
            self._spent_before = spent.model_copy(update={"attempts": self._number})

    def tell(self) -> None:
        """Write status.json now, unless a later attempt has the word. A store that is gone stops nothing."""
        with self._lock:
            self._status = self._status.model_copy(update={"heartbeat": now(), **self._of_now()})
            status = self._status
        self._keep_attempt()
        try:
            there = self._read()
            if there and there.is_later_than(status):
                return
            self._job.output_store.write_bytes(
                self._job.status_file, json_bytes(status.model_dump(mode="json"))
            )
            self._told_failure = False
        except SideStepError as error:
            if not self._told_failure:
                log.warning(
                    "%s could not be written and will be tried again: %s", self._job.status_file, error
                )
            self._told_failure = True

    def _keep_attempt(self, code: int | None = None) -> None:
        """Write this attempt's own file: what it has cost until now, and how it ended."""
        if not self._number or self._attempt.code is not None:
            return
        seconds = {phase: round(own, 1) for phase, own in self._seconds_by_phase().items()}
        gpu_seconds = round(self._gpus * sum(seconds.values()), 1)
        changes: dict[str, Any] = {"phase": self.phase, "gpus": self._gpus, "seconds": seconds, "code": code}
        changes |= {"gpu_seconds": gpu_seconds, "heartbeat": now()}
        self._attempt = self._attempt.model_copy(update=changes)
        path = path_of(self._number, self._job.shard)
        try:
            self._job.output_store.write_bytes(path, content_of(self._attempt))
        except SideStepError as error:
            log.debug("%s could not be written: %s", path, error)

    def _read(self) -> Status | None:
        """What status.json says; None where there is none, or none that can be read, which is said once."""
        store, file = self._job.output_store, self._job.status_file
        try:
            return Status.read(store.read_small(file), f"{store.place}/{file}")
        except MissingInputError:
            return None
        except BadDataError as error:
            if not self._is_damage_told:
                log.warning("%s; it is started again", error)
            self._is_damage_told = True
            return None

    def _tell_regularly(self) -> None:
        first_beats = iter(range(3))  # whoever goes on beside this one has said something by then
        while not self._end.wait(self._heartbeat_seconds):
            if self._job.shard and next(first_beats, None) is not None:
                self._look_beside()
            self.tell()
            if not self.bound and (reached := bound_reached(self._job.spec, self.spent())):
                self.bound = reached
                self._job.preemption.announce(reached.splitlines()[0], is_urgent=False)
