"""The signals that ask the command's process to end, wherever no job has taken them (see `Preemption`).

Until the command begins, nothing is at stake: the process ends there and then. Later the first signal is
raised, so that what is temporary is cleared and a terminal is as it was. When the command has ended, a signal
only hurries the end. The code is 75, and Python's own traceback is never shown.
"""

import os
import signal
import sys
import time
from types import FrameType

ALWAYS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*ALWAYS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
ONE_NOTICE = 3.0  # seconds in which further signals belong to the first one
AGAIN = 75  # ExitCode.AGAIN: importing the table takes time in which a signal would find no handler
SECONDS = 5.0  # from the first signal until the process ends, whatever it is doing

_has_come = False
_first = float("-inf")  # when the first signal came


class Terminated(SystemExit):
    """A signal came that is not Ctrl-C's."""


def is_free(number: signal.Signals) -> bool:
    """Whether a signal may be taken as notice.

    Not one that is ignored since the start, as SIGHUP is below nohup, nor one that a host has a use for.
    SIGTERM and SIGINT always may: what follows an ignored SIGTERM is SIGKILL, and shells ignore SIGINT for
    whatever they start in the background.
    """
    handler = signal.getsignal(number)
    return number in ALWAYS or handler is signal.SIG_DFL or getattr(handler, "__module__", "") == __name__


def belongs_to(first: float, now: float, number: int) -> bool:
    """Whether a signal is one with that which came at `first`, by a monotonic clock in seconds.

    Schedulers, containers and launchers signal whole process groups and then each process, and a wrapper
    passes on what the group has got: one notice comes as several signals. The kernel repeats SIGXCPU each
    second until the hard limit, so that one is never a second word.
    """
    return now - first < ONE_NOTICE or number == signal.SIGXCPU


def end_at_once(code: int = AGAIN) -> None:
    """From now on a signal ends the process with `code`."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    _take(end)


def raise_them() -> None:
    """From now on the first signal raises Terminated, or KeyboardInterrupt where it is Ctrl-C's.

    Those within `ONE_NOTICE` seconds are one with it. A later one ends the process, a Ctrl-C raises again. A
    signal in a destructor ends the process, where Python would drop it and show a traceback.
    """
    shown = sys.unraisablehook

    def end_where_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt | Terminated):
            os._exit(AGAIN)
        shown(dropped)

    sys.unraisablehook = end_where_dropped
    _take(_raise)


def came() -> bool:
    """Whether a signal was raised since `forget`: a library may have made another error of it."""
    return _has_come


def forget() -> None:
    """Another command begins."""
    global _has_come, _first
    _has_come, _first = False, float("-inf")


def _take(handler: "signal._HANDLER") -> None:
    for number in filter(is_free, SIGNALS):
        signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    global _has_come, _first
    now = time.monotonic()
    if _has_come and belongs_to(_first, now, number):
        return
    if _has_come and number != signal.SIGINT:
        os._exit(AGAIN)
    _has_come, _first = True, now
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    from threading import Timer  # loaded long before; at the top it would lengthen the time without a handler

    clock = Timer(SECONDS, os._exit, [AGAIN])
    clock.daemon = True
    clock.start()
    raise Terminated(AGAIN)
