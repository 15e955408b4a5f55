"""How far something is: a bar on a terminal, a log line now and then everywhere else."""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.filesize import decimal

from sidestep.runtime.liveness import sign_of_life
from sidestep.runtime.shown import shown
from sidestep.runtime.words import duration, one_or_many

if TYPE_CHECKING:
    from rich.live import Live

log = logging.getLogger("sidestep.progress")

LINE_EVERY = 10.0  # seconds between log lines
RATE_OVER = 30.0  # seconds that the rate looks back, so that a slow start does not spoil the time left


class Bar:
    """Counts what is done. `advance` may be called from any thread."""

    def __init__(
        self, title: str, total: float | None, unit: str, done: float, level: int, clock: Callable[[], float]
    ) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._before, self._level, self._clock = done, level, clock
        self.note = ""
        self._started = self._last_line = self._clock()
        self._recent = deque([(self._started, done)])
        self._lock = threading.Lock()

    def advance(self, n: float = 1, note: str | None = None) -> None:
        """`n` more units are done. `note` is free text beside the numbers, kept until the next one."""
        sign_of_life()
        with self._lock:
            now = self._clock()
            self.done += n
            if note is not None:
                self.note = note
            if now - self._recent[-1][0] >= 0.5:  # bytes come in far too often to keep every count
                self._recent.append((now, self.done))
            # The sample before the window stays: the rate needs one point at least that far back.
            while len(self._recent) > 2 and self._recent[1][0] <= now - RATE_OVER:
                self._recent.popleft()
            line_is_due = now - self._last_line >= LINE_EVERY
            if line_is_due:
                self._last_line = now
        if line_is_due:
            log.log(self._level, "%s: %s", self.title, self.status())

    def status(self) -> str:
        """What is done, of how much, how fast and for how long still; what is not known is not said."""
        with self._lock:
            (since, before), now, done, note = self._recent[0], self._clock(), self.done, self.note
        rate = (done - before) / (now - since) if now > since else 0.0
        parts = [self._amount(done)]
        if self.total is not None:
            share = f" ({done / self.total:.0%})" if self.total else ""
            parts = [f"{self._of_total(done)}{share}"]
        if rate > 0:
            parts.append(self._rate(rate))
            if self.total is not None and done < self.total:
                parts.append(f"{duration((self.total - done) / rate)} left")
        return ", ".join([*parts, note] if note else parts)

    def summary(self, ending: str) -> str:
        """The last line: what was done in which time, and how it ended ("done" or "stopped").

        What was left before its end, as a training is after notice, is not done.
        """
        if self.total is not None and self.done < self.total:
            ending = "stopped"
        elapsed, new = self._clock() - self._started, self.done - self._before
        done = self._amount(self.done) if self.total in (None, self.done) else self._of_total(self.done)
        now = f" ({self._amount(new)} now)" if self._before else ""
        rate = f", {self._rate(new / elapsed)}" if new and elapsed > 0 else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.title}: {ending}, {done}{now} in {duration(elapsed)}{rate}{note}"

    def _of_total(self, done: float) -> str:
        """`10 of 40 songs`, `1.2 GB of 4.6 GB`."""
        number = self._amount(done) if self.unit == "B" else self._number(done)
        return f"{number} of {self._amount(self.total or 0)}"

    def _rate(self, per_second: float) -> str:
        return f"{self._amount(per_second)}/s" if per_second >= 0.1 else f"{1 / per_second:.0f} s each"

    def _amount(self, n: float) -> str:
        if self.unit == "B":
            return decimal(int(n))
        number = self._number(n)
        return f"{number} {one_or_many(float(number), self.unit)}"

    @staticmethod
    def _number(n: float) -> str:
        return f"{n:.0f}" if n >= 10 or n == int(n) else f"{n:.1f}"


@contextmanager
def track(
    title: str,
    total: float | None,
    unit: str,
    done: float = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
    """Shows progress while the block runs.

    Args:
        title: what is being done, such as "Pulling songs".
        total: how many units there are; None when nobody knows, and then no time left is claimed.
        unit: the plural of what is counted: "songs", "steps"; "B" for bytes, shown as kB, MB, GB.
        done: how many an earlier run has done: they count in the share, not in the rate.

    On a terminal (standard error) it is a bar. Otherwise it is a line through the logger
    "sidestep.progress" at INFO, every `LINE_EVERY` seconds and at the end.
    """
    on_terminal = sys.stderr.isatty()
    # Beside a bar the lines are for the log file alone: on the screen they would repeat it.
    level = logging.DEBUG if on_terminal else logging.INFO
    bar = Bar(title, total, unit, done, level, clock)
    ending = "stopped"
    try:
        with _shown(bar) if on_terminal else nullcontext():
            yield bar
        ending = "done"
    finally:
        log.log(level, "%s", bar.summary(ending))


def _shown(bar: Bar) -> "Live":
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def row() -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_row(
            Text(shown(bar.title)),
            ProgressBar(bar.total, bar.done, width=30),
            Text(shown(bar.status())),
        )
        return table

    return Live(get_renderable=row, console=Console(stderr=True), refresh_per_second=4)
