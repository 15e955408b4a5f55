"""Ends an attempt that hangs: a machine on which nothing advances is paid for all the same."""

import faulthandler
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime import liveness
from sidestep.runtime.errors import StalledError
from sidestep.runtime.words import duration

log = logging.getLogger(__name__)

LOOKS_EVERY = 1.0  # seconds
SECONDS_TO_TELL = 30.0  # at the most: what hangs may be the store

End = Callable[[StalledError], object]
"""Ends the process; called in the watchdog's thread, as the main one hangs."""


class Watchdog:
    """Watches the counter of `runtime.liveness` while its `with` block runs.

    Time counts only while this process runs: one that was paused, or whose machine slept, has not stalled.
    """

    def __init__(
        self,
        reporter: Reporter,
        stall_minutes: float | None,
        first_step_minutes: float | None,
        end: End,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            stall_minutes: how long nothing may advance; None: for ever.
            first_step_minutes: the same until a training has made its first step, for which kernels are
                compiled and tuned.
        """
        self._reporter, self._end, self._clock = reporter, end, clock
        self._stall_minutes, self._first_step_minutes = stall_minutes, first_step_minutes
        self._looked, self._signs, self._still = clock(), liveness.signs(), 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()

    def look(self) -> StalledError | None:
        """Look once; the error where nothing has advanced for too long."""
        now, signs = self._clock(), liveness.signs()
        passed, self._looked = min(now - self._looked, 2 * LOOKS_EVERY), now
        if signs != self._signs or liveness.is_waiting():
            self._signs, self._still = signs, 0.0
            return None
        self._still += passed
        setting, minutes = self._bound()
        if minutes is None or self._still < 60 * minutes:
            return None
        return StalledError(
            f"{self._reporter.phase}: nothing has advanced for {duration(self._still)}: this attempt ends\n"
            f"  the log says where it hangs; runtime.{setting} ({minutes:g}) says how long is too long\n"
            "  the same command goes on from the newest checkpoint"
        )

    def _bound(self) -> tuple[str, float | None]:
        if self._reporter.awaits_first_step:
            return "first_step_minutes", self._first_step_minutes
        return "stall_minutes", self._stall_minutes

    def _run(self) -> None:
        while not self._is_over.wait(LOOKS_EVERY):
            if error := self.look():
                log.error("%s", error)
                log.info("Where its threads are:\n%s", _stacks())
                telling = threading.Thread(target=self._reporter.tell_end, args=[error], daemon=True)
                telling.start()
                telling.join(SECONDS_TO_TELL)
                self._reporter.watching.close()
                if not self._is_over.is_set():  # it has come to its end by itself
                    self._end(error)
                return


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
