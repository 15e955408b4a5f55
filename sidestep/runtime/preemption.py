"""Notice that this machine is about to be taken away: SIGTERM, and Ctrl-C's SIGINT.

The first signal leaves the grace to save and to end. Where nothing would be lost, it ends the work at once,
as KeyboardInterrupt; while it is `deferred()`, it is only noted, for a loop that ends its step and saves
first. A second signal, or the end of the time, ends the process there and then, whatever it is doing, be it
a long step, a slow upload or a library that waits: commits are safe at any moment.

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

from sidestep.runtime.errors import ExitCode

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RESERVE = 1.0  # seconds of the grace that are left to be gone


class Preemption:
    """Whether notice came, and how long is left. Use it as a context manager in the main thread.

    `is_command`: the process is the command's own. After notice it ends with the job, and until it has, a
    second signal and the clock end it still.
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
        self._is_deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if self.requested and self._is_command:
            return
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

    def seconds_left(self) -> float:
        """Until the process ends by itself; infinity where no notice came."""
        return float("inf") if self._deadline is None else self._deadline - self._clock()

    def request(self, why: str = "notice") -> None:
        """Notice came: from now on the time runs, at whose end the process ends."""
        self._deadline = self._clock() + max(self._grace_seconds - RESERVE, 0)
        threading.Thread(target=self._end_in_time, daemon=True).start()
        threading.Thread(target=self._log, args=[why], daemon=True).start()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Nothing here takes a lock or a buffer, as the signal may have come while they were in use."""
        if self.requested:
            self._end_process(ExitCode.AGAIN)
        self._signal = signal.Signals(number)
        self.request(self._signal.name)
        if not self._is_deferred:
            raise KeyboardInterrupt

    def _end_in_time(self) -> None:
        if not self._over.wait(max(self.seconds_left(), 0)):
            self._end_process(ExitCode.AGAIN)

    def _log(self, why: str) -> None:
        log.info("%s came: saving and ending within %g s", why, self._grace_seconds)
        if not self._over.wait(max(self.seconds_left() - 0.5, 0)):
            log.warning("The time is over: ending with what is saved")
