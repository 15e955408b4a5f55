"""A file whose modification time is the last sign of progress, for a container's health probe.

Whatever counts progress gives the signs: bytes pulled, songs encoded, steps taken. A process that hangs
gives none, and its probe can tell.
"""

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)

FILE = "alive"  # in the workspace
EVERY_SECONDS = 5.0

_file: Path | None = None
_last = 0.0


def begin(workspace: Path) -> None:
    """Give signs of life in this workspace from now on."""
    global _file
    _file = workspace / FILE
    sign_of_life(at_once=True)


def sign_of_life(at_once: bool = False) -> None:
    """Something has been done. Cheap enough for every block of bytes; from any thread."""
    global _file, _last
    now = time.monotonic()
    if _file is None or (now - _last < EVERY_SECONDS and not at_once):
        return
    _last = now
    try:
        _file.touch()
    except OSError as error:  # a probe may end the job for it, but work that goes well is not stopped here
        log.warning("%s cannot be written, and a probe will miss it: %s", _file, error.strerror)
        _file = None
