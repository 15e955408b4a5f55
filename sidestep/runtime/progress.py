"""How far something is: a bar on a terminal, a log line now and then everywhere else.

A program that runs a job may want it otherwise: `shown_by` gives it to a function of its own.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.filesize import decimal

from sidestep.runtime import tally
from sidestep.runtime.liveness import sign_of_life
from sidestep.runtime.logs import is_json
from sidestep.runtime.shown import shown
from sidestep.runtime.words import duration, one_or_many

if TYPE_CHECKING:
    from rich.live import Live

log = logging.getLogger("sidestep.progress")

LINE_EVERY = 10.0  # seconds between log lines
SHOW_EVERY = 0.5  # seconds between two calls of a function that shows it
RATE_OVER = 30.0  # seconds that the rate looks back, so that a slow start does not spoil the time left


@dataclass(frozen=True)
class Progress:
    """How far something is. As text it is the line that the command shows.

    Attributes:
        title: what is being done, such as "Training".
        state: "stopped" is an end before all of it was done.
        done: how much of it is done, in `unit`.
        total: how much there is to do; None where nobody knows.
        unit: the plural of what is counted, such as "songs" or "steps"; "B" for bytes.
        per_second: how much was done per second of late; 0 where that is not known yet.
        seconds_left: None where that is not known.
        note: free text beside the numbers, such as the loss.
        line: all of this for people.
    """

    title: str
    state: Literal["running", "done", "stopped"]
    done: float
    total: float | None
    unit: str
    per_second: float
    seconds_left: float | None
    note: str
    line: str

    def __str__(self) -> str:
        return shown(f"{self.title}: {self.line}")


Show = Callable[[Progress], object]
"""Called at the beginning and the end of each piece of work, and every `SHOW_EVERY` seconds between, from any
thread."""

_show: Show | None = None  # None: a bar or log lines


@contextmanager
def shown_by(show: Show | None) -> Iterator[None]:
    """While the block runs, progress goes to `show`, and to the log files; None: to a bar or the log."""
    global _show
    before, _show = _show, show
    try:
        yield
    finally:
        _show = before


class Bar:
    """Counts what is done. `advance` may be called from any thread."""

    def __init__(
        self, title: str, total: float | None, unit: str, done: float, level: int, clock: Callable[[], float]
    ) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._before, self._level, self._clock = done, level, clock
        self.note = ""
        self._started = self._last_line = self._last_shown = self._clock()
        self._recent = deque([(self._started, done)])
        self._lock = threading.Lock()

    def advance(self, n: float = 1, note: str | None = None) -> None:
        """`n` more units are done. `note` is free text beside the numbers, kept until the next one."""
        sign_of_life()
        if self.unit == "B":
            tally.add(tally.BYTES, int(n))
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
            show_is_due = now - self._last_shown >= SHOW_EVERY
            if show_is_due:
                self._last_shown = now
        if line_is_due:
            log.log(self._level, "%s: %s", self.title, self.status())
        if show_is_due and _show:
            _show(self.progress())

    def progress(self) -> Progress:
        """How far it is now."""
        with self._lock:
            (since, before), now, done, note = self._recent[0], self._clock(), self.done, self.note
        rate = (done - before) / (now - since) if now > since else 0.0
        parts = [self._amount(done)]
        if self.total is not None:
            share = f" ({done / self.total:.0%})" if self.total else ""
            parts = [f"{self._of_total(done)}{share}"]
        left = None
        if rate > 0:
            parts.append(self._rate(rate))
            if self.total is not None and done < self.total:
                left = (self.total - done) / rate
                parts.append(f"{duration(left)} left")
        line = ", ".join([*parts, note] if note else parts)
        return Progress(self.title, "running", done, self.total, self.unit, rate, left, note, line)

    def status(self) -> str:
        """What is done, of how much, how fast and for how long still; what is not known is not said."""
        return self.progress().line

    def end(self, ending: Literal["done", "stopped"]) -> Progress:
        """How it ended. What was left before its end, as a training is after notice, is not done."""
        if self.total is not None and self.done < self.total:
            ending = "stopped"
        line = self._summary(ending)
        return Progress(self.title, ending, self.done, self.total, self.unit, 0.0, None, self.note, line)

    def _summary(self, ending: str) -> str:
        elapsed, new = self._clock() - self._started, self.done - self._before
        done = self._amount(self.done) if self.total in (None, self.done) else self._of_total(self.done)
        now = f" ({self._amount(new)} now)" if self._before else ""
        rate = f", {self._rate(new / elapsed)}" if new and elapsed > 0 else ""
        note = f", {self.note}" if self.note else ""
        return f"{ending}, {done}{now} in {duration(elapsed)}{rate}{note}"

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
    "sidestep.progress" at INFO, every `LINE_EVERY` seconds and at the end. Within `shown_by` it goes to a
    function instead.
    """
    has_bar = _show is None and on_terminal()
    # Where it is shown otherwise, the lines are for the log files alone: on the screen they would repeat it.
    level = logging.DEBUG if has_bar or _show else logging.INFO
    bar = Bar(title, total, unit, done, level, clock)
    ending: Literal["done", "stopped"] = "stopped"
    if _show:
        _show(bar.progress())
    try:
        with _shown(bar) if has_bar else nullcontext():
            yield bar
        ending = "done"
    finally:
        ended = bar.end(ending)
        log.log(level, "%s: %s", ended.title, ended.line)
        if _show:
            _show(ended)


def on_terminal() -> bool:
    """Whether standard error is one, and not for lines of JSON alone."""
    return sys.stderr is not None and sys.stderr.isatty() and not is_json()


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
