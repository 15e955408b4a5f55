"""One counter of progress, and a file whose modification time is its last change, for a container's probe.

Whatever makes progress gives a sign: bytes moved, songs encoded, micro-batches, evaluation draws, steps. A
process that hangs gives none, and its watchdog and its probe can tell. Whoever waits for another writer's
lease or for a store says so: that is no stall.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

FILE = "alive"  # in the workspace
EVERY_SECONDS = 5.0


def _nobody_knows() -> bool:
    """Whether a first step is awaited, where nobody has said: then what hangs is given the longer time."""
    return True


_file: Path | None = None
awaits_first_step: Callable[[], bool] = _nobody_knows
"""Whether a training is still to make its first step, for which kernels are compiled and tuned."""
_last = 0.0
_signs = 0
_last_at = 0.0
_waiting = 0
_lock = threading.Lock()


def begin(workspace: Path, awaits: Callable[[], bool] = _nobody_knows) -> None:
    """Give signs of life in this workspace from now on. `awaits` says what `awaits_first_step` is to say."""
    global _file, awaits_first_step
    _file, awaits_first_step = workspace / FILE, awaits
    sign_of_life(at_once=True)


def sign_of_life(at_once: bool = False) -> None:
    """Something has been done. Cheap enough for every block of bytes; from any thread."""
    global _file, _last, _last_at, _signs
    _signs += 1  # where two threads add at once, one may be lost: the count changes all the same
    now, _last_at = time.monotonic(), time.time()
    if _file is None or (now - _last < EVERY_SECONDS and not at_once):
        return
    _last = now
    try:
        _file.touch()
    except OSError as error:  # a probe may end the job for it, but work that goes well is not stopped here
        log.warning("%s cannot be written, and a probe will miss it: %s", _file, error.strerror)
        _file = None


def signs() -> int:
    """The counter: it changes with each sign of life."""
    return _signs


def last_sign() -> float | None:
    """When the last one was given, in seconds of Unix time; None where there was none yet."""
    return _last_at or None


@contextmanager
def waiting() -> Iterator[None]:
    """Inside, this thread waits for another writer's lease or for a store, within bounds of its own."""
    global _waiting
    with _lock:
        _waiting += 1
    try:
        yield
    finally:
        with _lock:
            _waiting -= 1


def is_waiting() -> bool:
    """Whether any thread does."""
    return _waiting > 0
