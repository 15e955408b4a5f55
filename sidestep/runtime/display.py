"""Who shows how far a job is that a program runs: its terminal, its notebook, or a function of its own."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

from sidestep.runtime.progress import LINE_EVERY, Progress, Show, on_terminal

log = logging.getLogger(__name__)

Wanted = bool | Literal["auto"] | Show
"""`auto`: a bar on a terminal, a display in a notebook, and nothing anywhere else. True: a line now and then
there, on standard error. False: nothing. A function is called with each `Progress`."""

BAR, LINES = 24, 12  # characters of a bar in a notebook; lines of its display


def shower(wanted: Wanted) -> Show | None:
    """What `runtime.progress.shown_by` takes: a function, or None for the bar that the command has.

    Raises TypeError for what is not `Wanted`.
    """
    if callable(wanted):
        return _Careful(wanted)
    if wanted not in (True, False, "auto"):
        raise TypeError(f"progress is True, False, 'auto' or a function, not {wanted!r}")
    if wanted is False:
        return lambda progress: None
    if on_terminal():
        return None
    if _in_notebook():
        return _Careful(_Notebook())
    return _Careful(_Lines()) if wanted is True else None


class _Careful:
    """Calls a function from one thread at a time, and after it has failed no more: that ends no job."""

    def __init__(self, show: Show) -> None:
        self._show, self._lock, self._has_failed = show, threading.Lock(), False

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            if self._has_failed:
                return
            try:
                self._show(progress)
            except Exception as error:
                self._has_failed = True
                log.warning("progress is not shown any more, as showing it failed: %r", error, exc_info=True)


class _Lines:
    """A line every `LINE_EVERY` seconds, and one at each end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()

    def __call__(self, progress: Progress) -> None:
        if progress.state == "running" and self._clock() - self._last < LINE_EVERY:
            return
        self._last = self._clock()
        sys.stderr.write(f"{progress}\n")


class _Notebook:
    """One display for the whole job, which is written anew: its newest lines, one for each piece of work."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._display: Any = None

    def __call__(self, progress: Progress) -> None:
        if progress.title in self._lines and progress.state == "running" and not progress.done:
            del self._lines[progress.title]  # begun once more: it is the newest now
        self._lines[progress.title] = f"{_bar(progress)}{progress}"
        while len(self._lines) > LINES:
            del self._lines[next(iter(self._lines))]
        content = {"text/plain": "\n".join(self._lines.values())}
        if self._display is None:
            show = import_module("IPython.display").display  # a package that only notebooks have
            self._display = show(content, raw=True, display_id=True)
        else:
            self._display.update(content, raw=True)


def _bar(progress: Progress) -> str:
    if progress.state != "running" or not progress.total:
        return ""
    full = min(round(BAR * progress.done / progress.total), BAR)
    return f"{'█' * full}{'░' * (BAR - full)} "


def _in_notebook() -> bool:
    """Whether a kernel of IPython runs this, as Jupyter, VS Code and Colab have it."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
