"""What a failure of the local file system means for the user, and what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidestep.runtime.atomic import TEMPORARY
from sidestep.runtime.errors import (
    AccessError,
    BadSpecError,
    MachineError,
    MissingInputError,
    SideStepError,
    StorageError,
)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def local_errors(place: Path | str) -> Iterator[None]:
    """Raise failures of the local file system as errors for the user, with what to do."""
    try:
        yield
    except OSError as error:
        raise to_user_error(error, str(place)) from error


def to_user_error(error: OSError, place: str) -> SideStepError:
    """Return what a failure of the local file system at `place` means for the user, and what to do."""
    if isinstance(error.filename, str | bytes) and TEMPORARY not in os.fsdecode(error.filename):
        place = os.fsdecode(error.filename)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MissingInputError(
            f"{place} does not exist. Check the path; in a container, check what is mounted."
        )
    if isinstance(error, FileExistsError):
        return BadSpecError(f"{place} is a file, where a folder is needed. Name another place.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessError(
            f"{place}: the file system refuses access ({error.strerror}). Check its owner and mode."
        )
    if error.errno in NO_SPACE:
        return MachineError(
            f"{place}: no space is left on that disk. Free some, or name a place on another one; "
            "what is saved stays whole, and the same command goes on from there."
        )
    return StorageError(f"{place} cannot be used: {error.strerror or error}.")
