"""Steps or samples per second."""

import time
from collections.abc import Callable


class Throughput:
    """Counts what is done, samples or steps, and says how many a second that is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = self._last_asked = clock()
        self._total = self._recent = 0

    def add(self, count: int) -> None:
        self._total += count
        self._recent += count

    def leave_out(self, seconds: float) -> None:
        """So many of the seconds until now were spent on something else."""
        self._begun += seconds
        self._last_asked += seconds

    def average(self) -> float:
        """The rate since the beginning."""
        return self._total / max(self._clock() - self._begun, 1e-9)

    def recent(self) -> float:
        """The rate since this was last called, or since the beginning."""
        now = self._clock()
        rate = self._recent / max(now - self._last_asked, 1e-9)
        self._last_asked, self._recent = now, 0
        return rate
