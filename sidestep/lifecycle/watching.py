"""Whoever watches a job from elsewhere: all of them hear of it here, from its status.

Nothing here stops or slows a run: what may fail or hang does so in a thread of its own, behind a bounded
queue (`runtime.outbox`).
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from sidestep.config.job import JobSpec
from sidestep.lifecycle.notify import Event, News, news_of, outbox_to
from sidestep.lifecycle.status import Status
from sidestep.lifecycle.trackers import Trackers
from sidestep.runtime import jsonlines
from sidestep.runtime.errors import AgainError, BadSpecError, ExitCode, SideStepError, UsageError
from sidestep.runtime.gpus import GpuWatch
from sidestep.runtime.outbox import Outbox
from sidestep.runtime.preemption import RESERVE, Preemption
from sidestep.runtime.ranks import lost_rank
from sidestep.runtime.secrets import hide

if TYPE_CHECKING:
    from sidestep.lifecycle.prometheus import Prometheus

End = Literal["preempted", "failed", "done"]  # of the states, those that end an attempt

SECONDS_TO_SEND = 3.0  # what is left as the job ends


class Watching:
    """Around all that a job does, as it may end before there is a `Reporter`, whose status it reads.

    Outside its `with` block nobody is told anything.

    Attributes:
        gpus: how the job's GPUs are, for the status.
        trackers: get the curves of a training.
    """

    def __init__(self, spec: JobSpec, preemption: Preemption) -> None:
        self._spec, self._preemption = spec, preemption
        nothing = Status(name=spec.name, task=spec.task, attempt=0)
        self._read: Callable[[], Status] = lambda: nothing
        self._is_followed = False
        self._outboxes: list[Outbox[News]] = []
        self.trackers = Trackers()
        self._told: Event | None = None  # last
        self._end: dict[str, Any] = {}  # what the status says of it, once it is known
        self.gpus = GpuWatch(spec.runtime.device)
        self._prometheus: Prometheus | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        jsonlines.about(self._of_lines)
        self._outboxes = [outbox_to(url) for url in self._spec.runtime.webhook]
        self.trackers = Trackers(self._spec.runtime.trackers)
        self._preemption.listen(self._noticed)
        self.gpus.start()
        runtime = self._spec.runtime
        if runtime.metrics_port is not None or runtime.metrics_file is not None:
            from sidestep.lifecycle.prometheus import Prometheus

            given = runtime.price_per_hour, runtime.metrics_port, runtime.metrics_file
            self._prometheus = Prometheus(self._status, *given)
            self._prometheus.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What the log says after the job, such as how it ended, is still about it."""
        self.ended(error)
        self.close()

    def follow(self, read: Callable[[], Status]) -> None:
        """From now on `read` says what the job is doing."""
        self._read, self._is_followed = read, True

    def begun(self) -> None:
        """The attempt works on the output from now on."""
        self._tell("begin")

    def ended(self, error: BaseException | None) -> None:
        """The attempt ends by `error`; that it had nothing to do is told to nobody."""
        state, code = ending(error)
        self._end = {"state": state, "exit_code": code}
        self.trackers.ended(state, code)
        if state == "done":
            if self._told:
                self._tell("done", state=state, exit_code=code)
            return
        event: Event = "stalled" if code is ExitCode.STALLED else state
        self._tell(event, state=state, exit_code=code, message=last_words(error))

    def close(self) -> None:
        """Wait for what is still to be sent: a few seconds, and no longer than the grace allows.

        All are told to end before the first is waited for, so that one that hangs costs no other its time.
        """
        seconds = min(SECONDS_TO_SEND, self._preemption.seconds_left() - RESERVE)
        until = time.monotonic() + seconds
        self.gpus.stop()
        if self._prometheus:
            self._prometheus.end()
        for outbox in self._outboxes:
            outbox.end()
        self.trackers.end()
        for outbox in self._outboxes:
            outbox.close(until - time.monotonic())
        self._outboxes = []
        self.trackers.close(lambda: until - time.monotonic())
        if self._prometheus:
            self._prometheus.stop(until - time.monotonic())

    def _status(self) -> Status:
        return self._read().model_copy(update=self._end)

    def _noticed(self) -> None:
        """At once, as nobody knows whether there is time for it after the state is saved."""
        self._tell("preempted", state="preempted", exit_code=ExitCode.AGAIN, message="notice came")

    def _tell(self, event: Event, **changes: Any) -> None:
        with self._lock:
            if event == self._told:
                return
            self._told = event
        if self._outboxes:
            status = self._read().model_copy(update=changes)
            news = news_of(event, status, self._spec.output_place, self._spec.runtime.price_per_hour)
            for outbox in self._outboxes:
                outbox.put(news)

    def _of_lines(self) -> Mapping[str, Any]:
        status = self._read()
        return {
            "job": status.name,
            "attempt": status.attempt or None,
            "phase": status.phase if self._is_followed else None,
            "step": status.step,
            "loss": status.loss,
        }


def tell_of_end(spec: JobSpec, preemption: Preemption, error: BaseException) -> None:
    """The same for a job that has ended by `error` before all else, and whose `spec` may be known in part."""
    watching = Watching(spec, preemption).__enter__()
    watching.ended(error)
    watching.close()


def ending(error: BaseException | None) -> tuple[End, ExitCode]:
    """What an attempt's end is called, and the exit code that its process will have."""
    match error:
        case None:
            return "done", ExitCode.DONE
        case KeyboardInterrupt() | AgainError():
            return "preempted", ExitCode.AGAIN
        case SideStepError():
            return "failed", error.exit_code
        case _:
            return "failed", ExitCode.BUG


def last_words(error: BaseException | None) -> str:
    """What a status says of an attempt's end."""
    lines = hide(str(error or "")).splitlines()
    if not lines:
        return lost_rank(os.environ) or "stopped by a signal"
    is_heading = isinstance(error, BadSpecError | UsageError) or lines[0].endswith(":")
    if is_heading and len(lines) > 1:
        return f"{lines[0].removesuffix(':')}: {lines[1].strip()}"
    return lines[0]
