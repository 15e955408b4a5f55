"""Notice that this machine is about to be taken away: SIGTERM, and Ctrl-C's SIGINT.

The first signal leaves `grace_seconds` to save and to end. Where nothing would be lost, it ends the work at
once, as KeyboardInterrupt; inside `held()` it only sets a flag, for a loop that ends its step and saves
first. A second signal, or the end of the time, ends the process there and then, whatever it is doing, be it
a long step, a slow upload or a library that waits: commits are safe at any moment.

Installed by the command before anything else, as a process that is PID 1 ignores signals without a handler.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from sidestep.runtime.errors import ExitCode

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RESERVE = 1.0  # seconds of the grace that are left to be gone


class Preemption:
    """Whether notice came, and how long is left. Use it as a context manager in the main thread."""

    def __init__(self, grace_seconds: float = 30) -> None:
        self.grace_seconds = grace_seconds
        self.came = threading.Event()
        self._deadline, self._is_held = 0.0, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.came.is_set():  # else a second signal still ends the process at once
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the first signal raises nothing: whoever holds it looks at `came`, saves, and ends."""
        before, self._is_held = self._is_held, True
        try:
            yield
        finally:
            self._is_held = before

    def seconds_left(self) -> float:
        """Until the process ends by itself; infinity where no notice came."""
        return self._deadline - time.monotonic() if self.came.is_set() else float("inf")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Nothing here takes a lock or a buffer, as the signal may have come while they were in use."""
        if self.came.is_set():
            os._exit(ExitCode.AGAIN)
        self._deadline = time.monotonic() + max(self.grace_seconds - RESERVE, 0)
        self.came.set()
        end = threading.Timer(self.seconds_left(), os._exit, [ExitCode.AGAIN])
        end.daemon = True
        end.start()
        threading.Thread(target=self._tell, args=[signal.Signals(number).name], daemon=True).start()
        if not self._is_held:
            raise KeyboardInterrupt

    def _tell(self, name: str) -> None:
        log.info("%s came: saving and ending within %g s", name, self.grace_seconds)
        time.sleep(max(self.seconds_left() - 0.5, 0))
        log.warning("The time is over: ending with what is saved")
