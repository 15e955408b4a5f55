"""Local files that are written only where none is, atomically, by what the disk offers for it.

Hard links are the best means, and exFAT, SMB, Google's and Amazon's buckets as folders have none. So the
next is tried where one is not offered. All three refuse to replace a file, whichever of them made it: writers
that use different ones keep each other out.
"""

import ctypes
import errno
import os
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from sidestep.runtime.atomic import sync, sync_entries, temporary_beside

NOT_OFFERED = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EXDEV)
"""How a disk says that it does not have an operation; one that joins several disks may say EXDEV.

Where access is refused, the next one is, too.
"""

PATIENCE = 5.0
"""Seconds that readers wait for a file that is there and not whole. Whoever takes longer has not made it."""

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


class Means(StrEnum):
    """What a file was created by, as plan says it."""

    LINK = "a hard link"
    RENAME = "a rename that does not replace"
    EXCLUSIVE = "O_EXCL, as this disk has neither hard links nor a rename that does not replace"


def create_file(target: Path, data: bytes, clock: Callable[[], float] = time.monotonic) -> Means | None:
    """Write `target` only if it is not there; return what it was created by, None where a file was there.

    A link and a rename show the whole content at once. With O_EXCL, readers may see a file that is empty, or
    cut short, and where the process is killed it stays so: they must know an end when they see it.

    `clock` counts seconds. Raises OSError; with O_EXCL, a file that is no whole one may be left then.
    """
    with temporary_beside(target) as temporary:
        temporary.write_bytes(data)
        sync(temporary)
        try:
            means = _give_name(temporary, target) or _write_exclusively(target, data, clock)
        except FileExistsError:
            return None
        sync_entries(target.parent)
        return means


def _give_name(temporary: Path, target: Path) -> Means | None:
    """Give the file the name `target`; None where the disk has no way to. Raises FileExistsError."""
    for means, give in ((Means.LINK, os.link), (Means.RENAME, _rename)):
        try:
            give(temporary, target)
            return means
        except OSError as error:
            if error.errno not in NOT_OFFERED:
                raise
    return None


def _rename(source: Path, target: Path) -> None:
    """Linux's renameat2, which Python does not have. Raises FileExistsError where `target` is there."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an older C library
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(target)) from None
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _write_exclusively(target: Path, data: bytes, clock: Callable[[], float]) -> Means:
    begun = clock()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.EIO, "only a part of it was written", str(target))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)  # some disks say only here that it failed
    except OSError as error:
        if error.errno == errno.ESTALE:  # gcsfuse: another machine's file came first
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise
    if clock() - begun >= PATIENCE:
        raise OSError(errno.ETIMEDOUT, "it took so long that others may have given it up", str(target))
    return Means.EXCLUSIVE
