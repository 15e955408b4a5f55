"""SIGTERM and Ctrl-C for the command's process, wherever no job has taken them (see `Preemption`).

Until the command begins, nothing is at stake: the process ends there and then. Later the first signal is
raised, so that what is temporary is cleared and a terminal is as it was. When the command has ended, a signal
only hurries the end. The code is 75, and Python's own traceback is never shown.
"""

import os
import signal
import sys
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN = 75  # ExitCode.AGAIN: importing the table takes time in which a signal would find no handler
SECONDS = 5.0  # from SIGTERM until the process ends, whatever it is doing

_has_come = False


class Terminated(SystemExit):
    """SIGTERM came."""


def end_at_once(code: int = AGAIN) -> None:
    """From now on a signal ends the process with `code`."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(code))


def raise_them() -> None:
    """From now on SIGTERM raises Terminated, and Ctrl-C KeyboardInterrupt.

    A second SIGTERM ends the process. So does a signal in a destructor, where Python would drop it and show a
    traceback.
    """
    shown = sys.unraisablehook

    def end_where_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt | Terminated):
            os._exit(AGAIN)
        shown(dropped)

    sys.unraisablehook = end_where_dropped
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _interrupt)


def came() -> bool:
    """Whether a signal was raised since `forget`: a library may have made another error of it."""
    return _has_come


def forget() -> None:
    """Another command begins."""
    global _has_come
    _has_come = False


def _note() -> None:
    global _has_come
    _has_come = True


def _terminate(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(AGAIN))
    from threading import Timer  # loaded long before; at the top it would lengthen the time without a handler

    clock = Timer(SECONDS, os._exit, [AGAIN])
    clock.daemon = True
    clock.start()
    _note()
    raise Terminated(AGAIN)


def _interrupt(*_: object) -> NoReturn:
    _note()
    raise KeyboardInterrupt
