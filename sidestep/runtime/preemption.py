"""Notice that this machine is about to be taken away: SIGTERM, Ctrl-C, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU.

The first signal leaves the grace to save and to end. Where nothing would be lost, it ends the work at once,
as KeyboardInterrupt; while it is `deferred()`, it is only noted, for a loop that ends its step and saves
first. Signals that follow within three seconds are one with it, also a second Ctrl-C, as nobody can tell a
key from a wrapper that passes signals on. A later one, or the end of the time, ends the process there and
then, whatever it is doing, be it a long step, a slow upload or a library that waits: commits are safe at any
moment.

Installed by the command before anything else, as a process that is PID 1 ignores signals without a handler.
A program or notebook that runs a job lives on after it: there the handlers are given back and the clock is
stopped once the job has ended.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from sidestep.runtime import interrupts
from sidestep.runtime.errors import ExitCode
from sidestep.runtime.ranks import lost_rank

log = logging.getLogger(__name__)

RESERVE = 1.0  # seconds of the grace that are left to be gone
UNHURRIED = 24 * 3600.0
SECONDS_TO_WAKE = 1.0  # the main thread, if it is to hear of what came by no signal


class Preemption:
    """Whether notice came, and how long is left. Use it as a context manager in the main thread.

    `is_command`: the process is the command's own. After notice it ends with the job, and until it has, a
    later signal and the clock end it still.
    """

    def __init__(
        self,
        grace_seconds: float = 30,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[int], object] = os._exit,
        is_command: bool = False,
    ) -> None:
        self._grace_seconds, self._clock, self._end_process = grace_seconds, clock, end_process
        self._is_command, self._over = is_command, threading.Event()
        self._deadline: float | None = None
        self._signal: signal.Signals | None = None
        self._signalled_at: float | None = None
        self._announced: tuple[str, float, bool] | None = None  # what the main thread is to hear of
        self._giving_back = threading.Lock()
        self._is_deferred = False
        self._before: dict[signal.Signals, Any] = {}
        self._listeners: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            free = filter(interrupts.is_free, interrupts.SIGNALS)
            self._before = {number: signal.signal(number, self._receive) for number in free}
        return self

    def __exit__(self, *_: object) -> None:
        if self.requested and self._is_command:
            return
        with self._giving_back:
            self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether notice came."""
        return self._deadline is not None

    @property
    def is_interrupt(self) -> bool:
        """Whether notice came by Ctrl-C."""
        return self._signal is signal.SIGINT

    @property
    def grace_seconds(self) -> float:
        """How long the machine stays after notice."""
        return self._grace_seconds

    def set_grace(self, seconds: float) -> None:
        """How long the machine stays after notice: its spec says it, which is read after the first signal
        may come."""
        self._grace_seconds = seconds

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal raises nothing: whoever defers it asks `requested`, saves, and ends."""
        before, self._is_deferred = self._is_deferred, True
        try:
            yield
        finally:
            self._is_deferred = before

    def listen(self, hear: Callable[[], object]) -> None:
        """Call `hear`, in a thread of its own, once notice comes of a machine that goes."""
        self._listeners.append(hear)

    def seconds_left(self) -> float:
        """Until the process ends by itself; infinity where no notice came."""
        return float("inf") if self._deadline is None else self._deadline - self._clock()

    def request(self, why: str = "notice", seconds: float = float("inf"), *, is_urgent: bool = True) -> None:
        """Notice came: from now on the time runs, at whose end the process ends.

        It is the grace, or the `seconds` until the machine goes where these are known to be fewer; where it
        is not urgent, as the machine stays, it is a day. To be told once more leaves no more time.
        """
        time_left = max(min(self._grace_seconds, seconds) - RESERVE, 0) if is_urgent else UNHURRIED
        deadline = self._clock() + time_left
        if self._deadline is not None:
            self._deadline = min(self._deadline, deadline)
            return
        self._deadline = deadline
        threading.Thread(target=self._end_in_time, daemon=True).start()
        threading.Thread(target=self._log, args=[why, is_urgent], daemon=True).start()

    def announce(self, why: str, seconds: float = float("inf"), *, is_urgent: bool = True) -> None:
        """The same, from another thread: what is not deferred ends at once, as after a signal."""
        with self._giving_back:
            if self._over.is_set():
                return
            if self._before and not (self.requested or self._is_deferred):
                self._announced = why, seconds, is_urgent
                main = threading.main_thread().ident
                assert main is not None
                signal.pthread_kill(main, signal.SIGTERM)  # wakes it, whatever it waits for
        until = time.monotonic() + SECONDS_TO_WAKE
        while self._announced and time.monotonic() < until:
            time.sleep(0.01)
        self.request(
            why, seconds, is_urgent=is_urgent
        )  # also where the main thread does not come to hear of it

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Nothing here takes a lock or a buffer, as the signal may have come while they were in use."""
        now = self._clock()
        if self._announced and number == signal.SIGTERM:
            (why, seconds, is_urgent), self._announced = self._announced, None
            self.request(why, seconds, is_urgent=is_urgent)
            if not self._is_deferred:
                raise KeyboardInterrupt
            return
        if self._signalled_at is not None:
            if not interrupts.belongs_to(self._signalled_at, now, number):
                self._end_process(ExitCode.AGAIN)
            return
        self._signalled_at, self._signal = now, signal.Signals(number)
        self.request(self._signal.name)
        if not self._is_deferred:
            raise KeyboardInterrupt

    def _end_in_time(self) -> None:
        while (left := self.seconds_left()) > 0:
            if self._over.wait(min(left, 1.0)):  # a later word may leave less
                return
        self._end_process(ExitCode.AGAIN)

    def _log(self, why: str, is_urgent: bool) -> None:
        if cause := lost_rank(os.environ):
            log.info("%s came from the launcher, as %s", why, cause)
        else:
            for hear in self._listeners if is_urgent else []:
                hear()
            log.info(
                "%s came: saving and ending within %.3g s; a signal after %g s ends it at once",
                *(why, self.seconds_left() + RESERVE, interrupts.ONE_NOTICE),
            )
        if not self._over.wait(max(self.seconds_left() - 0.5, 0)):
            log.warning("The time is over: ending with what is saved")
