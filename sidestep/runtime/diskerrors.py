"""What a failure of the local file system means for the user, and what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidestep.runtime.atomic import TEMPORARY
from sidestep.runtime.errors import (
    AccessError,
    BadDataError,
    MachineError,
    MissingInputError,
    SideStepError,
    StorageError,
)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK)
UNUSABLE_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ)


@contextmanager
def local_errors(place: Path | str) -> Iterator[None]:
    """Raise failures of the local file system as errors for the user, with what to do."""
    try:
        yield
    except OSError as error:
        raise to_user_error(error, str(place)) from error


def to_user_error(error: OSError, place: str) -> SideStepError:
    """Return what a failure of the local file system at `place` means for the user, and what to do.

    What stays as it is until somebody mends it is the input's fault, or a right that lacks; what the machine
    has too little of is the machine's; anything else may pass, as an I/O error or a stale mount does.
    """
    if isinstance(error.filename, str | bytes) and TEMPORARY not in os.fsdecode(error.filename):
        place = os.fsdecode(error.filename)
    if isinstance(error, FileNotFoundError):
        return MissingInputError(
            f"{place} does not exist. Check the path; in a container, check what is mounted."
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return BadDataError(
            f"{_no_folder_in(place)} is a file, where a folder is needed. Move it away, or name another "
            "place."
        )
    if isinstance(error, IsADirectoryError):
        return BadDataError(f"{place} is a folder, where a file is needed. Move it away.")
    if error.errno == errno.ELOOP:
        return BadDataError(
            f"{place} is a symbolic link that is not followed, or one that leads to itself. Put the file "
            "itself there."
        )
    if error.errno == errno.ENXIO:
        return BadDataError(f"{place} is a pipe or a device, where a file is needed. Move it away.")
    if error.errno in UNUSABLE_NAMES:
        return BadDataError(f"{place} cannot be a file's name here ({error.strerror}). Choose another name.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessError(
            f"{place}: the file system refuses access ({error.strerror}). Check its owner and mode."
        )
    if error.errno in NO_SPACE:
        return MachineError(
            f"{place}: no space is left on that disk. Free some (too many small files fill it as well), or "
            "name a place on another one; what is saved is intact, and the same command continues from there."
        )
    if error.errno in EXHAUSTED:
        return MachineError(f"{place}: this machine has reached a limit of its own ({error.strerror}).")
    return StorageError(f"{place} cannot be used: {error.strerror or error}.")


def _no_folder_in(place: str) -> str:
    """What in this path is no folder, though something is below it; the path itself where all are."""
    path = Path(place)
    return str(next((part for part in (*reversed(path.parents), path) if part.is_file()), path))
